"""Who wrote a label, and which rows of the harvest they may have seen: those are kept out of its scores.

The interpreter sees texts of the labelling half only. Anybody else (a person, an agent) may have looked at whatever
there is: at a component's stored examples, which ``overview`` and ``examples`` show whole rows around, and at the rows
that experiments on it were done on, as far as their results name them. What else somebody looked at, nobody knows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from spd_tools.annotations import Annotations, LabelRecord
from spd_tools.interpret.labeller import PURPOSE, Interpretation
from spd_tools.interpret.provenance import provenance_of
from spd_tools.interpret.top_tokens import AUTHOR, top_tokens_label
from spd_tools.keys import ComponentKey
from spd_tools.llm import Ledger
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import EXAMPLE_KINDS
from spd_tools.wording import plural

_BY_HAND = "it was not written by interpret"
_ELSEWHERE = "it was made from another harvest"
_NO_CALL = "the ledger holds no call that it is the answer to"
_REWORDED = "its words are not those that its notes say it comes from"
_ROW = re.compile(r"row:(\d{1,18})(?::\d{1,18})?", re.ASCII)
"""How experiments name a row of the harvest, or a place in one."""


@dataclass(frozen=True)
class LabelOrigin:
    """Where a label comes from, as far as that decides what it may be scored on."""

    author: str
    blind: bool
    """Whether it was made from texts of labelling rows only (or of none), as ledger and harvest show."""
    reason: str | None
    """Why it is not known to be; a clause. None where it is."""
    rows: tuple[int, ...]
    """Rows of the harvest that stored results about the component name; kept out of scoring, like those of its stored
    examples. None of either where the label is blind."""

    def note(self, key: ComponentKey) -> str | None:
        """What a score has to say about it; None where the label is blind."""
        if self.blind:
            return None
        named = f" and {plural(len(self.rows), 'row')} named by experiments" if self.rows else ""
        return (
            f"Label by {self.author}: not blind to the data set ({self.reason}); the rows of the stored examples of "
            f"{key}{named} were kept out. Other rows, and token statistics of all rows, may have been seen."
        )


class Origins:
    """Where the labels of a harvest's run come from."""

    def __init__(self, harvest: Harvest, notes: Annotations, ledger: Ledger) -> None:
        self._harvest = harvest
        self._notes = notes
        self._ledger = ledger

    def of(self, label: LabelRecord) -> LabelOrigin:
        """Where a label comes from. What its notes say counts only where ledger or harvest bear it out."""
        reason = self._doubt(label)
        rows = () if reason is None else self._named_rows(label)
        return LabelOrigin(author=label.author, blind=reason is None, reason=reason, rows=rows)

    def _doubt(self, label: LabelRecord) -> str | None:
        """Why the label may have been made from scoring rows."""
        said = provenance_of(label)
        if said is None:
            return _BY_HAND
        if said.harvest_id != self._harvest.harvest_id:
            return _ELSEWHERE
        if said.call is None:
            listed = top_tokens_label(self._harvest, label.key) if said.asked == AUTHOR else None
            return None if listed is not None and listed.input_view == label.input_view else _REWORDED
        call = self._ledger.call(said.call)
        if call is None or (call.purpose, call.tag, call.served) != (PURPOSE, str(label.key), label.author):
            return _NO_CALL
        return None if _input_view(call.answer) == label.input_view else _REWORDED

    def _named_rows(self, label: LabelRecord) -> tuple[int, ...]:
        """Rows that results about the component name which are older than the label, or cited by it."""
        rows: set[int] = set()
        for summary in self._notes.list_evidence(label.key, limit=None):
            seen = summary.created <= label.created or summary.id in label.evidence
            # Another harvest numbers its rows differently.
            if seen and summary.harvest_id == self._harvest.harvest_id:
                rows |= named_rows(self._notes.evidence(summary.id).document)
        return tuple(sorted(row for row in rows if row < self._harvest.n_rows))


def seen_rows(harvest: Harvest, key: ComponentKey, origin: LabelOrigin | None) -> NDArray[np.int64]:
    """[n] rows, ascending, that are kept out of a component's trials because of where its label comes from.

    Args:
        harvest: whose rows.
        key: the component.
        origin: of its label; None where no label is judged.
    """
    if origin is None or origin.blind:
        return np.empty(0, np.int64)
    stored = [harvest.stored_examples(key, kind).row for kind in EXAMPLE_KINDS]
    return np.unique(np.concatenate([*stored, np.array(origin.rows, np.int64)]))


def named_rows(document: str) -> set[int]:
    """Rows that the JSON of a result names: "row:12", or "row:12:5" for a place."""
    found = (_ROW.fullmatch(text) for text in _texts(json.loads(document)))
    return {int(match[1]) for match in found if match is not None}


def _texts(document: Any) -> Iterator[str]:
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)


def _input_view(answer: str | None) -> str | None:
    """What a stored answer of the interpreter says; None where it is none."""
    try:
        return None if answer is None else Interpretation.model_validate_json(answer).input_view
    except ValidationError:
        return None
