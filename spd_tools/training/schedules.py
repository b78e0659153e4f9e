"""What changes over training by a fixed rule: learning rates and the p of the importance penalty."""

from __future__ import annotations

import math
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Schedule(BaseModel):
    """A rate over training."""

    model_config = ConfigDict(extra="allow", frozen=True)

    start_val: float = Field(gt=0)
    """Rate after the warm-up."""
    warmup_pct: float = Field(default=0.0, ge=0, lt=1)
    """Share of the steps over which the rate rises linearly to ``start_val``."""
    final_val_frac: float = Field(default=1.0, ge=0)
    """Rate at the last step, as a share of ``start_val``."""
    fn_type: Literal["constant", "linear", "cosine"] = "constant"
    """How it gets there."""

    @model_validator(mode="after")
    def _constant_stays(self) -> Self:
        if self.fn_type == "constant" and self.final_val_frac != 1:
            raise ValueError(f"a constant schedule cannot end at final_val_frac {self.final_val_frac}")
        return self

    def at(self, step: int, steps: int) -> float:
        """Rate of step 0 <= step < steps."""
        warmup = int(self.warmup_pct * steps)
        if step < warmup:
            return self.start_val * (step + 1) / (warmup + 1)
        done = (step - warmup) / max(1, steps - 1 - warmup)
        final = self.final_val_frac
        if self.fn_type == "linear":
            return self.start_val * (1 + (final - 1) * done)
        if self.fn_type == "cosine":
            return self.start_val * (final + (1 - final) * 0.5 * (1 + math.cos(math.pi * done)))
        return self.start_val


def annealed(start: float, final: float | None, start_frac: float, end_frac: float, done: float) -> float:
    """A value that moves linearly from ``start`` to ``final`` between two shares of training.

    Args:
        start: Value up to ``start_frac``.
        final: Value from ``end_frac`` on; None: it never moves.
        start_frac: Share of the steps.
        end_frac: Share of the steps, not below ``start_frac``.
        done: Share of the steps that are done.
    """
    if final is None or done <= start_frac:
        return start
    if done >= end_frac:
        return final
    return start + (final - start) * (done - start_frac) / (end_frac - start_frac)
