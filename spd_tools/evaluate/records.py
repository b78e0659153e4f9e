"""What became of trials, and the scores made of them, as they are stored."""

from __future__ import annotations

from typing import Literal

from spd_tools.evaluate.origins import LabelOrigin
from spd_tools.evaluate.trials import ScoreName
from spd_tools.llm import Usage
from spd_tools.store.records import KeyField, Record

Judged = Literal["label", "another", "empty", "top_tokens", "none"]
"""Which label the judge was shown: the component's own, another component's, an empty one, one made from the top
tokens; "none": the score (intruder) needs none."""
BASELINES: tuple[Judged, ...] = ("another", "empty", "top_tokens")


class TrialRow(Record):
    """What became of one trial."""

    trial: str
    """Its id: equal trials have equal ones."""
    call: str
    """Hash of the prompt and of everything else that determines the answer."""
    key: KeyField
    score: ScoreName
    judged: Judged
    state: Literal["graded", "failed"]
    answer: str | None
    """JSON."""
    graded: list[tuple[float, float]] | None
    """(truth, answer) of each judgement; see ``statistics.Graded``."""
    model: str | None
    """That served it."""
    usage: Usage | None
    dollars: float
    """Paid for the answer, whenever that was; for a failed trial, what this run paid."""
    seconds: float | None
    request_id: str | None
    time: str
    """UTC, ISO 8601."""
    reason: str | None
    """Why it failed."""


class ComponentScore(Record):
    """A component's score by one method with one label."""

    key: KeyField
    score: ScoreName
    judged: Judged
    label: str | None
    """That the judge was shown; None for "none" and where there is no such label."""
    label_version: int | None
    """Of the component's own label."""
    label_of: KeyField | None
    """The component whose label it is, for "another"."""
    origin: LabelOrigin | None
    """Of the component's own label: which rows are kept out depends on it, for the baselines too, as they are judged on
    the same trials. None for "none", and where the component has no label."""
    value: float | None
    low: float | None
    high: float | None
    """95 % interval."""
    n_trials: int
    """Trials that the score was made of."""
    n_judgements: int
    failed: int
    """Trials without an answer that could be graded."""
    looks: list[int]
    """Numbers of trials at which stopping was planned to be considered."""
    look: int
    """How many of them were used up."""
    reason: str | None
    """Why there is no value."""
    notes: list[str]
    """What the trials say about themselves, for example that like density could not be met."""
    trials: list[tuple[str, str]]
    """(trial, call) of every trial that was asked, in their order."""


class LabelSource(Record):
    """Labels that come from one author, and are alike in what they may be scored on."""

    author: str
    blind: bool
    """See ``origins.LabelOrigin``."""
    reason: str | None
    n: int
    """Components."""


class ModelCost(Record):
    """What the answers of one model came to."""

    model: str
    trials: int
    usage: Usage
    dollars: float
    """Paid for them, whenever that was."""


def general_reason(reason: str) -> str:
    """A reason without names of components and numbers, which differ from one to the next."""
    words = ("…" if ":" in word.rstrip(":,.;") or word[:1].isdigit() else word for word in reason.split())
    return " ".join(words)
