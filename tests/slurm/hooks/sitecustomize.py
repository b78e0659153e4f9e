"""Imported by every Python that the tests' jobs start, as its folder is on their PYTHONPATH: stops workers where a test
wants them. The code that they run is the real one. Files in SPD_TEST_GATES say what happens:

slow          holds the seconds that every batch of a rank takes which nobody has begun before
slow-training holds the seconds that every step of a training takes which SLURM has not run again
hold-RANK     the rank's first attempt stops before the fsync of a segment until the file is gone; it makes holding-RANK
linger        a process that has nothing more to do ends when the file is gone; it makes lingering
fail-RANK     holds "raise" or "kill": what the rank does at its first batch
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import time
from importlib.machinery import PathFinder
from pathlib import Path

WORKER, TRAINER = "spd_tools.harvest.worker", "spd_tools.training.trainer"
POLL_SECONDS = 0.05
GIVE_UP_SECONDS = 300.0


def _gate(name: str) -> str | None:
    try:
        return (Path(os.environ["SPD_TEST_GATES"]) / name).read_text()
    except FileNotFoundError:
        return None


def _wait_while(name: str) -> None:
    deadline = time.monotonic() + GIVE_UP_SECONDS
    while _gate(name) is not None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


class _Finder(PathFinder):
    """Finds the modules of worker and trainer like everybody else and wraps what they do."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        if fullname not in (WORKER, TRAINER):
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            if fullname == WORKER:
                module.work = _gated(module.work)
            else:
                module.Trainer.take_step = _slowed(module.Trainer.take_step)

        spec.loader.exec_module = exec_module
        return spec


def _gated(work):
    def gated(plan, rank, rows, run_batch, **options):
        begun = any(plan.folder.glob(f"shards/{rank:05d}-of-*/state-*.json"))

        def run_slowly(*arguments):
            how = _gate(f"fail-{rank}")
            if how == "raise":
                raise RuntimeError("this rank is broken")
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0 if begun else float(_gate("slow") or 0))
            return run_batch(*arguments)

        return work(plan, rank, rows, run_slowly, **options)

    return gated


def _slowed(take_step):
    def slowed(self, step, **options):
        time.sleep(float(_gate("slow-training") or 0) if os.environ.get("SLURM_RESTART_COUNT", "0") == "0" else 0)
        return take_step(self, step, **options)

    return slowed


def _held(fsync):
    def held(fd):
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        if path.name.startswith(".segment-000001-"):
            rank = int(path.parent.name.split("-of-")[0])
            if _gate(f"hold-{rank}") is not None:
                (Path(os.environ["SPD_TEST_GATES"]) / f"holding-{rank}").write_text(str(os.getpid()))
                _wait_while(f"hold-{rank}")
        fsync(fd)

    return held


def _linger():
    if _gate("linger") is not None:
        (Path(os.environ["SPD_TEST_GATES"]) / "lingering").touch()
        _wait_while("linger")


if "SPD_TEST_GATES" in os.environ:
    if "SLURM_JOB_ID" in os.environ:
        atexit.register(_linger)
    sys.meta_path.insert(0, _Finder)
    os.fsync = _held(os.fsync)
