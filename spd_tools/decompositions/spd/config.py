"""final_config.yaml: the fields a reader needs, in today's spelling."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import read_yaml_mapping
from spd_tools.targets.config import first_problem

LAYERWISE = ("mlp", "vector_mlp", "shared_mlp")
GLOBAL = ("global_shared_mlp", "global_shared_transformer", "global_reverse_residual")

TOYS = ("TMS", "ResidualMLP", "ResidMLP")
"""Starts of the class names of toy models."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())


class ModuleInfo(_Record):
    """Modules to decompose."""

    module_pattern: str
    """fnmatch over the target's named_modules()."""
    C: int = Field(gt=0)
    """Components of each matched module."""


class AttentionConfig(_Record):
    """Bidirectional attention inside a causal-importance function."""

    n_heads: int = Field(gt=0)
    """Heads."""
    max_len: int | None = None
    """Longest row."""
    rope_base: float = 10000.0
    """Base of the rotary frequencies."""


class TransformerCiConfig(_Record):
    """Sizes of a global_shared_transformer."""

    d_model: int = Field(gt=0)
    """Width of the residual stream."""
    n_blocks: int = Field(ge=0)
    """Blocks."""
    mlp_hidden_dim: list[int] | None = None
    """Hidden widths of each block's MLP; None: [4 * d_model]."""
    attn_config: AttentionConfig
    """Attention of every block."""


class BlockGroup(_Record):
    """One block of a global_reverse_residual."""

    name: str
    """Names its parameters."""
    patterns: list[str]
    """fnmatch over the decomposed modules."""


class CiConfig(_Record):
    """A causal-importance function."""

    mode: Literal["layerwise", "global"]
    """One function per module, or one for all."""
    fn_type: Literal[
        "mlp",
        "vector_mlp",
        "shared_mlp",
        "global_shared_mlp",
        "global_shared_transformer",
        "global_reverse_residual",
    ]
    """Architecture."""
    hidden_dims: list[int] | None = None
    """Hidden widths of the MLP types."""
    simple_transformer_ci_cfg: TransformerCiConfig | None = None
    """global_shared_transformer only."""
    block_groups: list[BlockGroup] | None = None
    """global_reverse_residual only, as the following ones."""
    d_resid_ci_fn: int | None = None
    """Width of its residual stream."""
    reader_hidden_dims: list[int] | None = None
    """Hidden widths of its readers."""
    transition_hidden_dim: int | None = None
    """Hidden width of its transitions; None: one linear map."""
    transition_attn_config: AttentionConfig | None = None
    """Attention before each transition; None: none."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.fn_type in LAYERWISE) != (self.mode == "layerwise"):
            raise ValueError(f"fn_type {self.fn_type} does not go with mode {self.mode}")
        needed = {
            "global_shared_transformer": ("simple_transformer_ci_cfg",),
            "global_reverse_residual": ("block_groups", "d_resid_ci_fn", "reader_hidden_dims"),
        }.get(self.fn_type, ("hidden_dims",))
        for name in needed:
            if getattr(self, name) is None:
                raise ValueError(f"fn_type {self.fn_type} needs {name}")
        return self


class TaskConfig(_Record):
    """What the run was trained on."""

    max_seq_len: int | None = Field(default=None, gt=0)
    """Tokens per row."""
    dataset_name: str | None = None
    """Hub name or path."""
    column_name: str = "text"
    """Column of the text or the token ids."""
    train_data_split: str = "train"
    """Split."""
    is_tokenized: bool = False
    """The column holds token ids."""
    streaming: bool = False
    """The data set was streamed."""


class SpdConfig(_Record):
    """One SPD run."""

    pretrained_model_class: str
    """Dotted path of the target's class."""
    pretrained_model_name: str | None = None
    """Names the target: a W&B path, a checkpoint's path, a hub id or a folder."""
    pretrained_model_path: str | None = None
    """The same under an older name."""
    pretrained_model_output_attr: str | None = None
    """Where the logits are in the target's output: None, "idx_N" or an attribute."""
    module_info: list[ModuleInfo]
    """Modules to decompose."""
    identity_module_info: list[ModuleInfo] | None = None
    """Modules before which an identity map is inserted and decomposed."""
    ci_config: CiConfig
    """The causal-importance function."""
    sigmoid_type: str = "leaky_hard"
    """Its squashing function."""
    tokenizer_name: str | None = None
    """Hub name or local file."""
    task_config: TaskConfig = TaskConfig()
    """What the run was trained on."""

    @property
    def is_toy(self) -> bool:
        """Whether the target reads features instead of tokens."""
        return self.class_name.startswith(TOYS)

    @property
    def class_name(self) -> str:
        """Last part of the target's dotted class path."""
        return self.pretrained_model_class.rpartition(".")[2]

    @property
    def is_transformers(self) -> bool:
        """Whether the target is a class of Hugging Face's transformers."""
        return self.pretrained_model_class.startswith("transformers.")


def read_config(path: Path) -> SpdConfig:
    """Read a final_config.yaml of any age.

    Raises:
        SpdToolsError: when the file cannot be read or lacks a field.
    """
    raw = modern_spelling(read_yaml_mapping(path))
    try:
        return SpdConfig.model_validate(raw)
    except ValidationError as error:
        raise SpdToolsError(f"{path} is no SPD configuration ({first_problem(error)}); correct that field.") from error


def modern_spelling(raw: dict[str, Any]) -> dict[str, Any]:
    """Translate the spellings of older configurations; today's spelling wins where both are there."""
    raw = dict(raw)
    patterns, n_components = raw.pop("target_module_patterns", None), raw.pop("C", None)
    if raw.get("module_info") is None and isinstance(patterns, list):
        raw["module_info"] = [{"module_pattern": pattern, "C": n_components} for pattern in patterns]
    fn_type, hidden_dims = raw.pop("ci_fn_type", None), raw.pop("ci_fn_hidden_dims", None)
    use_global = bool(raw.pop("use_global_ci", False))
    if raw.get("ci_config") is None and fn_type is not None:
        use_global = use_global or fn_type in GLOBAL
        if use_global and fn_type in LAYERWISE:
            fn_type = f"global_{fn_type}"
        mode = "global" if use_global else "layerwise"
        raw["ci_config"] = {"mode": mode, "fn_type": fn_type, "hidden_dims": hidden_dims}
    return raw
