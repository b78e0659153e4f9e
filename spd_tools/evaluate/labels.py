"""Which labels are judged: a component's own, and those that it is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spd_tools.annotations import Annotations, LabelRecord
from spd_tools.evaluate.draws import shuffled, state_of
from spd_tools.evaluate.origins import LabelOrigin, Origins
from spd_tools.evaluate.records import Judged
from spd_tools.interpret.top_tokens import top_tokens_label
from spd_tools.keys import ComponentKey
from spd_tools.llm import Ledger
from spd_tools.store.harvest import Harvest

FREQUENT = 0.05
"""Share of its firings from which on a token is frequent for a component."""
_TOGETHER = 2.0
"""Components that fire together more often than this many times what chance expects may follow the same rule."""
_FEW = 5
"""Joint firings that may be an accident."""
_TRIES = 256


@dataclass(frozen=True)
class JudgedLabel:
    """A label, and where it comes from."""

    judged: Judged
    text: str | None
    """None: there is no such label, and ``reason`` says why."""
    version: int | None = None
    """Of a component's own label."""
    of: ComponentKey | None = None
    """Whose it is, for "another"."""
    reason: str | None = None
    origin: LabelOrigin | None = None
    """Of a component's own label."""


class Labels:
    """The labels that components are judged by. One component's are read at a time."""

    def __init__(
        self, harvest: Harvest, notes: Annotations, ledger: Ledger, labelled: Iterable[str], seed: int
    ) -> None:
        """
        Args:
            harvest: of the components.
            notes: with their labels.
            ledger: of the run, which knows what the interpreter answered.
            labelled: keys of all components that have one.
            seed: of the choice of other components.
        """
        self._harvest = harvest
        self._notes = notes
        self._origins = Origins(harvest, notes, ledger)
        self._seed = seed
        self.of = lru_cache(maxsize=64)(self._of)
        """(key, judged) -> one of a component's labels; the last ones are kept, as a component has several scores."""
        known = [harvest.keys.flat(key) for key in labelled]
        self._labelled: NDArray[np.int64] = np.sort(np.array(known, np.int64))

    def _of(self, key: ComponentKey, judged: Judged) -> JudgedLabel:
        match judged:
            case "none":
                return JudgedLabel(judged, None)
            case "empty":
                return JudgedLabel(judged, "")
            case "label":
                return self._own(key)
            case "another":
                return self._another(key)
            case "top_tokens":
                return self._of_top_tokens(key)

    def _own(self, key: ComponentKey) -> JudgedLabel:
        label = self._label(key)
        if label is None:
            return JudgedLabel("label", None, reason=f"{key} has no label that is not rejected; interpret it first.")
        return JudgedLabel("label", label.input_view, version=label.version, origin=self._origins.of(label))

    def _another(self, key: ComponentKey) -> JudgedLabel:
        itself = self._harvest.keys.flat(key)
        for other in shuffled(state_of("another", self._seed, key), self._labelled, _TRIES).tolist():
            candidate = self._harvest.keys.key(other)
            if other != itself and share_no_rule(self._harvest, key, candidate):
                label = self._label(candidate)
                if label is not None:
                    return JudgedLabel("another", label.input_view, of=candidate)
        reason = f"No labelled component was found that shares no rule with {key}; label more components."
        return JudgedLabel("another", None, reason=reason)

    def _of_top_tokens(self, key: ComponentKey) -> JudgedLabel:
        label = top_tokens_label(self._harvest, key)
        if label is None:
            return JudgedLabel("top_tokens", None, reason=f"No token stands out among the firings of {key}.")
        return JudgedLabel("top_tokens", label.input_view)

    def _label(self, key: ComponentKey) -> LabelRecord | None:
        label = self._notes.label(key)
        return None if label is None or label.status == "rejected" else label


def share_no_rule(harvest: Harvest, key: ComponentKey, other: ComponentKey) -> bool:
    """Whether two components probably follow different rules.

    They do not where a token is frequent among the firings of both, or where they fire together more often than by
    chance.
    """
    if len(np.intersect1d(_frequent_tokens(harvest, key), _frequent_tokens(harvest, other))):
        return False
    counts, keys = harvest.firing_counts, harvest.keys
    expected = int(counts[keys.flat(key)]) * int(counts[keys.flat(other)]) / harvest.n_tokens
    return harvest.cooccurrence(key, other) <= max(_FEW, _TOGETHER * expected)


def _frequent_tokens(harvest: Harvest, key: ComponentKey) -> NDArray[np.int32]:
    tokens, counts = harvest.token_counts(key)
    return tokens[counts >= max(1.0, FREQUENT * int(harvest.firing_counts[harvest.keys.flat(key)]))]
