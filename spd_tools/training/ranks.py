"""Training by several processes of this machine, a GPU each (or on the CPU, where that is asked for).

The process that starts them takes their signals: they stand in sessions of their own, are asked to save and stop once,
and do so by themselves when it is gone.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from pydantic import TypeAdapter

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_json
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.loop import OnStep

_WORKS = {
    "decompose": "spd_tools.training.decompose:RANKED",
    "pretrain": "spd_tools.training.pretrain_run:RANKED",
}
"""Name -> module and constant, a ``Ranked``."""
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20.0
_REPORT_SECONDS = 1.0


class RanksStoppedError(SpdToolsError):
    """The ranks were asked to stop before they had anything to save."""


class _Request(Protocol):
    @property
    def device(self) -> str | None: ...


Request = TypeVar("Request", bound=_Request)
Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Ranked(Generic[Request, Outcome]):
    """Something that several processes can do together; request and outcome are dataclasses that JSON can hold."""

    request: type[Request]
    outcome: type[Outcome]
    run: Callable[..., Outcome]
    """Takes the request, and ``on_step`` by name."""


def run_ranks(work: str, request: Any, n_ranks: int, *, on_step: OnStep = lambda done, total: None) -> Any:
    """Run "decompose" or "pretrain" in so many processes, which train one model together; one: in this process.

    Args:
        work: Which of both.
        request: Its request.
        n_ranks: Processes.
        on_step: Progress.

    Returns:
        Its outcome.

    Raises:
        SpdToolsError: when there are too few GPUs, or one of the processes fails; it has said why on stderr.
        RanksStoppedError: when they were stopped while they were getting ready.
    """
    ranked = _find(work)
    if n_ranks == 1:
        return ranked.run(request, on_step=on_step)
    check_gpus(request.device, n_ranks)
    with tempfile.TemporaryDirectory() as name, StopSignal() as stop:
        scratch = Path(name)
        (scratch / "request.json").write_bytes(TypeAdapter(ranked.request).dump_json(request))
        processes = _start(work, scratch, n_ranks, on_cpu=request.device == "cpu")
        try:
            failed = _watch(processes, stop, lambda: _pass_on(scratch, on_step))
        finally:
            _end(processes)
        if failed is not None and stop.requested:
            raise RanksStoppedError(f"The {n_ranks} processes were stopped before they had anything to save.")
        if failed is not None:
            raise SpdToolsError(f"Process {failed} of {n_ranks} failed; what it said stands above.")
        return TypeAdapter(ranked.outcome).validate_json((scratch / "outcome.json").read_bytes())


def check_gpus(device: str | None, n_ranks: int) -> None:
    """See that so many processes have a device each.

    Raises:
        SpdToolsError: when they have not.
    """
    if device == "cpu":
        return
    if device is not None and device.startswith("cuda:"):
        raise SpdToolsError(f"Every process takes a GPU of its own; say --device cuda instead of {device}.")
    if (found := torch.cuda.device_count()) < n_ranks:
        raise SpdToolsError(
            f"{n_ranks} GPUs were asked for and there are {found}; lower --n-gpus, or train with --cpu."
        )


def _find(work: str) -> Ranked[Any, Any]:
    module, constant = _WORKS[work].split(":")
    return getattr(import_module(module), constant)


def _start(work: str, scratch: Path, n_ranks: int, *, on_cpu: bool) -> list[subprocess.Popen[bytes]]:
    meeting = {"WORLD_SIZE": str(n_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
    if on_cpu and "OMP_NUM_THREADS" not in os.environ:
        meeting["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // n_ranks))
    return [
        subprocess.Popen(
            [sys.executable, "-m", "spd_tools.training.ranks", work, str(scratch)],
            env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdin=subprocess.PIPE,  # nothing is ever written: it ends when this process does
            start_new_session=True,  # a terminal's Ctrl-C reaches this process alone
        )
        for rank in range(n_ranks)
    ]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _watch(processes: list[subprocess.Popen[bytes]], stop: StopSignal, look: Callable[[], None]) -> int | None:
    """Wait for all; the rank that failed first, or None."""
    told = False
    while True:
        codes = [process.poll() for process in processes]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None or all(code == 0 for code in codes):
            return failed
        if stop.requested and not told:
            told = True
            for process in processes:
                process.terminate()
        look()
        time.sleep(_POLL_SECONDS)


def _pass_on(scratch: Path, on_step: OnStep) -> None:
    try:
        done, total = json.loads((scratch / "progress.json").read_bytes())
    except FileNotFoundError:
        return
    on_step(done, total)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


# --- a rank ---------------------------------------------------------------------------------------------------------


def main() -> int:
    """One rank; returns the exit code."""
    work, scratch = sys.argv[1], Path(sys.argv[2])
    threading.Thread(target=_stop_when_alone, daemon=True).start()
    ranked = _find(work)
    request = TypeAdapter(ranked.request).validate_json((scratch / "request.json").read_bytes())
    progress = _Progress(scratch / "progress.json")
    try:
        outcome = ranked.run(request, on_step=progress.show)
    except SpdToolsError as error:
        print(error, file=sys.stderr)
        return 1
    if os.environ["RANK"] == "0":
        (scratch / "outcome.json").write_bytes(TypeAdapter(ranked.outcome).dump_json(outcome))
    return 0


def _stop_when_alone() -> None:
    """Save and stop when the process that started this one has ended, however it did."""
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


class _Progress:
    """How far the first rank is, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = -float("inf")

    def show(self, done: int, total: int) -> None:
        """Called after every step."""
        now = time.monotonic()
        if now - self._last >= _REPORT_SECONDS:
            self._last = now
            write_json(self._path, [done, total])


if __name__ == "__main__":
    code = main()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    # Everything is on the disk. Leaving by way of Python's and C++'s ends would now and then abort: gloo's threads are
    # not always joined by then (https://github.com/pytorch/pytorch/issues/190489).
    os._exit(code)
