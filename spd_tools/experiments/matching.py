"""Controls that are like what is tested in all but the tested: tokens of like frequency, components of like density."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import LEAST_CONTROLS, Ratio
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.wording import roughly

LIKE = 2.0
"""Counts that differ by at most this factor are alike. Controls are drawn from all that are, and beyond them only where
there are too few."""

Items = TypeVar("Items", NDArray[np.int64], "list[ComponentKey]")


@dataclass(frozen=True)
class Matched(Generic[Items]):
    """Controls, in ascending order, and how far they lie from what they stand beside."""

    items: Items
    """[k] token ids, or keys of components; all different."""
    ratio: Ratio


def matched_tokens(
    harvest: Harvest, token: int, k: int, rng: np.random.Generator, exclude: Collection[int] = ()
) -> Matched[NDArray[np.int64]]:
    """k distinct tokens of the harvest, drawn from all that are at most twice and at least half as frequent.

    Where those are fewer than k, all of them and the nearest ones beyond (in log count).

    Args:
        harvest: where they are counted.
        token: what they are like; never among them.
        k: how many, at least 1.
        rng: draws them.
        exclude: tokens that must not be among them.

    Raises:
        SpdToolsError: when the harvest has fewer.
    """
    counts = np.asarray(harvest.vocabulary("input"))
    found = _matched(counts, [token], k, rng, [token, *exclude])
    if len(found.items) < k:
        raise SpdToolsError(f"The harvest has only {len(found.items)} tokens to compare with, not {k}; ask for fewer.")
    return found


def matched_components(
    harvest: Harvest, key: str | ComponentKey, k: int, rng: np.random.Generator, exclude: Collection[ComponentKey] = ()
) -> Matched[list[ComponentKey]]:
    """k distinct components that fire, drawn from all that fire at most twice and at least half as often.

    Where those are fewer than k, all of them and the nearest ones beyond (in log firing count).

    Args:
        harvest: where they are counted.
        key: what they are like; never among them.
        k: how many, at least 1.
        rng: draws them.
        exclude: components that must not be among them.

    Raises:
        SpdToolsError: when fewer components fire at all.
    """
    keys = harvest.keys
    found = _matched(
        harvest.firing_counts, [keys.flat(key)], k, rng, [keys.flat(key), *(keys.flat(other) for other in exclude)]
    )
    if len(found.items) < k:
        raise SpdToolsError(f"Only {len(found.items)} other components fire in this harvest, not {k}; ask for fewer.")
    return Matched([keys.key(int(flat)) for flat in found.items], found.ratio)


@dataclass(frozen=True)
class ControlTokens:
    """Tokens to put in instead of candidates, the same in every context. Candidates of like frequency share theirs."""

    group: list[int]
    """Along the candidates: which group's controls are theirs."""
    tokens: list[NDArray[np.int64]]
    """Group -> [k] distinct tokens of like frequency, no candidate among them."""
    ratio: Ratio
    """Over all candidates and the controls of each."""

    @property
    def k(self) -> int:
        """Control tokens per group."""
        return len(self.tokens[0])

    @classmethod
    def like(cls, harvest: Harvest, candidates: Sequence[int], k: int, rng: np.random.Generator) -> ControlTokens:
        """k tokens for every group of candidates whose counts differ by less than a factor of two.

        Fewer than k where the harvest has no more tokens.

        Args:
            harvest: where tokens are counted.
            candidates: token ids, at least one.
            k: controls per group, at least LEAST_CONTROLS.
            rng: draws them.

        Raises:
            SpdToolsError: when fewer than LEAST_CONTROLS are asked for, or the harvest has fewer.
        """
        enough_controls(k, "n_controls")
        counts = np.asarray(harvest.vocabulary("input"))
        groups = _groups(counts, candidates)
        number = {at: group for group, members in enumerate(groups) for at in members}
        found = [_matched(counts, [candidates[at] for at in members], k, rng, candidates) for members in groups]
        have = len(found[0].items)
        if have < LEAST_CONTROLS:
            raise SpdToolsError(
                f"The harvest has only {have} tokens to compare with, and with fewer than {LEAST_CONTROLS} no p-value "
                "reaches 0.05; harvest more text, or try fewer tokens at once."
            )
        return cls(
            group=[number[at] for at in range(len(candidates))],
            tokens=[matched.items for matched in found],
            ratio=Ratio(
                low=min(matched.ratio.low for matched in found), high=max(matched.ratio.high for matched in found)
            ),
        )


def enough_controls(k: int, name: str) -> None:
    """Refuse a number of controls with which no p-value could reach 0.05.

    Raises:
        SpdToolsError: for fewer than LEAST_CONTROLS; ``name`` is that of the parameter.
    """
    if k < LEAST_CONTROLS:
        raise SpdToolsError(
            f"Among {k} controls no p-value reaches 0.05, as it is a rank; ask for {name} of at least {LEAST_CONTROLS}."
        )


def unlike_said(ratio: Ratio | None, what: str) -> str:
    """A clause for a summary where controls are not alike; empty where they are, or where there are none.

    Args:
        ratio: that was reached.
        what: they should be alike in: "frequency", "density".
    """
    if ratio is None or (ratio.low >= 1 / LIKE and ratio.high <= LIKE):
        return ""
    return f"controls of {roughly(ratio.low)} to {roughly(ratio.high)} times its {what}: none nearer were left"


def _groups(counts: NDArray[np.int64], candidates: Sequence[int]) -> list[list[int]]:
    """Places in ``candidates``, group by group, from the rarest."""
    groups: list[list[int]] = []
    for at in sorted(range(len(candidates)), key=lambda at: (counts[candidates[at]], at)):
        if groups and counts[candidates[at]] < LIKE * max(1, counts[candidates[groups[-1][0]]]):
            groups[-1].append(at)
        else:
            groups.append([at])
    return groups


def _matched(
    counts: NDArray[np.int64], beside: Sequence[int], k: int, rng: np.random.Generator, exclude: Collection[int]
) -> Matched[NDArray[np.int64]]:
    """At most k of all with a count, as many as there are; distance: from the farthest of what they stand beside."""
    usable = counts > 0
    usable[list(exclude)] = False
    those = np.flatnonzero(usable)
    own = np.maximum(counts[list(beside)], 1)
    ratios = counts[those, None] / own
    distance = np.abs(np.log(ratios)).max(1)
    alike = distance <= np.log(LIKE) + 1e-9
    if np.count_nonzero(alike) >= k:
        chosen = np.sort(rng.choice(np.flatnonzero(alike), k, replace=False))
    else:
        # Of several that are equally far the choice is random, not that of the smaller id.
        chosen = np.sort(np.lexsort((rng.random(len(those)), distance))[:k])
    reached = ratios[chosen]
    ratio = Ratio(low=float(reached.min(initial=np.inf)), high=float(reached.max(initial=0)))
    return Matched(those[chosen].astype(np.int64), ratio)
