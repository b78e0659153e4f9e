"""The folder of a run: final_config.yaml, model_<step>.safetensors, metrics.jsonl, figures/, target/.

While it is trained there are also training.pt (the state that training goes on from) and lock, which its process holds;
training.json says which training the folder belongs to.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import nn

from spd_tools.decompositions.spd.files import CONFIG_NAME
from spd_tools.errors import SpdToolsError
from spd_tools.files import write_bytes, write_json
from spd_tools.training.trainer import CHECKPOINT_NAME

IDENTITY_NAME = "training.json"
FIGURES_NAME = "figures"
_LOCK_NAME = "lock"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Within the block no other process trains in the folder.

    Raises:
        SpdToolsError: when one does, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / _LOCK_NAME).open("wb")
    except OSError as error:
        raise SpdToolsError(
            f"{folder} cannot be written ({error.strerror}); name another folder with --out."
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SpdToolsError(
                f"Another process is training in {folder}; wait for it or name another folder with --out."
            ) from error
        yield
        (folder / _LOCK_NAME).unlink(missing_ok=True)


def check_folder(folder: Path, identity: str, *, resume: bool) -> None:
    """Refuse a folder that belongs to another training, or to an interrupted one that is not to be resumed.

    Raises:
        SpdToolsError: in those cases.
    """
    document: Any = {}
    if (folder / IDENTITY_NAME).exists():
        try:
            document = json.loads((folder / IDENTITY_NAME).read_bytes())
        except (OSError, ValueError) as error:
            raise SpdToolsError(f"{folder / IDENTITY_NAME} cannot be read; name another folder with --out.") from error
    elif (folder / CONFIG_NAME).exists():
        raise SpdToolsError(f"{folder} holds a run that was not trained here; name another folder with --out.")
    known = document.get("identity") if isinstance(document, dict) else None
    if known not in (None, identity):
        raise SpdToolsError(
            f"{folder} belongs to a training with another configuration, target or data; name another with --out."
        )
    if (folder / CHECKPOINT_NAME).exists() and not resume:
        raise SpdToolsError(
            f"{folder} holds an interrupted training; go on with --resume, or name another folder with --out."
        )


def write_identity(folder: Path, identity: str, version: str) -> None:
    """Say which training the folder belongs to."""
    write_json(folder / IDENTITY_NAME, {"identity": identity, "spd_tools": version})


def write_config(folder: Path, document: Mapping[str, Any]) -> None:
    """final_config.yaml."""
    write_bytes(folder / CONFIG_NAME, yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True).encode())


def model_path(folder: Path, step: int) -> Path:
    """The model after so many steps."""
    return folder / f"model_{step}.safetensors"


def write_model(folder: Path, step: int, modules: Mapping[str, nn.Module]) -> None:
    """model_<step>.safetensors, under the public keys.

    Args:
        folder: The run's.
        step: Steps that are done.
        modules: Key prefix -> module.
    """
    state = {
        # Clones: tied parameters would share memory, which safetensors refuses.
        f"{prefix}.{key}": tensor.detach().cpu().contiguous().clone()
        for prefix, module in modules.items()
        for key, tensor in module.state_dict().items()
    }
    write_bytes(model_path(folder, step), save(state))
