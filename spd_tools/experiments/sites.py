"""Where experiments are done: positions in rows of the harvest, drawn without replacement."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.subject import Base, Subject
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest


@dataclass(frozen=True)
class Sites:
    """Some positions, by ascending row and position."""

    row: NDArray[np.int64]
    """[n] rows of the harvest."""
    position: NDArray[np.int64]
    """[n]"""

    def __len__(self) -> int:
        return len(self.row)

    def contexts(self, harvest: Harvest) -> NDArray[np.int64]:
        """[n, seq] a copy of the whole row of each, to be changed; what follows a position is left as it was."""
        return harvest.tokens()[self.row].astype(np.int64)


def sites(
    subject: Subject,
    key: ComponentKey,
    base: Base,
    n: int,
    rng: np.random.Generator,
    *,
    token: int | Collection[int] | None = None,
    first: int = 0,
) -> Sites:
    """A uniform sample of at most n positions.

    Args:
        subject: the harvest is used, not the model.
        key: the component that "firing" and "silent" are about.
        base: "random": any counted position; "firing": where the component fired; "silent": where it did not. All of
            them in logged rows, which are a uniform sample of rows, as far as the harvest has any.
        n: how many; fewer where there are fewer.
        rng: draws them.
        token: only positions of this token, or of one of these.
        first: only positions with a counted position this many tokens before them (room for what stands before).

    Raises:
        SpdToolsError: when there is none.
    """
    harvest = subject.harvest
    flat = _firings(harvest, key) if base == "firing" else _counted(harvest, base)
    if base == "silent":
        flat = np.setdiff1d(flat, harvest.activations(key).token, assume_unique=True)
    tokens = [token] if isinstance(token, int) else sorted(token or ())
    if tokens:
        flat = flat[np.isin(harvest.tokens().reshape(-1)[flat], tokens)]
    if first:
        flat = flat[flat % harvest.seq_len >= first]
        if harvest.excluded is not None:
            flat = flat[~harvest.excluded.reshape(-1)[flat - first]]
    if not len(flat):
        shown = " or ".join(repr(harvest.token_texts.shown(one)) for one in tokens)
        where = f" on the token {shown}" if shown else ""
        what = {"random": "position", "firing": f"firing of {key}", "silent": f"position without a firing of {key}"}
        room = f" with {first} tokens before it" if first else ""
        raise SpdToolsError(f"The harvest knows no {what[base]}{where}{room}; ask for another component or place.")
    picked = np.sort(rng.choice(flat, min(n, len(flat)), replace=False))
    row, position = np.divmod(picked, harvest.seq_len)
    return Sites(row, position)


def _firings(harvest: Harvest, key: ComponentKey) -> NDArray[np.int64]:
    """Row * seq + position of known firings: all in the logged rows, else the uniform examples."""
    logged = harvest.activations(key).token
    if len(logged):
        return np.asarray(logged)
    stored = harvest.stored_examples(key, "uniform")
    return np.sort(np.asarray(stored.row, np.int64) * harvest.seq_len + stored.position)


def _counted(harvest: Harvest, base: Base) -> NDArray[np.int64]:
    """Row * seq + position of what was counted (neither padding nor excluded) in the logged rows."""
    rows = np.asarray(harvest.logged_rows)
    if not len(rows) and base == "random":
        rows = np.arange(harvest.n_rows)
    at, position = np.nonzero(harvest.counted(rows))
    return rows[at] * harvest.seq_len + position
