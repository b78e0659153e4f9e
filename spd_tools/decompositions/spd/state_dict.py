"""Checkpoints: read safely, keys brought to today's spelling, fitted onto modules exactly."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError

_TOLERATED_BUFFERS = re.compile(r"(^|\.)(rotary_sin|rotary_cos|inv_freq|masked_bias|attn\.bias|attention\.bias)$")
"""Tables that some architectures keep in their state dicts; they follow from the configuration."""


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Tensors of a .pth or .safetensors file, on the CPU, under today's keys. Nothing in the file is executed.

    Raises:
        SpdToolsError: when the file is torn, holds anything but tensors, or names one tensor twice.
    """
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise SpdToolsError(f"Checkpoint {path} is no state dict (names -> tensors); name the one of an SPD run.")
    return modern_keys(state, path)


def _read_safetensors(path: Path) -> Any:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path) from error


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise SpdToolsError(
            f"Checkpoint {path} is torn or holds Python objects, which are never executed; "
            "copy it anew or save its tensors as safetensors."
        ) from error
    # A torn file surfaces as whatever the reader stumbles over.
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _unreadable(path) from error


def _unreadable(path: Path) -> SpdToolsError:
    return SpdToolsError(f"Checkpoint {path} cannot be read: it is torn or no checkpoint; copy it anew.")


def modern_keys(state: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Rename the keys of older checkpoints.

    Raises:
        SpdToolsError: when two keys with different tensors become one.
    """
    renamed: dict[str, Tensor] = {}
    for key, tensor in state.items():
        modern = modern_key(key)
        if modern in renamed and not torch.equal(renamed[modern], tensor):
            raise SpdToolsError(f"Checkpoint {path} holds two different tensors for {modern}; repair or retrain it.")
        renamed[modern] = tensor
    return renamed


def modern_key(key: str) -> str:
    """Today's spelling of a state-dict key."""
    key = re.sub(r"^patched_model\.", "target_model.", key)
    key = re.sub(r"^target_model\.(.+)\.original\.(weight|bias)$", r"target_model.\1.\2", key)
    if match := re.fullmatch(r"(?:target_model\.)?(.+)\.components\.([UV]|bias)", key):
        key = f"_components.{dashed(match[1])}.{match[2]}"
    key = re.sub(r"^(ci_fn\.)?_gates\.", r"\1_ci_fns.", key)
    return re.sub(r"^_(ci_fns|global_ci_fn)\.", r"ci_fn._\1.", key)


def dashed(module_path: str) -> str:
    """A module path as it appears inside a key."""
    return module_path.replace(".", "-")


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The entries below a prefix, without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def fit(module: nn.Module, tensors: Mapping[str, Tensor], *, prefix: str, path: Path) -> None:
    """Copy tensors into a module whose parameters they must match one to one.

    Tied parameters may come under all of their names or any one. Non-trained tables that follow from the
    configuration (rotary tables, causal masks) may be there or not.

    Args:
        module: Takes the values; its dtype stays.
        tensors: Keys relative to the module.
        prefix: Of these keys in the checkpoint, for messages.
        path: Checkpoint, for messages.

    Raises:
        SpdToolsError: for a missing or unexpected key, a wrong shape, or tied parameters that differ.
    """
    names_of: dict[int, list[str]] = {}
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, parameter in parameters.items():
        names_of.setdefault(id(parameter), []).append(name)
    buffers = dict(module.named_buffers())

    missing = [names[0] for names in names_of.values() if not any(name in tensors for name in names)]
    extra = [
        name
        for name in tensors
        if name not in parameters and name not in buffers and not _TOLERATED_BUFFERS.search(name)
    ]
    for kind, names in (("lacks", missing), ("has the unexpected key", extra)):
        if names:
            raise _misfit(path, f"it {kind} {prefix}{names[0]}{_and_more(names)}")

    with torch.no_grad():
        for names in names_of.values():
            present = [name for name in names if name in tensors]
            for name in present:
                expected, found = tuple(parameters[name].shape), tuple(tensors[name].shape)
                if expected != found:
                    raise _misfit(path, f"{prefix}{name} has shape {list(found)} instead of {list(expected)}")
                if name != present[0] and not torch.equal(tensors[name], tensors[present[0]]):
                    raise _misfit(path, f"{prefix}{present[0]} and {prefix}{name} differ though the target ties them")
            parameters[present[0]].copy_(tensors[present[0]])


def _and_more(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def _misfit(path: Path, why: str) -> SpdToolsError:
    return SpdToolsError(
        f"Checkpoint {path} does not fit its final_config.yaml and target: {why}; "
        "put together the files of one and the same run."
    )


def fingerprint(description: Mapping[str, Any], parts: Iterable[tuple[str, nn.Module]]) -> str:
    """sha256 over a configuration and the parameters of modules (names, dtypes, shapes, bytes).

    The hash is of the loaded values: it is the same for .pth and .safetensors, for old keys and new ones.
    """
    digest = hashlib.sha256(json.dumps(description, sort_keys=True, default=str).encode())
    for prefix, module in parts:
        for name, tensor in sorted(module.named_parameters()):
            head = [prefix, name, str(tensor.dtype), list(tensor.shape)]
            digest.update(json.dumps(head).encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
