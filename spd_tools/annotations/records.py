"""What people and models say about components, as it is handed in and as it is read back."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, field_validator

from spd_tools.errors import SpdToolsError
from spd_tools.store.records import KeyField, Record

if TYPE_CHECKING:
    from spd_tools.experiments.records import Result

HypothesisStatus = Literal["open", "supported", "rejected"]
LabelStatus = Literal["draft", "supported", "rejected"]
OutputEffect = Literal["raises", "lowers", "mixed", "none", "unknown"]
"""What the component does to the logits of the tokens that its output view names."""
MAX_TEXT = 20_000
"""Characters in any text that somebody writes."""
MAX_NAME = 200
"""Characters in a name: an author, a category, an idempotency key."""


class LabelDraft(Record):
    """A label as somebody hands it in. ``LabelDraft.of`` says in one sentence what does not fit."""

    input_view: str = Field(min_length=1, max_length=MAX_TEXT, description="when it fires")
    output_view: str = Field(default="", max_length=MAX_TEXT, description="what it does to the model's predictions")
    output_effect: OutputEffect = Field(
        default="unknown", description="what it does to the logits of the tokens in the output view"
    )
    category: str = Field(default="", max_length=MAX_NAME, description="kind of component, in a word or two")
    confidence: float | None = Field(default=None, ge=0, le=1, description="that the label is right")
    notes: str = Field(default="", max_length=MAX_TEXT, description="what is worth remembering")
    ruled_out: list[str] = Field(default=[], max_length=100, description="what else it might have been, and is not")
    evidence: list[str] = Field(default=[], max_length=1000, description="ids of the results that it rests on")
    wants: LabelStatus = Field(default="draft", description="status that it should get")

    @field_validator("*")
    @classmethod
    def _is_unicode(cls, value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and any("\ud800" <= char <= "\udfff" for char in text):
                raise ValueError("it holds half of a surrogate pair, which is no character")
        return value

    @field_validator("input_view")
    @classmethod
    def _says_something(cls, text: str) -> str:
        if not text.strip():
            raise ValueError("it is blank")
        return text

    @field_validator("ruled_out")
    @classmethod
    def _not_too_long(cls, texts: list[str]) -> list[str]:
        if sum(map(len, texts)) > MAX_TEXT:
            raise ValueError(f"it has more than {MAX_TEXT:,} characters")
        return texts

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> LabelDraft:
        """A draft from what somebody typed.

        Raises:
            SpdToolsError: naming the first field that does not fit.
        """
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(str(part)[:MAX_NAME] for part in first["loc"])
            raise SpdToolsError(f"The label's {where!r} does not fit ({first['msg']}); correct it.") from None


class _Written(Record):
    created: str
    """UTC, ISO 8601."""
    author: str


class LabelRecord(_Written):
    """One version of a component's label."""

    id: str
    key: KeyField
    version: int
    """1, 2, ... of this component, in the order of ``created``."""
    status: LabelStatus
    input_view: str
    output_view: str
    output_effect: OutputEffect
    category: str
    confidence: float | None
    notes: str
    ruled_out: list[str]
    evidence: list[str]
    """Ids."""
    wants: LabelStatus
    """The status that was asked for."""
    missing: list[str]
    """What it needed, when it was written, to be supported; empty for a supported and for a rejected one."""


class LabelDecision(Record):
    """What became of a label that was handed in."""

    label: LabelRecord

    @property
    def missing(self) -> list[str]:
        """What to do before it can be supported; empty when it is."""
        return self.label.missing


class Hypothesis(_Written):
    """One version of a hypothesis; ``created`` and ``author`` are those of the version."""

    id: str
    version: int
    key: KeyField
    text: str
    status: HypothesisStatus
    confidence: float
    note: str | None
    """Why this version differs from the one before."""
    evidence: list[str]
    """Ids: those of earlier versions, and what this one adds."""


class MainNumber(Record):
    """The effect that a result found, or that of its control, with its 95 % interval."""

    value: float
    low: float | None
    high: float | None
    n: int


class EvidenceSummary(_Written):
    """A stored result without its details; the fields are those of ``experiments.records.Result``."""

    id: str
    key: KeyField
    experiment: str
    kind: str
    harvest_id: str
    n: int
    effect: MainNumber | None
    control: MainNumber | None
    excludes_control: bool | None
    p_value: float | None
    summary: str


class EvidenceRecord(EvidenceSummary):
    """A stored result."""

    document: str = Field(exclude=True, repr=False)
    """The result's JSON."""

    @cached_property
    def result(self) -> Result:
        """The result itself.

        Raises:
            SpdToolsError: when this version has no such experiment, or its results have other fields.
        """
        from spd_tools.experiments.registry import read_result

        return read_result(self.document)


class Score(_Written):
    """How good a label is, by some method."""

    id: str
    key: KeyField
    method: str
    value: float
    low: float | None
    high: float | None
    """95 % interval, where there is one."""
    n: int | None
    details: dict[str, Any]
    label_version: int | None
    """Version of the label that was scored."""


class LogEntry(_Written):
    """A line of the research log."""

    id: str
    key: KeyField | None
    """None: about the run as a whole."""
    text: str


class Lease(_Written):
    """Somebody works on a component; others leave it alone until ``expires``."""

    key: KeyField
    expires: str
    """UTC, ISO 8601."""


class Dispute(Record):
    """A component about which something written is contested."""

    key: KeyField
    why: str


class QueueItem(Record):
    """A component worth labelling."""

    key: KeyField
    priority: float
    """From 0 to 1."""
    why: str
    density: float
    effect: float | None
    """Mean KL in nats when it is removed, by its newest triage or ablation; None where nobody has measured it."""
    status: LabelStatus | None
    """Of its newest label."""
    disputed: bool
    lease: Lease | None
    """Of whoever works on it now."""


class ImportReport(Record):
    """What an import did."""

    added: dict[str, int]
    """Kind of record -> how many were new."""
    known: int
    """Records that were there already."""
