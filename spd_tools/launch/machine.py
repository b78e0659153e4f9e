"""What the machine of the local executor has."""

from __future__ import annotations

import os
import subprocess


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


class GpuPool:
    """Hands the machine's GPUs to tasks."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        self.gpus = gpus
        self._free = list(gpus)

    def take(self, n: int) -> tuple[str, ...] | None:
        """``n`` GPUs; None while too few are free. A machine without any runs everything on the CPU."""
        if not self.gpus or n == 0:
            return ()
        if n > len(self._free):
            return None
        taken, self._free = self._free[:n], self._free[n:]
        return tuple(taken)

    def reserve(self, names: str | None) -> tuple[str, ...]:
        """Those of a task that an earlier scheduler has started, by its CUDA_VISIBLE_DEVICES."""
        taken = tuple(name for name in (names or "").split(",") if name in self._free)
        self._free = [name for name in self._free if name not in taken]
        return taken

    def give_back(self, taken: tuple[str, ...]) -> None:
        """Let others have them."""
        self._free += taken
