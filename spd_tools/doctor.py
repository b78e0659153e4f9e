"""What this machine offers and what is missing: `spd-tools doctor`."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from spd_tools.files import TEMPORARY_MARK
from spd_tools.settings import Settings

Verdict = Literal["ok", "note", "problem"]

_REQUIRED = ("torch", "numpy", "numba", "pyarrow", "pydantic", "rich", "safetensors", "tokenizers")
_EXTRAS = {
    "hub": (("datasets", "transformers"), "data sets and models from the Hugging Face hub"),
    "wandb": (("wandb", "dotenv"), "runs at wandb:entity/project/run_id"),
}
_ROOMY_GB = 5.0


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    """note: something optional is not there, or could be tidied; problem: spd-tools will not work like this."""
    detail: str


def examine(settings: Settings) -> list[Check]:
    """Look at Python, packages, devices, the output folder, extras and credentials (never at their values)."""
    return [
        _python(),
        *_packages(),
        *_devices(),
        *_output_folder(settings.out_dir),
        *_leftovers(settings.out_dir),
        *_extras(),
        _wandb_credential(),
        _anthropic_credential(),
    ]


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"
    return Check("python", "ok" if sys.version_info >= (3, 11) else "problem", detail)


def _packages() -> Iterator[Check]:
    for name in ("spd-tools", *_REQUIRED):
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "problem", "not installed; install spd-tools again")


def _devices() -> Iterator[Check]:
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Check("devices", "problem", f"torch cannot be imported: {error}")
        return
    yield Check("cpu", "ok", f"{torch.get_num_threads()} threads")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            detail = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
            yield Check(f"cuda:{index}", "ok", detail)
    else:
        yield Check("cuda", "note", "no CUDA device; harvests run on the CPU")
    if sys.platform == "darwin":
        available = torch.backends.mps.is_available()
        yield Check("mps", "ok" if available else "note", "Apple GPU" if available else "no Apple GPU")


def _output_folder(folder: Path) -> Iterator[Check]:
    origin = "from SPD_OUT_DIR" if os.environ.get("SPD_OUT_DIR") else "default; set SPD_OUT_DIR to move it"
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        yield Check("output folder", "problem", f"{folder} ({origin}) cannot be written: {error.strerror}")
        return
    yield Check("output folder", "ok", f"{folder} ({origin})")
    free = shutil.disk_usage(existing).free / 1e9
    advice = "" if free >= _ROOMY_GB else "; large harvests need more"
    yield Check("free disk", "ok" if free >= _ROOMY_GB else "problem", f"{free:.1f} GB{advice}")


def _leftovers(folder: Path) -> Iterator[Check]:
    """Folders that killed commands left; those of running ones look the same, so nothing removes them by itself."""
    for path in sorted(folder.glob(f".*{TEMPORARY_MARK}*")):
        yield Check("left over", "note", f"{path}: remove it unless an spd-tools command is running")


def _extras() -> Iterator[Check]:
    for extra, (modules, purpose) in _EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        if missing:
            yield Check(f"extra {extra}", "note", f"for {purpose}: pip install 'spd-tools[{extra}]'")
        else:
            yield Check(f"extra {extra}", "ok", purpose)


def _anthropic_credential() -> Check:
    if os.environ.get("ANTHROPIC_API_KEY"):
        return Check("anthropic credential", "ok", "ANTHROPIC_API_KEY is set")
    return Check("anthropic credential", "note", "set ANTHROPIC_API_KEY for interpret and evaluate")


def _wandb_credential() -> Check:
    if os.environ.get("WANDB_API_KEY"):
        return Check("wandb credential", "ok", "WANDB_API_KEY is set")
    if _names_key(Path(".env")):
        return Check("wandb credential", "ok", "WANDB_API_KEY is in .env")
    return Check("wandb credential", "note", "set WANDB_API_KEY (or put it into .env) to read private wandb: runs")


def _names_key(path: Path) -> bool:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return False
    assignments = (line.strip().removeprefix("export ").partition("=") for line in lines)
    return any(name.strip() == "WANDB_API_KEY" and value.strip().strip("'\"") for name, _, value in assignments)
