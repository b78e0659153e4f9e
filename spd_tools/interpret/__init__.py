"""Labels for components: evidence of a harvest -> a question to a language model -> a draft in the annotations."""

from spd_tools.interpret.labeller import DEFAULT_MODEL, Interpretation, Labeller
from spd_tools.interpret.prompt import PROMPTS, PromptName
from spd_tools.interpret.provenance import Provenance, provenance_of
from spd_tools.interpret.records import InterpretReport, InterpretRequest, Unlabelled
from spd_tools.interpret.run import (
    estimate_interpretation,
    interpret,
    label_by_top_tokens,
    plan,
    results_path,
    run_interpretation,
)
from spd_tools.interpret.top_tokens import top_tokens_label

__all__ = [
    "DEFAULT_MODEL",
    "PROMPTS",
    "InterpretReport",
    "InterpretRequest",
    "Interpretation",
    "Labeller",
    "PromptName",
    "Provenance",
    "Unlabelled",
    "estimate_interpretation",
    "interpret",
    "label_by_top_tokens",
    "plan",
    "provenance_of",
    "results_path",
    "run_interpretation",
    "top_tokens_label",
]
