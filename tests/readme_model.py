"""Who answers in the README instead of Claude: it knows the planted rules, labels by them and judges by them."""

from __future__ import annotations

import re

from evaluate.judging import PlantedJudge
from llm.stand_in import Asked, Say

from spd_tools.decompositions.planted import load_planted


class RuleKnower:
    """Answers the prompts of `interpret` and `evaluate` about the planted decomposition."""

    def __init__(self) -> None:
        self._decomposition = load_planted()
        self._judge = PlantedJudge(self._decomposition)

    def __call__(self, asked: Asked) -> Say:
        component = re.search(r"Component (\S+), of layer", asked.prompt)
        if component is None:
            return self._judge(asked)
        rule = self._decomposition.rules[component[1]]
        return Say(
            {
                "reasoning": "It is a planted rule.",
                "input_view": rule.description,
                "output_view": "",
                "label": rule.name,
                "verdict": "clear",
                "confidence": 0.9,
            }
        )
