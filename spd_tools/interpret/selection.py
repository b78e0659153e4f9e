"""Which components are to be labelled, and what is said about them already."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from spd_tools.annotations import Annotations, LabelRecord
from spd_tools.errors import SpdToolsError
from spd_tools.interpret.labeller import UNCLEAR
from spd_tools.interpret.provenance import Provenance, provenance_of
from spd_tools.interpret.top_tokens import AUTHOR
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.scores import at_least, chosen
from spd_tools.suggest import did_you_mean

Order = Literal["density", "index"]
"""Densest first, or layer by layer."""
ORDERS: tuple[Order, ...] = get_args(Order)


def choose(
    harvest: Harvest,
    *,
    keys: Sequence[str | ComponentKey] | None = None,
    layer: str | None = None,
    order: Order = "density",
    limit: int | None = None,
) -> NDArray[np.int64]:
    """Flat indices of components that fired at least once, in order.

    Args:
        harvest: whose components.
        keys: only these, in this order.
        layer: only those of a layer, or of layers whose names match a pattern with * and ?.
        order: of the components when no keys are given; ties by index.
        limit: the first so many.

    Raises:
        SpdToolsError: for an unknown component, layer or order, or a limit below 1.
    """
    chosen(order, ORDERS, "order of components")
    if limit is not None:
        at_least(limit, 1, "The number of components")
    counts = harvest.firing_counts
    if keys is not None:
        found = np.array(list(dict.fromkeys(map(harvest.keys.flat, keys))), np.int64)
    elif order == "density":
        found = np.argsort(-counts, kind="stable")
    else:
        found = np.arange(len(counts))
    found = found[_in_layers(harvest, layer)[found] & (counts[found] > 0)]
    return found[:limit]


def _in_layers(harvest: Harvest, pattern: str | None) -> NDArray[np.bool_]:
    if pattern is None:
        return np.ones(len(harvest.keys), np.bool_)
    names = list(harvest.keys.layers)
    matching = [name for name in names if fnmatchcase(name, pattern)]
    if not matching:
        raise SpdToolsError(f"There is no layer {pattern!r}; {did_you_mean(pattern, names, 'layers')}")
    keep = np.zeros(len(harvest.keys), np.bool_)
    for name in matching:
        keep[harvest.keys.span(name)] = True
    return keep


class Earlier:
    """Labels that are there already, seen by one labeller: a model (or none) with a prompt."""

    def __init__(self, notes: Annotations, asked: str, prompt: str | None) -> None:
        self._notes = notes
        self._labeller = (asked, prompt)
        self.label_of = lru_cache(maxsize=4096)(self._label_of)
        """A component's newest label in a few words, except for what this labeller or the baseline said; None for none.

        The labeller's own labels are left out so that a question does not depend on which ones were answered before it:
        after an interruption the same questions are asked again, and those that were paid for are in the ledger.
        """

    def own(self, history: Sequence[LabelRecord]) -> list[tuple[LabelRecord, Provenance]]:
        """Those versions of a label that this labeller wrote."""
        traced = [(label, provenance_of(label)) for label in history]
        return [(label, origin) for label, origin in traced if origin is not None and self._is_own(origin)]

    def _is_own(self, origin: Provenance) -> bool:
        return (origin.asked, origin.prompt) == self._labeller

    def _label_of(self, key: ComponentKey) -> str | None:
        for label in reversed(self._notes.label_history(key)):
            origin = provenance_of(label)
            if origin is not None and (self._is_own(origin) or origin.asked == AUTHOR):
                continue
            if label.status == "rejected" or label.category == UNCLEAR:
                return None
            return label.input_view if origin is None else origin.label
        return None
