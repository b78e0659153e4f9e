"""Which windows a component's trials get. Trial t depends on seed, component, score and the trials before it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from spd_tools.evaluate.draws import shuffled, state_of
from spd_tools.evaluate.negatives import LIKE_DENSITY, NEGATIVE_KINDS, SPARSE, NegativeKind, Shown, Silence
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.windows import Firings, Window
from spd_tools.keys import ComponentKey
from spd_tools.wording import roughly

HALF = 5
"""Windows of each truth in a trial of "detection" and "fuzzing"."""
OWN = 4
"""Windows of the component itself in a trial of "intruder"."""
LEVELS = 10
DECILES = (9, 4, 0, 7, 2, 5, 8, 1, 6, 3)
"""In which order a simulation takes them: the first few are already spread over the range."""
_MOST_FIRINGS = 4096
_MOST_REFUSALS = 256

Found = TypeVar("Found")


class Shortage(Exception):
    """There is no material for another trial; says which is missing, as a clause."""


@dataclass(frozen=True)
class Slip:
    """A window of a trial."""

    window: Window
    marks: list[int]
    truth: bool
    negative_kind: NegativeKind | None = None


@dataclass(frozen=True)
class Hand:
    """What a trial is made of."""

    slips: list[Slip]
    notes: list[str] = field(default_factory=list[str])
    levels: list[float | None] = field(default_factory=list[float | None])
    decile: int | None = None


class Queue:
    """Firings in the order in which trials take them."""

    def __init__(self, positions: NDArray[np.int64], shown: Shown) -> None:
        self._left = deque(positions.tolist())
        self._shown = shown

    def take(self, use: Callable[[int], Found | None]) -> Found | None:
        """What ``use`` makes of the first firing that it can use; those that it cannot are gone.

        Firings whose windows overlap with one in the current trial wait for later trials.
        """
        waiting: list[int] = []
        found = None
        refusals = 0
        while found is None and self._left and refusals < _MOST_REFUSALS:
            position = self._left.popleft()
            if self._shown.overlaps(position):
                waiting.append(position)
            else:
                found = use(position)
                refusals += found is None
        self._left.extendleft(reversed(waiting))
        return found


class Dealing:
    """Deals the windows of one component for one score, trial after trial (0, 1, ...)."""

    def __init__(
        self, split: Split, key: ComponentKey, score: str, seed: int, seen: NDArray[np.int64] | None = None
    ) -> None:
        """``seen``: rows that are kept out, see ``Split.hidden_texts``."""
        self._split = split
        self._firings = Firings(split.harvest, key)
        self._purpose = (seed, key, score)
        self._shown = Shown(split)
        self._hidden = split.hidden_texts(key, seen)
        self._keeps_out = seen is not None and len(seen) > 0
        self._scoring = self._firings.position[split.usable(self._firings.position, self._hidden)]
        self._silence = Silence(split, self._firings, self._hidden, self._scoring)
        self._drawn = shuffled(self._state("firings"), self._scoring, _MOST_FIRINGS)
        self._queue = Queue(self._drawn, self._shown)

    def detection(self, trial: int) -> Hand:
        """5 windows with a firing marked and 5 with a token at which the component is silent.

        Raises:
            Shortage: when there are no more.
        """
        self._shown.places.clear()
        slips = [Slip(window, [window.marked], True) for window in self._own(HALF)]
        slips += [self._negative(trial, number) for number in range(HALF)]
        density = self._silence.density
        notes = [] if self._silence.whole_windows else [_dense(density)]
        return Hand(self._mixed(trial, slips), notes)

    def fuzzing(self, trial: int) -> Hand:
        """5 windows with all firings marked, and 5 with as many silent tokens marked.

        Each is a window around a marked token, so that where marks stand tells nothing.

        Raises:
            Shortage: when there are no more.
        """
        self._shown.places.clear()
        slips = [self._take(self._rightly_marked) for _ in range(HALF)]
        slips += [self._take(self._wrongly_marked) for _ in range(HALF)]
        return Hand(self._mixed(trial, slips))

    def intruder(self, trial: int) -> Hand:
        """4 windows of the component and 1 of another one of like density, around which this one is silent.

        Raises:
            Shortage: when there are no more.
        """
        self._shown.places.clear()
        slips = [Slip(window, window.firing_places, False) for window in self._own(OWN)]
        found = self._silence.intruder(self._state("intruder", trial), self._shown)
        if found is None:
            raise Shortage("no other component fires where this one stays silent for a whole window")
        other, position = found
        window = Firings(self._split.harvest, other).window(position, self._split.context)
        ratio = self._silence.ratio(other)
        alike = 1 / LIKE_DENSITY <= ratio <= LIKE_DENSITY
        notes = [] if alike else [f"The intruder {other} is {roughly(ratio)} times as dense as the component."]
        return Hand(self._mixed(trial, [*slips, Slip(window, window.firing_places, True)]), notes)

    def simulation(self, trial: int) -> Hand:
        """A window around a firing of one decile of |ranking activation|.

        Raises:
            Shortage: when there are no more.
        """
        self._shown.places.clear()
        wanted = DECILES[trial % len(DECILES)]
        for decile in sorted(range(len(DECILES)), key=lambda decile: (abs(decile - wanted), decile)):
            window = self._deciles[decile].take(self._window)
            if window is not None:
                notes = [] if decile == wanted else [f"Decile {wanted} has no more windows; decile {decile} stands in."]
                return Hand([Slip(window, [], True)], notes, self._levels(window), decile)
        raise Shortage(self._too_few)

    # --- parts --------------------------------------------------------------------------------------------------

    def _state(self, *purpose: object) -> int:
        return state_of(*self._purpose, *purpose)

    @property
    def _too_few(self) -> str:
        rows = "scoring rows" + " that the label's author need not have seen" * self._keeps_out
        return f"the log's {rows} hold {len(self._scoring):,} of its firings, and trials share no window"

    def _take(self, use: Callable[[int], Found | None]) -> Found:
        found = self._queue.take(use)
        if found is None:
            raise Shortage(self._too_few)
        return found

    def _own(self, n: int) -> list[Window]:
        return [self._take(self._window) for _ in range(n)]

    def _window(self, position: int) -> Window | None:
        if not self._shown.new(position):
            return None
        self._shown.add(position)
        return self._firings.window(position, self._split.context)

    def _negative(self, trial: int, number: int) -> Slip:
        """Kinds take turns; where one has nothing to offer, the next one stands in."""
        for turn in range(len(NEGATIVE_KINDS)):
            kind = NEGATIVE_KINDS[(trial * HALF + number + turn) % len(NEGATIVE_KINDS)]
            position = self._silence.negative(kind, self._state("negative", trial, number, kind), self._shown)
            if position is not None:
                window = self._firings.window(position, self._split.context)
                return Slip(window, [window.marked], False, kind)
        where = "for a whole window" if self._silence.whole_windows else "at the marked token"
        raise Shortage(f"too few windows of the log's scoring rows were found in which it stays silent {where}")

    def _rightly_marked(self, position: int) -> Slip | None:
        window = self._firings.window(position, self._split.context)
        if not self._shown.new(position) or len(window.silent_places) < len(window.firing_places):
            return None
        self._shown.add(position)
        return Slip(window, window.firing_places, True)

    def _wrongly_marked(self, position: int) -> Slip | None:
        """A window around a silent token near a firing, with as many silent tokens marked as it has firings."""
        near = self._firings.window(position, self._split.context)
        first = position - near.marked
        silent = first + np.array(near.silent_places, np.int64)
        silent = shuffled(self._state("near", position), silent[self._split.usable(silent, self._hidden)])
        for middle in silent.tolist():
            window = self._firings.window(middle, self._split.context)
            others = np.array([place for place in window.silent_places if place != window.marked], np.int64)
            n_others = len(window.firing_places) - 1
            if self._shown.new(middle) and len(others) >= n_others:
                self._shown.add(middle)
                marks = shuffled(self._state("marks", middle), others)[:n_others].tolist()
                return Slip(window, sorted([window.marked, *marks]), False)
        return None

    def _mixed(self, trial: int, slips: list[Slip]) -> list[Slip]:
        order = shuffled(self._state("order", trial), np.arange(len(slips)))
        return [slips[number] for number in order.tolist()]

    @cached_property
    def _deciles(self) -> list[Queue]:
        at = np.searchsorted(self._firings.position, self._drawn)
        order = np.argsort(np.abs(self._firings.ranking[at]), kind="stable")
        decile = np.empty(len(order), np.int64)
        decile[order] = np.arange(len(order)) * len(DECILES) // max(1, len(order))
        return [Queue(self._drawn[decile == number], self._shown) for number in range(len(DECILES))]

    @cached_property
    def _effective_max(self) -> float:
        most = self._split.harvest.component(self._firings.key).effective_max
        if not most:
            raise Shortage("its ranking activation is 0 at every logged firing")
        return most

    def _levels(self, window: Window) -> list[float | None]:
        most = self._effective_max
        return [
            None if fires is None else min(float(LEVELS), LEVELS * abs(value or 0.0) / most) if fires else 0.0
            for fires, value in zip(window.fires, window.activations, strict=True)
        ]


def _dense(density: float) -> str:
    return (
        f"The component fires on {density:.1%} of tokens, not below {SPARSE:.0%}: of the negatives the marked token is "
        "silent, not the whole window."
    )
