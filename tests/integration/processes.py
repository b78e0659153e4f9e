"""`spd-tools` as its users run it: the installed command, a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

COMMAND = Path(sys.executable).with_name("spd-tools")
DEADLINE = 120.0
"""Seconds after which something is broken; nothing here takes nearly as long."""


@dataclass(frozen=True)
class Place:
    """An SPD_OUT_DIR."""

    folder: Path

    def start(self, *argv: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [COMMAND, *map(str, argv)],
            env=os.environ | {"SPD_OUT_DIR": str(self.folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *argv: object) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        return ended(self.start(*argv))

    def run_well(self, *argv: object) -> str:
        """stdout of a command that must succeed."""
        code, out, err = self.run(*argv)
        assert code == 0, err
        return out

    def states(self) -> list[dict]:
        """Worker states on disk."""
        return [json.loads(path.read_text()) for path in self.folder.glob("harvest/*/*/shards/*/state-*.json")]

    def store(self) -> dict:
        """File -> size and checksum, of the only harvest, which must be finished and what its manifest says."""
        [folder] = self.folder.glob("harvest/*/*")
        files = json.loads((folder / "manifest.json").read_text())["files"]
        on_disk = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert on_disk == {"manifest.json", *files}
        return files


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for a process; (exit code, stdout, stderr)."""
    try:
        out, err = process.communicate(timeout=DEADLINE)
    finally:
        process.kill()
    return process.returncode, out, err


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait for something that a running process brings about."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.005)
            raise AssertionError(f"ended before that, with {process.returncode}: {process.communicate()[1]}")
        assert time.monotonic() < deadline, "it did not come about"
