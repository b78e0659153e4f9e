"""The target with its weights, found as a configuration names it, and its run copied beside the decomposition's."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from spd_tools.decompositions.spd.config import SpdConfig
from spd_tools.decompositions.spd.files import TARGET_CONFIG_NAME
from spd_tools.decompositions.spd.loader import build_target
from spd_tools.decompositions.spd.state_dict import fit, read_checkpoint
from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import Target
from spd_tools.training.target_checkpoints import latest_target_checkpoint

TARGET_FOLDER = "target"
_COPIED = (
    TARGET_CONFIG_NAME,
    "final_config.yaml",
    "tokenizer.json",
    "config.json",
    "generation_config.json",
)


@dataclass(frozen=True)
class LoadedTarget:
    """A target with weights."""

    target: Target
    folder: Path | None
    """Its own run or its model folder; None when it is on a hub."""
    checkpoint: Path | None
    """The file that its weights were read from; None when they came through transformers."""


def load_target(config: SpdConfig, config_folder: Path) -> LoadedTarget:
    """Build the target and read its weights.

    Args:
        config: Names it.
        config_folder: What relative paths are relative to first.

    Raises:
        SpdToolsError: when it is not found or its weights are missing or torn.
    """
    target, folder = build_target(config, config_folder)
    if config.is_transformers:
        name = config.pretrained_model_name or config.pretrained_model_path
        _read_transformers_weights(target, config.class_name, str(folder or name))
        return LoadedTarget(target, folder, None)
    assert folder is not None  # in-repo targets lie in a folder
    checkpoint = _target_checkpoint(config, config_folder, folder)
    fit(target.module, read_checkpoint(checkpoint), prefix="", path=checkpoint)
    return LoadedTarget(target, folder, checkpoint)


def _target_checkpoint(config: SpdConfig, config_folder: Path, folder: Path) -> Path:
    """The file that the configuration names, or the latest one of the target's run."""
    name = config.pretrained_model_name or config.pretrained_model_path or ""
    for base in (config_folder, Path.cwd()):
        path = base / Path(name).expanduser()
        if path.is_file() and path.suffix in (".pt", ".pth", ".safetensors"):
            return path.resolve()
    found = latest_target_checkpoint(folder)
    if found is None:
        raise SpdToolsError(
            f"The target {folder} has no checkpoints/model_step_<n>.pt or .safetensors: its weights are needed to "
            "decompose it; copy them there."
        )
    return found


def _read_transformers_weights(target: Target, class_name: str, name: str) -> None:
    import transformers

    try:
        # Weights in safetensors only: nothing that could execute code.
        trained = getattr(transformers, class_name).from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, torch_dtype=torch.float32
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SpdToolsError(
            f"The weights of the target {name} cannot be had ({reason}); give a local folder with its "
            "model.safetensors as pretrained_model_name or connect to the hub."
        ) from error
    target.module.load_state_dict(trained.state_dict())


def copy_target(loaded: LoadedTarget, run_folder: Path) -> str | None:
    """Put a target's run beside its decomposition; returns what final_config.yaml calls it there.

    None for targets on a hub, which keep their name.

    Raises:
        SpdToolsError: when it cannot be written.
    """
    if loaded.folder is None:
        return None
    destination = run_folder / TARGET_FOLDER
    files = [loaded.folder / name for name in _COPIED if (loaded.folder / name).is_file()]
    if loaded.checkpoint is None:
        files += sorted(loaded.folder.glob("model*.safetensors*"))
    try:
        destination.mkdir(exist_ok=True)
        for file in files:
            _copy(file, destination / file.name)
        if loaded.checkpoint is None:
            return TARGET_FOLDER
        (destination / "checkpoints").mkdir(exist_ok=True)
        _copy(loaded.checkpoint, destination / "checkpoints" / loaded.checkpoint.name)
    except OSError as error:
        raise SpdToolsError(
            f"The target could not be copied to {destination} ({error.strerror or error}); free space or name another "
            "folder."
        ) from error
    return f"{TARGET_FOLDER}/checkpoints/{loaded.checkpoint.name}"


def _copy(source: Path, destination: Path) -> None:
    if destination.exists() and destination.samefile(source):
        return
    aside = destination.with_name(f".{destination.name}.copy")
    shutil.copyfile(source, aside)
    aside.replace(destination)
