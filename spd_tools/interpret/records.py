"""What is to be labelled, and what a labelling did."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from spd_tools.interpret.labeller import DEFAULT_MODEL
from spd_tools.interpret.prompt import PromptName
from spd_tools.interpret.selection import Order
from spd_tools.store.records import KeyField, Record


class InterpretRequest(Record):
    """What to label, and how."""

    keys: list[str] | None = None
    """None: all components."""
    layer: str | None = None
    """Name or pattern."""
    order: Order = "density"
    limit: int | None = None
    """The first so many, whether or not they are labelled already."""
    again: bool = False
    """Also those that this model labelled with this prompt before; only where the evidence changed is anything paid."""
    model: str = DEFAULT_MODEL
    prompt: PromptName = "detects"
    max_concurrent: int = 50
    budget: float | None = None
    """Dollars for this model and prompt, whatever it has cost so far included."""
    batch: bool = False


class Unlabelled(Record):
    """A component that was to be labelled and was not."""

    key: KeyField
    reason: str
    dollars: float
    """Paid for it all the same."""


class InterpretReport(Record):
    """What a labelling did."""

    run_id: str
    harvest_id: str
    labeller: str
    """The model that was asked, or the labeller without one."""
    prompt: str | None
    n_chosen: int
    """Components that fired and were asked for."""
    n_known: int
    """Of those, left alone: labelled before by the same labeller (for one without a model: by anybody)."""
    n_supported: int
    """Of those, with a supported label, which a draft must not stand in front of."""
    n_labelled: int = 0
    """Of those, labelled now."""
    n_unclear: int = 0
    """Of ``n_labelled``."""
    n_from_ledger: int = 0
    """Of ``n_labelled``, by answers that had been paid for before."""
    failures: list[Unlabelled] = Field(default=[])
    """Of those, not labelled: no text to label by, or a failed call. The next run tries again."""
    n_not_sent: int = 0
    """Of those, not asked."""
    not_sent: str | None = None
    """Why."""
    dollars: float = 0.0
    """Paid now."""
    unknown_dollars: float = 0.0
    """At most paid on top, for requests of which nobody knows what became of them."""
    results: Path | None = None
    """File with all interpretations of the run; None without a model."""
