"""A target model from the name of its class and its configuration, with weights still to come."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from spd_tools.errors import SpdToolsError
from spd_tools.targets.config import LlamaConfig, TransformerConfig, parse_config
from spd_tools.targets.gpt2 import GPT2, GPT2Simple
from spd_tools.targets.llama import Llama
from spd_tools.targets.llama_simple import LlamaSimple, LlamaSimpleMLP

IN_REPO: dict[str, tuple[type[nn.Module], type[TransformerConfig]]] = {
    "LlamaSimpleMLP": (LlamaSimpleMLP, LlamaConfig),
    "LlamaSimple": (LlamaSimple, LlamaConfig),
    "Llama": (Llama, LlamaConfig),
    "GPT2Simple": (GPT2Simple, TransformerConfig),
    "GPT2": (GPT2, TransformerConfig),
}
"""Class name -> its module and its configuration."""


@dataclass(frozen=True)
class Target:
    """A target model's architecture."""

    module: nn.Module
    """In eval mode, f32, on the CPU; its weights are random until they are loaded."""
    architecture: str
    """Class name, with "transformers." in front of a Hugging Face class."""
    config: dict[str, Any]
    """What shapes the computation, in canonical form: part of a decomposition's fingerprint."""
    vocab_size: int
    """Width of the logits."""
    context: int | None
    """Longest row, None when the architecture sets no limit."""
    unembedding: nn.Linear | None
    """The last linear map."""


def build_in_repo_target(class_name: str, config_file: Path) -> Target:
    """Build one of ``IN_REPO`` as its model_config.yaml says.

    Raises:
        SpdToolsError: when the file is missing, is no YAML mapping or does not describe the architecture.
    """
    module_class, config_class = IN_REPO[class_name]
    config = parse_config(config_class, read_yaml_mapping(config_file), config_file)
    with torch.random.fork_rng(devices=[]):  # initialisation must not move the caller's random numbers
        module = module_class(config).eval()
    unembedding = module.get_submodule("lm_head")
    assert isinstance(unembedding, nn.Linear)
    return Target(
        module=module,
        architecture=class_name,
        config=config.model_dump(),
        vocab_size=config.vocab_size,
        context=config.block_size,
        unembedding=unembedding,
    )


def read_yaml_mapping(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        SpdToolsError: when it cannot be read or holds something else.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpdToolsError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SpdToolsError(f"{path} is no valid YAML; restore the file that the training run wrote.") from error
    if not isinstance(document, dict):
        raise SpdToolsError(f"{path} holds no YAML mapping; restore the file that the training run wrote.")
    return document
