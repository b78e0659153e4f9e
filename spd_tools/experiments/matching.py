"""Controls that are like what is tested in all but the tested: tokens of like frequency, components of like density."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

_POOL = 4  # controls are drawn from this many times as many nearest neighbours
_CONTROL_POOL = 8  # a candidate's controls vary from context to context among this many tokens


def matched_tokens(
    harvest: Harvest, token: int, k: int, rng: np.random.Generator, exclude: Collection[int] = ()
) -> NDArray[np.int64]:
    """k distinct tokens of the harvest of like frequency, drawn from the 4 k nearest in log count.

    Args:
        harvest: where they are counted.
        token: what they are like; never among them.
        k: how many.
        rng: draws them.
        exclude: tokens that must not be among them.

    Raises:
        SpdToolsError: when the harvest has fewer.
    """
    counts = np.asarray(harvest.vocabulary("input"))
    usable = counts > 0
    usable[[token, *exclude]] = False
    chosen = _nearest(np.flatnonzero(usable), counts, max(int(counts[token]), 1), k, rng)
    if len(chosen) < k:
        raise SpdToolsError(f"The harvest has only {len(chosen)} tokens to compare with, not {k}; ask for fewer.")
    return chosen


@dataclass(frozen=True)
class ControlTokens:
    """Tokens to put in instead of candidates. Candidates of like frequency share theirs, which saves runs."""

    group: list[int]
    """Along the candidates: which group's controls are theirs."""
    pools: list[NDArray[np.int64]]
    """Group -> distinct tokens of like frequency, no candidate among them."""
    k: int
    """Controls per context."""
    rng: np.random.Generator

    @classmethod
    def like(cls, harvest: Harvest, candidates: Sequence[int], k: int, rng: np.random.Generator) -> ControlTokens:
        """Candidates whose counts differ by less than a factor of two are a group.

        Raises:
            SpdToolsError: when the harvest has fewer than k other tokens.
        """
        counts = np.asarray(harvest.vocabulary("input"))
        others = int(np.count_nonzero(counts)) - int(np.count_nonzero(counts[list(candidates)]))
        size = max(k, min(_CONTROL_POOL, others))
        ordered = sorted(range(len(candidates)), key=lambda at: (counts[candidates[at]], at))
        groups: list[list[int]] = []
        for at in ordered:
            if groups and counts[candidates[at]] < 2 * max(1, counts[candidates[groups[-1][0]]]):
                groups[-1].append(at)
            else:
                groups.append([at])
        number = {at: group for group, members in enumerate(groups) for at in members}
        middles = [candidates[members[len(members) // 2]] for members in groups]
        return cls(
            group=[number[at] for at in range(len(candidates))],
            pools=[matched_tokens(harvest, middle, size, rng, exclude=candidates) for middle in middles],
            k=k,
            rng=rng,
        )

    def draw(self, n: int) -> NDArray[np.int64]:
        """[n, groups * k] for n contexts, group by group; k distinct ones of the group's pool in every context."""
        return np.concatenate([self.rng.permuted(np.tile(pool, (n, 1)), axis=1)[:, : self.k] for pool in self.pools], 1)


def matched_components(
    harvest: Harvest, key: str | ComponentKey, k: int, rng: np.random.Generator, exclude: Collection[ComponentKey] = ()
) -> list[ComponentKey]:
    """k distinct components of like density, drawn from the 4 k nearest in log firing count.

    Args:
        harvest: where they are counted.
        key: what they are like; never among them.
        k: how many.
        rng: draws them.
        exclude: components that must not be among them.

    Raises:
        SpdToolsError: when fewer components fire at all.
    """
    counts = harvest.firing_counts
    own = harvest.keys.flat(key)
    usable = counts > 0
    usable[[own, *(harvest.keys.flat(other) for other in exclude)]] = False
    chosen = _nearest(np.flatnonzero(usable), counts, max(int(counts[own]), 1), k, rng)
    if len(chosen) < k:
        raise SpdToolsError(f"Only {len(chosen)} other components fire in this harvest, not {k}; ask for fewer.")
    return [harvest.keys.key(int(flat)) for flat in chosen]


def _nearest(
    usable: NDArray[np.int64], counts: NDArray[np.int64], count: int, k: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    distance = np.abs(np.log(counts[usable]) - np.log(count))
    pool = usable[np.argsort(distance, kind="stable")[: _POOL * k]]
    return np.sort(rng.choice(pool, min(k, len(pool)), replace=False))
