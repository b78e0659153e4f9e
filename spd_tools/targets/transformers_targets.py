"""Targets that are classes of Hugging Face's transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import Target

_NOT_COMPUTATION = ("transformers_version", "_name_or_path", "_commit_hash", "dtype", "torch_dtype", "architectures")
"""Fields of a config.json that differ between copies of one model without changing what it computes (in f32)."""


def build_transformers_target(class_name: str, model: str | Path) -> Target:
    """Build a transformers class from its configuration alone; no weights are read.

    Args:
        class_name: As in ``transformers.<class_name>``; Auto classes too.
        model: Hub id or local folder with a config.json.

    Raises:
        SpdToolsError: when transformers is not installed, has no such class, or the configuration cannot be had.
    """
    try:
        import transformers
    except ImportError as error:
        raise SpdToolsError(
            f"The target model is a transformers.{class_name}, and the transformers package is not installed; "
            "install it with: pip install 'spd-tools[hub]'."
        ) from error

    model_class: Any = getattr(transformers, class_name, None)
    build: Any = getattr(model_class, "from_config", None) if class_name.startswith("AutoModel") else None
    if build is None and isinstance(model_class, type) and issubclass(model_class, transformers.PreTrainedModel):
        build = model_class
    if build is None:
        raise SpdToolsError(
            f"transformers {transformers.__version__} has no model class {class_name}; "
            "install the version that the run was trained with."
        )
    try:
        raw, _ = transformers.PretrainedConfig.get_config_dict(str(model))
        config: Any = transformers.AutoConfig.from_pretrained(str(model), trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):  # initialisation must not move the caller's random numbers
            module: Any = build(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SpdToolsError(
            f"The target model's configuration {model} cannot be used for transformers.{class_name} ({reason}); "
            "give a local folder with its config.json or connect to the hub."
        ) from error

    module = module.float().eval()
    module.config.use_cache = False
    unembedding = module.get_output_embeddings()
    text_config = config.get_text_config()
    return Target(
        module=module,
        architecture=f"transformers.{type(module).__name__}",
        config={name: value for name, value in raw.items() if name not in _NOT_COMPUTATION},
        vocab_size=unembedding.weight.shape[0] if unembedding is not None else text_config.vocab_size,
        context=getattr(text_config, "max_position_embeddings", None),
        unembedding=unembedding if isinstance(unembedding, nn.Linear) else None,
    )


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is Hugging Face's Conv1D: a linear map whose weight is stored [d_in, d_out]."""
    # A Conv1D can exist only where its own module has been imported, so nothing heavy is imported to find out.
    home = sys.modules.get("transformers.pytorch_utils")
    return home is not None and isinstance(module, home.Conv1D)
