"""What people and models say about components: evidence, hypotheses, labels, scores and a research log, per run."""

from spd_tools.annotations.records import (
    Dispute,
    EvidenceRecord,
    EvidenceSummary,
    Hypothesis,
    HypothesisStatus,
    ImportReport,
    LabelDecision,
    LabelDraft,
    LabelRecord,
    LabelStatus,
    Lease,
    LogEntry,
    OutputEffect,
    QueueItem,
    Score,
)
from spd_tools.annotations.store import Annotations
from spd_tools.annotations.support import missing_for_support, normalised

__all__ = [
    "Annotations",
    "Dispute",
    "EvidenceRecord",
    "EvidenceSummary",
    "Hypothesis",
    "HypothesisStatus",
    "ImportReport",
    "LabelDecision",
    "LabelDraft",
    "LabelRecord",
    "LabelStatus",
    "Lease",
    "LogEntry",
    "OutputEffect",
    "QueueItem",
    "Score",
    "missing_for_support",
    "normalised",
]
