"""A planted component's rule: what is known about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from spd_tools.decompositions.planted.conditions import Condition

Kind = Literal[
    "token",
    "previous",
    "bigram",
    "gate",
    "conjunction",
    "position",
    "category",
    "tail_marker",
    "polarity",
    "duplicate",
    "always",
    "dead",
    "random",
    "suppressor",
    "reader",
]

FIRING_LEVEL = 3 / 16
"""Causal importance = clamp(|activation| - FIRING_LEVEL, 0, 1). Activations are multiples of 1/8, so the distance
between |activation| and this is never below 1/16."""
LOGITS_PER_WRITE = 4.0
"""Logits that a write of 1 onto a word brings: the scale of the unembedding's output rows."""


@dataclass(frozen=True)
class Rule:
    """One component's known answers."""

    key: str
    """"h.0.mlp.down_proj:3"; which index a rule has depends on the seed."""
    name: str
    """The same for every seed."""
    kind: Kind
    description: str
    """True label: when it fires and what it does."""
    tokens: tuple[str, ...]
    """Words that the condition names."""
    condition: Condition
    effects: dict[str, float]
    """Word -> logits per unit of activation that the component itself brings; words not named: exactly 0."""
    notes: dict[str, float]
    """Note -> amount per unit of activation, for components further up to read."""
    reads: tuple[str, ...] = ()
    """Keys of the components whose notes it reads."""

    def activation(self, tokens: Sequence[int], position: int) -> float:
        """Component activation at tokens[position]; only that token and those before it matter."""
        return self.condition.activation(tokens, position)

    def fires(self, tokens: Sequence[int], position: int) -> bool:
        """Whether the causal importance at tokens[position] is above 0."""
        return abs(self.activation(tokens, position)) > FIRING_LEVEL
