"""Checkpoints of targets, in their own runs: checkpoints/model_step_<n>.pt or .safetensors."""

from __future__ import annotations

import re
from pathlib import Path

_NAME = re.compile(r"model_step_(\d+)\.(pt|pth|safetensors)")


def latest_target_checkpoint(folder: Path) -> Path | None:
    """Of a target's run: the one of the largest step, of equal steps safetensors; None where there is none."""
    matches = [
        (int(match[1]), match[2] == "safetensors", path)
        for path in folder.glob("checkpoints/*")
        if path.is_file() and (match := _NAME.fullmatch(path.name))
    ]
    return max(matches)[2] if matches else None
