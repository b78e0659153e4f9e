"""Runs on Weights & Biases, downloaded into a cache where a folder is there whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from spd_tools.decompositions.spd.files import CONFIG_NAME, TARGET_CONFIG_NAME, find_run, latest_checkpoint
from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, sync_folder
from spd_tools.settings import Settings
from spd_tools.targets.build import read_yaml_mapping

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class WandbRun:
    """One run on W&B."""

    entity: str
    """User or team."""
    project: str
    """Project."""
    id: str
    """Run id."""

    def __str__(self) -> str:
        return f"wandb:{self.entity}/{self.project}/{self.id}"

    @property
    def name(self) -> str:
        """<project>-<id>: names the cache folder and harvests."""
        return f"{self.project}-{self.id}"

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read "wandb:entity/project/run_id" or "wandb:entity/project/runs/run_id"; None for other text.

        Raises:
            SpdToolsError: when it starts like one and goes on otherwise.
        """
        if not text.startswith("wandb:"):
            return None
        parts = text.removeprefix("wandb:").strip("/").split("/")
        if len(parts) == 4 and parts[2] == "runs":
            del parts[2]
        if len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
            raise SpdToolsError(f"{text!r} names no W&B run: write wandb:ENTITY/PROJECT/RUN_ID.")
        return cls(*parts)


def fetch_run(run: WandbRun) -> Path:
    """Folder of an SPD run: the cached one, else downloaded now (configuration and latest checkpoint).

    Raises:
        SpdToolsError: when wandb is missing, the run cannot be had or lacks its files.
    """

    def wanted(names: Sequence[str]) -> list[str]:
        checkpoint = latest_checkpoint(names)
        if CONFIG_NAME not in names or checkpoint is None:
            raise SpdToolsError(f"{run} holds no {CONFIG_NAME} with a model_<step>.pth: it is no finished SPD run.")
        return [CONFIG_NAME, checkpoint]

    return _fetch(run, wanted, _is_whole_run)


def fetch_target(run: WandbRun) -> Path:
    """Folder of a target's own run; its weights stay where they are, the SPD checkpoint holds them too.

    Raises:
        SpdToolsError: as ``fetch_run``.
    """

    def wanted(names: Sequence[str]) -> list[str]:
        if TARGET_CONFIG_NAME not in names:
            raise SpdToolsError(f"{run} holds no {TARGET_CONFIG_NAME}: it is no run of a target model.")
        return [name for name in (TARGET_CONFIG_NAME, CONFIG_NAME, "tokenizer.json") if name in names]

    return _fetch(run, wanted, lambda folder: _is_yaml(folder / TARGET_CONFIG_NAME))


def _is_yaml(path: Path) -> bool:
    try:
        read_yaml_mapping(path)
    except SpdToolsError:
        return False
    return True


def _is_whole_run(folder: Path) -> bool:
    """Whether a cached folder is a complete run. Ours always are; other programs leave torn ones behind."""
    try:
        checkpoint = find_run(folder).checkpoint
    except SpdToolsError:
        return False
    return _is_yaml(folder / CONFIG_NAME) and _is_whole_checkpoint(checkpoint)


def _is_whole_checkpoint(path: Path) -> bool:
    if path.suffix == ".pth":
        return zipfile.is_zipfile(path)  # the directory of a zip file is at its end
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):  # checks the header against the file's size
            return True
    except (SafetensorError, OSError):
        return False


def _fetch(run: WandbRun, wanted: Callable[[Sequence[str]], list[str]], is_whole: Callable[[Path], bool]) -> Path:
    folder = Settings.from_environment().run_cache(run.name)
    if is_whole(folder):
        return folder
    mark = f"{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}"
    aside = folder.with_name(f".{folder.name}{mark}")
    broken = folder.with_name(f".{folder.name}.broken{mark}")
    try:
        aside.mkdir(parents=True)
        _download(run, wanted, aside)
        sync_folder(aside)
        if not is_whole(folder):  # another process may have been faster
            if folder.exists():
                os.rename(folder, broken)
            os.rename(aside, folder)
            sync_folder(folder.parent)
    except OSError as error:
        if not is_whole(folder):
            raise SpdToolsError(
                f"{run} could not be stored in {folder}: {error.strerror or error}; "
                "free space or choose another SPD_OUT_DIR, then run again."
            ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(broken, ignore_errors=True)
    return folder


def _download(run: WandbRun, wanted: Callable[[Sequence[str]], list[str]], folder: Path) -> None:
    api = _api(run)
    try:
        files: dict[str, Any] = {file.name: file for file in api.run(f"{run.entity}/{run.project}/{run.id}").files()}
        for name in wanted(list(files)):
            with files[name].download(root=str(folder), replace=True):
                pass
            size = (folder / name).stat().st_size
            if size != files[name].size:
                raise ConnectionError(f"{name} broke off after {size} of {files[name].size} bytes")
    except SpdToolsError:
        raise
    # wandb raises errors of its own, of requests and bare ones, depending on version and mishap.
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SpdToolsError(
            f"{run} could not be downloaded ({reason}); check the name, the connection and WANDB_API_KEY "
            "(environment or .env)."
        ) from error


def _api(run: WandbRun) -> Any:
    try:
        import wandb
        from dotenv import find_dotenv, load_dotenv
    except ImportError as error:
        raise SpdToolsError(
            f"{run} must be downloaded and the wandb package is not installed; "
            "install it with: pip install 'spd-tools[wandb]'."
        ) from error
    load_dotenv(find_dotenv(usecwd=True))  # what the environment already says wins
    try:
        return wandb.Api()
    except Exception as error:
        raise SpdToolsError(
            f"{run} must be downloaded and W&B accepts no credentials from here; "
            "set WANDB_API_KEY in the environment or in .env."
        ) from error
