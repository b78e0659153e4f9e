"""Names of the files of an SPD run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spd_tools.errors import SpdToolsError

CONFIG_NAME = "final_config.yaml"
TARGET_CONFIG_NAME = "model_config.yaml"
_CHECKPOINT_NAME = re.compile(r"model_(\d+)\.(pth|safetensors)")


@dataclass(frozen=True)
class RunFiles:
    """An SPD run on disk."""

    folder: Path
    """Where it lies."""
    checkpoint: Path
    """The checkpoint to read."""

    @property
    def config(self) -> Path:
        """Its configuration."""
        return self.folder / CONFIG_NAME


def find_run(path: Path) -> RunFiles:
    """The run that a folder or checkpoint belongs to; in a folder, the checkpoint of the largest step.

    Raises:
        SpdToolsError: when there is none.
    """
    path = path.resolve()
    if path.is_file():
        if path.suffix not in (".pth", ".safetensors"):
            raise SpdToolsError(f"{path} is no SPD checkpoint: name a run's folder or its model_<step>.pth.")
        files = RunFiles(path.parent, path)
    elif path.is_dir():
        name = latest_checkpoint(entry.name for entry in path.iterdir() if entry.is_file())
        if name is None:
            raise SpdToolsError(f"{path} holds no model_<step>.pth or .safetensors; name the folder of an SPD run.")
        files = RunFiles(path, path / name)
    else:
        raise SpdToolsError(f"There is no {path}; name the folder or checkpoint of an SPD run.")
    if not files.config.is_file():
        raise SpdToolsError(f"{files.folder} holds no {CONFIG_NAME}; restore the one that the training run wrote.")
    return files


def latest_checkpoint(names: Iterable[str]) -> str | None:
    """The checkpoint with the largest step among file names; of one step, .safetensors before .pth."""
    matches = [match for name in names if (match := _CHECKPOINT_NAME.fullmatch(name))]
    best = max(matches, key=lambda match: (int(match[1]), match[2] == "safetensors"), default=None)
    return None if best is None else best[0]
