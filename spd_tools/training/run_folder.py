"""The folder of a run: final_config.yaml, model_<step>.safetensors, metrics.jsonl, figures/, target/.

While it is trained there are also training.pt (the state that training goes on from) and lock, which its process holds;
training.json says which training the folder belongs to.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import yaml
from safetensors.torch import save
from torch import nn

from spd_tools.decompositions.spd.files import CONFIG_NAME
from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, write_bytes, write_json

CHECKPOINT_NAME = "training.pt"
"""State of a training in progress, in the run's folder; removed when it is finished."""
IDENTITY_NAME = "training.json"
FIGURES_NAME = "figures"
_LOCK_NAME = "lock"
_UNFINISHED = f".*{TEMPORARY_MARK}*"


@contextmanager
def claimed(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Within the block no other process trains in the folder.

    Args:
        folder: Made if it is missing.
        wait: Wait for a process that still does; else it is an error.

    Raises:
        SpdToolsError: when another one does, or the folder cannot be written.
    """
    path = folder / _LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _locked(path, wait)
    except OSError as error:
        raise SpdToolsError(
            f"{folder} cannot be written ({error.strerror}); name another folder with --out."
        ) from error
    with lock:
        try:
            _clean(folder)
            yield
        finally:
            path.unlink(missing_ok=True)


def _clean(folder: Path) -> None:
    """Remove what a killed process was writing: checkpoints are large."""
    for path in [*folder.glob(_UNFINISHED), *folder.glob(f"checkpoints/{_UNFINISHED}")]:
        path.unlink(missing_ok=True)


def _locked(path: Path, wait: bool) -> IO[bytes]:
    while True:
        lock = path.open("wb")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if not wait:
                lock.close()
                raise SpdToolsError(
                    f"Another process is training in {path.parent}; wait for it or name another folder with --out."
                ) from error
            print(f"Another process still trains in {path.parent}; waiting for it to end.", file=sys.stderr, flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            if os.path.samestat(os.fstat(lock.fileno()), os.stat(path)):
                return lock
        except FileNotFoundError:
            pass
        lock.close()  # whoever held it has removed the file: its lock keeps nobody out


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
