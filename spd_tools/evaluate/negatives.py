"""Windows in which a component is silent, verified in the log: true negatives of three kinds, and intruders."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from spd_tools.evaluate.draws import draw, state_of
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.windows import Firings
from spd_tools.keys import ComponentKey

NegativeKind = Literal["random", "same token", "co-firing"]
NEGATIVE_KINDS: tuple[NegativeKind, ...] = ("random", "same token", "co-firing")
SPARSE = 0.02
"""Below this density the whole window of a negative is silent; above, only its marked token is."""
LIKE_DENSITY = 2
"""Densities are alike where neither is more than this many times the other."""
_TRIES = 64
_PARTNERS = 16
_OTHERS = 16


@dataclass(eq=False)
class Shown:
    """What a component's trials have shown so far: no text twice, and no overlapping windows within a trial."""

    split: Split
    texts: set[int] = field(default_factory=set[int])
    places: list[int] = field(default_factory=list[int])
    """Flat positions of the current trial's marked tokens."""

    def overlaps(self, position: int) -> bool:
        """Whether its window holds the marked token of one in the current trial."""
        reach, seq_len = self.split.context, self.split.harvest.seq_len
        return any(abs(place - position) <= reach and place // seq_len == position // seq_len for place in self.places)

    def new(self, position: int) -> bool:
        """Whether the window around a position of a logged row may be shown in the current trial."""
        return not self.overlaps(position) and self._text(position) not in self.texts

    def add(self, position: int) -> None:
        """Show it."""
        self.places.append(position)
        self.texts.add(self._text(position))

    def _text(self, position: int) -> int:
        return int(self.split.texts_at(np.array([position]))[0])

    def first_new(self, positions: NDArray[np.int64]) -> int | None:
        """The first that may be shown, which it then is."""
        for position in positions.tolist():
            if self.new(position):
                self.add(position)
                return position
        return None


@dataclass(frozen=True, eq=False)
class Silence:
    """Where one component is silent, to draw from. The state of a draw is a hash of what it is for."""

    split: Split
    firings: Firings
    hidden: NDArray[np.uint64]
    """``Split.hidden_texts`` of the component."""
    scoring_firings: NDArray[np.int64]

    @cached_property
    def density(self) -> float:
        """Of the component in the harvest."""
        harvest = self.split.harvest
        return int(harvest.firing_counts[harvest.keys.flat(self.firings.key)]) / harvest.n_tokens

    @property
    def whole_windows(self) -> bool:
        """Whether negatives are silent from end to end."""
        return self.density < SPARSE

    def negative(self, kind: NegativeKind, state: int, shown: Shown) -> int | None:
        """Flat position of a negative's marked token, None where none was found in 64 draws."""
        candidates = {"random": self._random, "same token": self._same_token, "co-firing": self._cofiring}[kind](state)
        return shown.first_new(self._silent(candidates, self.whole_windows))

    def intruder(self, state: int, shown: Shown) -> tuple[ComponentKey, int] | None:
        """Another component and the flat position of a firing of it around which this one is silent.

        Of like density, if there is one: 16 are tried, then the 16 nearest in density.
        """
        for number, other in enumerate(self._others(state)):
            key = self.split.harvest.keys.key(other)
            candidates = self._firings_of(other, state_of(state, number))
            position = shown.first_new(self._silent(candidates, whole=True))
            if position is not None:
                return key, position
        return None

    def ratio(self, other: ComponentKey) -> float:
        """How many times denser another component is."""
        counts, keys = self.split.harvest.firing_counts, self.split.harvest.keys
        return int(counts[keys.flat(other)]) / int(counts[keys.flat(self.firings.key)])

    def _silent(self, candidates: NDArray[np.int64], whole: bool) -> NDArray[np.int64]:
        """Those that may be scored and at which (or around which) the component is silent."""
        candidates = candidates[self.split.usable(candidates, self.hidden)]
        if not whole:
            return candidates[self.firings.silent_at(candidates)]
        harvest, context = self.split.harvest, self.split.context
        row, position = np.divmod(candidates, harvest.seq_len)
        begin = row * harvest.seq_len + np.maximum(position - context, 0)
        end = row * harvest.seq_len + np.minimum(position + context + 1, harvest.row_lengths[row])
        return candidates[self.firings.silent_between(begin, end)]

    def _random(self, state: int) -> NDArray[np.int64]:
        positions = self.split.logged.positions
        return positions[draw(state, _TRIES, len(positions))] if len(positions) else positions

    def _same_token(self, state: int) -> NDArray[np.int64]:
        tokens = self._ambiguous_tokens
        if not len(tokens):
            return tokens
        positions = self.split.by_token.of(int(tokens[draw(state, 1, len(tokens))[0]]))
        return positions[draw(state_of(state, "position"), _TRIES, len(positions))]

    def _cofiring(self, state: int) -> NDArray[np.int64]:
        partners = self._partners
        if not len(partners):
            return partners
        return self._firings_of(int(partners[draw(state, 1, len(partners))[0]]), state_of(state, "position"))

    def _firings_of(self, other: int, state: int) -> NDArray[np.int64]:
        harvest = self.split.harvest
        position = harvest.activations(harvest.keys.key(other)).token
        return position[draw(state, _TRIES, len(position))] if len(position) else position

    @cached_property
    def _ambiguous_tokens(self) -> NDArray[np.int64]:
        """[n] tokens of its firings (as often as it fires on them) on which it is sometimes silent."""
        tokens = self.split.tokens_at(self.scoring_firings)
        distinct, place, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        return tokens[(self.split.by_token.counts(distinct) > counts)[place]]

    @cached_property
    def _partners(self) -> NDArray[np.int64]:
        """Components that fire together with it most, by Jaccard."""
        return self.split.harvest.pairs(self.firings.key).ranked("jaccard", _PARTNERS, weakest=False)

    def _others(self, state: int) -> list[int]:
        """Other components: up to 16 of like density, in the order of their draws, then the 16 nearest in density."""
        order, counts = self.split.by_count
        all_counts, itself = self.split.harvest.firing_counts, self.split.harvest.keys.flat(self.firings.key)
        own = int(all_counts[itself])
        low, high = np.searchsorted(counts, [-(-own // LIKE_DENSITY), LIKE_DENSITY * own + 1]).tolist()
        like = order[low + draw(state, _OTHERS, high - low)] if high > low else order[:0]
        beyond = np.concatenate([order[max(0, low - _OTHERS) : low], order[high : high + _OTHERS]])
        distance = np.abs(np.log(all_counts[beyond] / own))
        beyond = beyond[np.argsort(distance, kind="stable")[:_OTHERS]]
        return [other for other in dict.fromkeys([*like.tolist(), *beyond.tolist()]) if other != itself]
