"""Checkpoints of a training in progress: one file, replaced whole; what goes on from it is equal to the bit."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from spd_tools.errors import SpdToolsError
from spd_tools.files import atomic_file

_VERSION = 1


class Stateful(Protocol):
    """Modules, optimisers, and whatever else keeps something from step to step."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors, numbers and strings in dicts and lists."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Take that back."""
        ...


def save_checkpoint(path: Path, *, step: int, identity: str, parts: Mapping[str, Stateful]) -> None:
    """Write the state after ``step`` steps.

    Args:
        path: The file; its folder must be there.
        step: Steps that are done.
        identity: Hash of everything that decides what is trained; a checkpoint of another one is refused.
        parts: What has state, by name.

    Raises:
        SpdToolsError: when the disk is full or the folder cannot be written.
    """
    document = {
        "version": _VERSION,
        "step": step,
        "identity": identity,
        "parts": {name: dict(part.state_dict()) for name, part in parts.items()},
    }
    buffer = io.BytesIO()
    torch.save(document, buffer)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())


def load_checkpoint(path: Path, *, identity: str, parts: Mapping[str, Stateful]) -> int | None:
    """Put a checkpoint's state back; returns the steps that are done, None where there is no checkpoint.

    Raises:
        SpdToolsError: when the file is damaged or was written by a training of another identity.
    """
    if not path.exists():
        return None
    document = _read(path)
    if document.get("version") != _VERSION or set(document.get("parts", ())) != set(parts):
        raise SpdToolsError(f"The checkpoint {path} is of another version of spd-tools; remove it to start anew.")
    if document["identity"] != identity:
        raise SpdToolsError(
            f"The checkpoint {path} belongs to a training with another configuration, target or data; "
            "name another folder, or remove it to start anew."
        )
    for name, part in parts.items():
        part.load_state_dict(document["parts"][name])
    return document["step"]


def _read(path: Path) -> dict[str, Any]:
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    # A torn or foreign file surfaces as whatever the reader stumbles over.
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        pickle.UnpicklingError,
    ) as error:
        raise SpdToolsError(f"The checkpoint {path} cannot be read; remove it to start anew.") from error
    if not isinstance(document, dict):
        raise SpdToolsError(f"The checkpoint {path} is none of a training; remove it to start anew.")
    return document
