"""Training by several processes of this machine, a GPU each (or on the CPU, where that is asked for)."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from pydantic import TypeAdapter

from spd_tools.errors import SpdToolsError
from spd_tools.training.decompose import DecomposeOutcome, DecomposeRequest, decompose

_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 20.0


def start_ranks(request: DecomposeRequest, n_ranks: int) -> DecomposeOutcome:
    """Run ``decompose`` in so many processes, which train one model together.

    Raises:
        SpdToolsError: when there are too few GPUs, or one of the processes fails; it has said why on stderr.
    """
    on_cpu = request.device == "cpu"
    if not on_cpu and torch.cuda.device_count() < n_ranks:
        raise SpdToolsError(
            f"{n_ranks} GPUs were asked for and there are {torch.cuda.device_count()}; lower --n-gpus, or train with "
            "--cpu."
        )
    with tempfile.TemporaryDirectory() as scratch:
        question, answer = Path(scratch) / "request.json", Path(scratch) / "outcome.json"
        question.write_text(json.dumps(dataclasses.asdict(request)))
        meeting = {"WORLD_SIZE": str(n_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "spd_tools.training.ranks", str(question), str(answer)],
                env=os.environ | meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdin=subprocess.DEVNULL,
            )
            for rank in range(n_ranks)
        ]
        try:
            failed = _first_failure(processes)
        finally:
            _end(processes)
        if failed is not None:
            raise SpdToolsError(f"Process {failed} of {n_ranks} failed; what it said stands above.")
        return TypeAdapter(DecomposeOutcome).validate_json(answer.read_bytes())


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _first_failure(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Wait for all; the rank that failed first, or None."""
    while True:
        codes = [process.poll() for process in processes]
        failed = next((rank for rank, code in enumerate(codes) if code), None)
        if failed is not None or all(code == 0 for code in codes):
            return failed
        time.sleep(_POLL_SECONDS)


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


def main() -> int:
    """One rank; returns the exit code."""
    question, answer = map(Path, sys.argv[1:])
    request = TypeAdapter(DecomposeRequest).validate_json(question.read_bytes())
    rank = int(os.environ["LOCAL_RANK"])
    if request.device is None or request.device == "cuda":
        torch.cuda.set_device(rank)
        request = dataclasses.replace(request, device=f"cuda:{rank}")
    try:
        outcome = decompose(request)
    except SpdToolsError as error:
        print(error, file=sys.stderr)
        return 1
    if rank == 0:
        answer.write_bytes(TypeAdapter(DecomposeOutcome).dump_json(outcome))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
