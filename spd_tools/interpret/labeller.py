"""One component's question to a language model, and the draft of a label that its answer makes."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from spd_tools.annotations import LabelDraft
from spd_tools.evaluate.splits import Split
from spd_tools.interpret.evidence import LabelOf, gather
from spd_tools.interpret.prompt import PromptName, component_prompt, system_prompt
from spd_tools.interpret.provenance import Provenance, Verdict
from spd_tools.keys import ComponentKey
from spd_tools.llm import Answer, Call

PURPOSE = "label"
"""Of the calls, in the ledger."""
DEFAULT_MODEL = "claude-haiku-5-5"
MAX_TOKENS = 1_200
"""Of an answer, thinking included; it has some 200 of its own."""
UNCLEAR = "unclear"
_Said = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2_000)]
_Short = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
_Optional = Annotated[str, StringConstraints(strip_whitespace=True, max_length=2_000)]


class Interpretation(BaseModel):
    """What a language model is to answer. Reasoning comes first, so that the label follows from it."""

    reasoning: _Said = Field(description="what in the evidence decides it, in at most three short sentences")
    input_view: _Said = Field(
        description="when the component fires, in one or two sentences; if unclear, what is known"
    )
    output_view: _Optional = Field(
        description="what the model tends to predict where it fires; empty if not worth saying"
    )
    label: _Short = Field(description="both in a few words, at most ten")
    verdict: Verdict = Field(
        description="clear: the label covers nearly all firings; partial: many of them; unclear: nothing was found"
    )
    confidence: float = Field(
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="probability from 0 to 1 that the label sorts nine of ten tokens right",
    )


class Labeller:
    """Makes calls and reads their answers, for one harvest, model and prompt."""

    def __init__(self, split: Split, model: str, prompt: PromptName) -> None:
        self.split = split
        self.model = model
        self.prompt: PromptName = prompt

    @cached_property
    def system(self) -> str:
        """What all calls share."""
        return system_prompt(self.split.harvest, self.prompt)

    def call(self, key: ComponentKey, label_of: LabelOf = lambda key: None) -> Call | None:
        """The question about a component; None when no firing of it lies in the labelling split.

        Args:
            key: the component.
            label_of: labels of the components that it fires together with.
        """
        evidence = gather(self.split, key, label_of)
        if not evidence.has_examples:
            return None
        return Call(
            purpose=PURPOSE,
            model=self.model,
            system=self.system,
            prompt=component_prompt(self.split.harvest, evidence, self.prompt),
            schema=Interpretation,
            max_tokens=MAX_TOKENS,
            effort="low",
            tag=str(key),
        )

    def draft(self, answer: Answer) -> LabelDraft:
        """The label that an answer makes."""
        value = answer.value
        assert isinstance(value, Interpretation)
        provenance = Provenance(
            asked=self.model,
            prompt=self.prompt,
            harvest_id=self.split.harvest.harvest_id,
            call=answer.call_hash,
            label=value.label,
            verdict=value.verdict,
        )
        return LabelDraft(
            input_view=value.input_view,
            output_view=value.output_view,
            category=UNCLEAR if value.verdict == "unclear" else "",
            confidence=value.confidence,
            notes=provenance.notes(value.reasoning),
        )
