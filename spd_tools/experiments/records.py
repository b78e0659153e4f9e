"""What every experiment is asked, and what every result says about itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from spd_tools.store.records import KeyField, Record

Kind = Literal["observational", "structural", "counterfactual", "mixed"]
"""Read off harvested data; read off weights; the model was run on new or changed input or with something changed."""
Response = Literal["ranking", "gating", "firing"]
"""What is measured of a component at a position: its ranking activation, its gating activation, or 1 where it fires."""
CONFIDENCE = 0.95
"""Of every interval."""
LEAST_CONTROLS = 19
"""A rank among fewer controls is no p-value of 0.05 or less."""


class Request(Record):
    """Everything that an experiment's answer depends on, beside the harvest and the weights."""

    experiment: Any
    """Name of the experiment; a Literal in every request."""
    key: KeyField = Field(description="component, for example h.0.mlp.c_fc:12")
    seed: int = Field(default=0, ge=0, lt=2**63, description="of every random choice")


class Estimate(Record):
    """A mean (or share) with its 95 % interval."""

    value: float
    low: float | None
    """None where there are too few observations for an interval."""
    high: float | None
    n: int
    """Observations."""


class Ratio(Record):
    """How like the controls are to what they stand beside: the range of their counts over its count.

    The count is that of a token in the harvested rows, or of the firings of a component. 1 is equal; controls within
    0.5 and 2 are drawn at random, farther ones are taken only where those are too few.
    """

    low: float
    high: float


class SubjectInfo(Record):
    """What was experimented on. Results on another fingerprint are no evidence."""

    run_id: str
    harvest_id: str
    fingerprint: str
    """Of the decomposition."""
    threshold: float
    """A component fires where its gating activation is strictly above this."""
    gating_kind: str
    ranking_kind: str


class Machine(Record):
    """Where a result was computed: on an equal one its replay is equal to the bit."""

    device: str
    torch: str
    spd_tools: str


class Result(Record):
    """Base of all results."""

    id: str
    """Experiment and 12 hex digits of request and subject: the same question has the same id."""
    kind: Kind
    subject: SubjectInfo
    machine: Machine
    population: str
    """What the numbers are about, in words."""
    n: int
    """Observations behind the main number."""
    effect: Estimate | None
    """The main number; None where the experiment has none, or nothing to compute it from."""
    control: Estimate | None
    """The same for what should show no effect."""
    p_value: float | None
    """Of the main number against its control, corrected for all comparisons inside this experiment.

    Two-sided, but where only more means anything (as of a KL).
    """
    matching: Ratio | None = None
    """How like in frequency or density the controls are; None where none were matched, and in results from before that
    was noted."""
    summary: str
    """One or two sentences: what was found, and what it does not show."""
    request: Any
    """What was asked, of each experiment's own type."""

    @property
    def excludes_control(self) -> bool | None:
        """Whether the interval of the effect lies outside that of its control; None where either is missing.

        False where there is a test and it does not reach 5 %: a sample without spread has an interval without width.
        """
        if self.effect is None or self.control is None:
            return None
        effect, control = self.effect, self.control
        if effect.low is None or effect.high is None or control.low is None or control.high is None:
            return None
        apart = effect.low > control.high or effect.high < control.low
        return apart and (self.p_value is None or self.p_value <= 1 - CONFIDENCE + 1e-12)
