"""What model_config.yaml says about an in-repo target."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from spd_tools.errors import SpdToolsError


class TransformerConfig(BaseModel):
    """Sizes that all in-repo targets have. Unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    vocab_size: int
    """Rows of wte."""
    n_layer: int
    """Blocks."""
    n_head: int
    """Query heads."""
    n_embd: int
    """d_model."""
    block_size: int
    """Longest row."""

    @model_validator(mode="before")
    @classmethod
    def _context(cls, data: Any) -> Any:
        # Configs name the context n_ctx, block_size or both; the shorter one binds.
        if isinstance(data, dict):
            lengths = [data[name] for name in ("block_size", "n_ctx") if isinstance(data.get(name), int)]
            if lengths:
                data = {**data, "block_size": min(lengths)}
        return data

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd {self.n_embd} is no multiple of n_head {self.n_head}")
        return self


class LlamaConfig(TransformerConfig):
    """Sizes of the Llama-like targets."""

    n_intermediate: int
    """MLP width."""
    n_key_value_heads: int | None = None
    """Key and value heads under grouped-query attention."""
    use_grouped_query_attention: bool = True
    """False: every query head has its own key and value, and LlamaSimple* keep q, k and v in one c_attn."""
    rotary_base: float = 10000.0
    """Base of the rotary frequencies."""
    rotary_adjacent_pairs: bool = False
    """Rotate (2i, 2i + 1) rather than (i, i + d/2)."""
    mlp_bias: bool = False
    """Biases in the MLP."""
    attn_bias: bool = False
    """Biases in the attention."""

    @model_validator(mode="after")
    def _key_value_heads_divide(self) -> Self:
        if self.use_grouped_query_attention and self.n_key_value_heads is None:
            raise ValueError("n_key_value_heads is missing though use_grouped_query_attention is on")
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_head {self.n_head} is no multiple of n_key_value_heads {self.n_kv_head}")
        return self

    @property
    def n_kv_head(self) -> int:
        """Key and value heads in use."""
        return (self.n_key_value_heads or self.n_head) if self.use_grouped_query_attention else self.n_head


def first_problem(error: ValidationError) -> str:
    """The first complaint of a validation in one clause."""
    problem = error.errors()[0]
    place = ".".join(str(part) for part in problem["loc"])
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


ConfigT = TypeVar("ConfigT", bound=TransformerConfig)


def parse_config(kind: type[ConfigT], raw: Any, source: Path) -> ConfigT:
    """Read the mapping of a model_config.yaml.

    Raises:
        SpdToolsError: when a size is missing or the sizes contradict each other.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise SpdToolsError(
            f"{source} does not describe the target model ({first_problem(error)}); correct that field."
        ) from error
