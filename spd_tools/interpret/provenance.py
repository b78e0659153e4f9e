"""Where a label came from: the last line of its notes, so that it travels with the label wherever that is exported."""

from __future__ import annotations

import json
from typing import Literal

from pydantic import ValidationError

from spd_tools.annotations import LabelRecord
from spd_tools.interpret.evidence import SOURCES
from spd_tools.store.records import Record

_MARK = "interpret: "

Verdict = Literal["clear", "partial", "unclear"]
"""Whether the label says when the component fires: yes; in part, there are firings that it does not cover; no."""


class Provenance(Record):
    """How a label was made."""

    asked: str
    """The model that was asked (the label's author is the one that answered), or the labeller without a model."""
    prompt: str | None
    """Name of the template; None without a model."""
    harvest_id: str
    call: str | None
    """Hash of the call in the ledger; None without a model."""
    label: str
    """In a few words."""
    verdict: Verdict | None
    """None without a model."""
    evidence: str = SOURCES
    """What it was made of."""

    def notes(self, text: str) -> str:
        """The notes of a label: a text, and this."""
        line = json.dumps(self.model_dump(mode="json"), ensure_ascii=False, separators=(", ", ": "))
        return f"{text}\n\n{_MARK}{line}"


def provenance_of(label: LabelRecord) -> Provenance | None:
    """How a label was made; None for one that no labeller of this package made."""
    last = label.notes.rpartition("\n")[2]
    if not last.startswith(_MARK):
        return None
    try:
        return Provenance.model_validate_json(last.removeprefix(_MARK))
    except ValidationError:  # somebody's own words
        return None


def reasoning_of(label: LabelRecord) -> str:
    """What stands in the notes of a label before its provenance."""
    return label.notes.rpartition("\n")[0].rstrip("\n")
