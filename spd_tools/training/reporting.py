"""Where the numbers of a training go: metrics.jsonl, stderr, and W&B if asked."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_bytes

METRICS_NAME = "metrics.jsonl"
_MAIN = ("loss/", "kl/", "l0/total", "alive/total", "recovery/recovered")


class MetricsLog:
    """metrics.jsonl: a JSON object per line, without times, so that equal trainings give equal files.

    ``split`` is "train" (losses of the step with that many steps done before it) or "eval" (with ``step`` done).
    """

    def __init__(self, path: Path, *, steps_done: int) -> None:
        """Open; what an interrupted training wrote beyond its checkpoint is taken away."""
        self._path = path
        write_bytes(path, _known(path, steps_done))

    def write(self, split: str, step: int, values: dict[str, float]) -> None:
        """Append one line.

        Raises:
            SpdToolsError: when the disk is full.
        """
        line = json.dumps({"split": split, "step": step} | values)
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise SpdToolsError(
                f"{self._path} cannot be written: {error.strerror}; free space, then go on with --resume."
            ) from error


def _known(path: Path, steps_done: int) -> bytes:
    """The whole lines of a log that a training with that many steps done has written."""
    if steps_done == 0 or not path.exists():
        return b""
    kept: list[bytes] = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:  # torn by the interruption
            break
        limit = steps_done if record["split"] == "train" else steps_done + 1
        if line.endswith(b"\n") and record["step"] < limit:
            kept.append(line)
    return b"".join(kept)


def read_metrics(path: Path, split: str) -> list[dict[str, Any]]:
    """The records of one split, in order.

    Raises:
        SpdToolsError: when the file cannot be read.
    """
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise SpdToolsError(f"{path} cannot be read; train again.") from error
    return [record for record in records if record["split"] == split]


def last_evaluation(folder: Path) -> dict[str, float]:
    """Metrics of the last evaluation of the training in a folder, those that are finite; empty when there was none.

    Raises:
        SpdToolsError: when they cannot be read.
    """
    path = folder / METRICS_NAME
    records = read_metrics(path, "eval") if path.is_file() else []
    known = records[-1].items() if records else ()
    return {name: value for name, value in known if name not in ("split", "step") and math.isfinite(value)}


def main_metrics(values: Mapping[str, float]) -> dict[str, float]:
    """Those that say most about a decomposition, rounded to six digits."""
    return {name: float(f"{value:.6g}") for name, value in values.items() if name.startswith(_MAIN)}


class Progress:
    """Lines on stderr."""

    def __init__(self, steps: int, *, steps_done: int, quiet: bool = False) -> None:
        self._steps, self._quiet = steps, quiet
        self._start, self._steps_before = time.monotonic(), steps_done

    def show(self, split: str, step: int, values: dict[str, float]) -> None:
        """One line: the main numbers, and steps per second."""
        if self._quiet:
            return
        elapsed = time.monotonic() - self._start
        rate = (step - self._steps_before) / elapsed if step > self._steps_before else None
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if name.startswith(_MAIN))
        speed = "" if rate is None else f"  ({rate:.1f} steps/s)"
        print(f"{split} {step}/{self._steps}  {shown}{speed}", file=sys.stderr)


class WandbLog:
    """A run on W&B."""

    def __init__(self, project: str, name: str, config: dict[str, Any]) -> None:
        """Start it.

        Raises:
            SpdToolsError: when wandb is not installed or refuses.
        """
        try:
            import wandb
        except ImportError as error:
            raise SpdToolsError(
                "Logging to W&B needs the wandb package; install it with: pip install 'spd-tools[wandb]'."
            ) from error
        try:
            self._run: Any = wandb.init(project=project, name=name, config=config, resume="allow", id=name)
        # wandb raises errors of its own, of requests and bare ones, depending on version and mishap.
        except Exception as error:
            raise SpdToolsError(
                f"W&B cannot be logged to ({type(error).__name__}); check WANDB_API_KEY and the connection, or leave "
                "out --wandb."
            ) from error
        self._wandb: Any = wandb

    def write(self, split: str, step: int, values: dict[str, float], figures: list[Path]) -> None:
        """Log numbers and figures."""
        images = {f"figures/{path.stem.rpartition('_')[0]}": self._wandb.Image(str(path)) for path in figures}
        self._run.log({f"{split}/{name}": value for name, value in values.items()} | images, step=step)

    def finish(self) -> None:
        """Send what is left."""
        self._run.finish()
