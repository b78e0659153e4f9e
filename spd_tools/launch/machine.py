"""What the machine of the local executor has."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from spd_tools.errors import SpdToolsError
from spd_tools.locks import open_lock, take_lock, try_lock


def visible_gpus() -> tuple[str, ...]:
    """GPUs as CUDA_VISIBLE_DEVICES names them; where that is not set, all that the driver knows.

    torch is not asked: importing it takes seconds, and the scheduler needs it for nothing else.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(name.strip() for name in named.split(",") if name.strip() not in ("", "-1"))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(str(n) for n in range(sum(line.startswith("GPU ") for line in listed.splitlines())))


def n_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def gpu_locks(jobs: Path) -> Path:
    """Folder with a lock per GPU of this machine, which tasks hold: jobs of one SPD_OUT_DIR share the GPUs by them."""
    return jobs / ".gpus" / socket.gethostname()


def gpu_lock(jobs: Path, gpu: str) -> Path:
    """The lock of one GPU, by its name in CUDA_VISIBLE_DEVICES."""
    return gpu_locks(jobs) / (re.sub(r"[^A-Za-z0-9-]", "_", gpu) + ".lock")


def hold_gpus(jobs: Path, names: str) -> list[IO[bytes]]:
    """Wait until no other task uses these GPUs; they are held until the files are closed, or the process ends.

    Raises:
        SpdToolsError: when the locks cannot be written.
    """
    held: list[IO[bytes]] = []
    for name in sorted(filter(None, names.split(","))):  # in one order: no two processes wait for each other
        lock = _open(gpu_lock(jobs, name))
        if not try_lock(lock.fileno(), Path(lock.name)):
            print(f"GPU {name} is used by another job; waiting for it.", file=sys.stderr, flush=True)
            take_lock(lock.fileno(), Path(lock.name))
        held.append(lock)
    return held


class GpuPool:
    """Hands the machine's GPUs to tasks, and none that a task of another job uses."""

    def __init__(self, gpus: tuple[str, ...], jobs: Path) -> None:
        self.gpus = gpus
        self._jobs = jobs
        self._free = list(gpus)
        self._held: dict[str, IO[bytes]] = {}

    def take(self, n: int) -> tuple[str, ...] | None:
        """``n`` GPUs; None while too few are free. A machine without any runs everything on the CPU.

        Raises:
            SpdToolsError: when the locks cannot be written.
        """
        if not self.gpus or n == 0:
            return ()
        taken: list[str] = []
        for name in self._free:
            lock = _open(gpu_lock(self._jobs, name))
            if not try_lock(lock.fileno(), Path(lock.name)):
                lock.close()
                continue
            self._held[name] = lock
            taken.append(name)
            if len(taken) == n:
                self._free = [name for name in self._free if name not in taken]
                return tuple(taken)
        self.hand_over(taken)
        return None

    def hand_over(self, taken: Iterable[str]) -> None:
        """Let go of the locks: the task waits for them."""
        for name in taken:
            if (lock := self._held.pop(name, None)) is not None:
                lock.close()

    def reserve(self, names: str | None) -> tuple[str, ...]:
        """Those of a task that an earlier scheduler has started, by its CUDA_VISIBLE_DEVICES."""
        taken = tuple(name for name in (names or "").split(",") if name in self._free)
        self._free = [name for name in self._free if name not in taken]
        return taken

    def give_back(self, taken: tuple[str, ...]) -> None:
        """Let others have them."""
        self.hand_over(taken)
        self._free += taken


def _open(path: Path) -> IO[bytes]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpdToolsError(f"{path.parent} cannot be made: {error.strerror}; see to its folder.") from error
    return open_lock(path)
