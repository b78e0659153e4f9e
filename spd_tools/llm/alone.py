"""One process at a time asks a model for a kind of work about a run: two would pay for the same answers.

A call is looked up in the ledger before it is sent, but is there with its answer only when that has come: whoever asks
meanwhile pays again. The lock is a file beside the run's annotations, so that it holds on all hosts that share them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import IO

from spd_tools.annotations.inputs import run_name
from spd_tools.errors import SpdToolsError
from spd_tools.locks import open_lock, try_lock
from spd_tools.settings import Settings

LOOK_SECONDS = 0.5
"""Between two tries. Waiting in the kernel instead would leave Ctrl-C and the signals of clusters unheard."""
_NO_HOST = re.compile(r"[^A-Za-z0-9.-]")


@asynccontextmanager
async def alone(run_id: str, works: Iterable[str]) -> AsyncIterator[bool]:
    """Wait until no other process does any of ``works`` about a run, saying on stderr who does; yields whether one did.

    Args:
        run_id: of the run that is asked about.
        works: kinds of work whose calls can be the same, each with what else decides about them: "detection by M".

    Raises:
        SpdToolsError: when the locks cannot be written, or their file system knows none.
    """
    waited = False
    with ExitStack() as held:
        for work in sorted(set(works)):  # in one order: no two processes wait for each other
            lock = held.enter_context(open_lock(_path(run_id, work)))
            waited |= await _wait_for(lock, run_id, work)
            _sign(lock, work)
        yield waited


def _path(run_id: str, work: str) -> Path:
    folder = Settings.from_environment().annotations(run_name(run_id)).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpdToolsError(f"{folder} cannot be made: {error.strerror}; choose another SPD_OUT_DIR.") from error
    return folder / f".{run_id}.{hashlib.sha256(work.encode()).hexdigest()[:12]}.lock"


async def _wait_for(lock: IO[bytes], run_id: str, work: str) -> bool:
    """Whether another process had it."""
    path = Path(lock.name)
    if try_lock(lock.fileno(), path):
        return False
    print(
        f"{_holder(path)} asks for {work} about {run_id} now; waiting for it, so that no answer is paid for twice.",
        file=sys.stderr,
        flush=True,
    )
    while not try_lock(lock.fileno(), path):
        await asyncio.sleep(LOOK_SECONDS)
    return True


def _sign(lock: IO[bytes], work: str) -> None:
    """Say who holds a lock; for people only, so that a full disk is no reason to stop."""
    said = {"work": work, "pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
    with contextlib.suppress(OSError):
        os.ftruncate(lock.fileno(), 0)
        os.write(lock.fileno(), json.dumps(said).encode())


def _holder(path: Path) -> str:
    try:
        said = json.loads(path.read_bytes())
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(float(said["since"])))
        return f"Process {int(said['pid'])} on {_NO_HOST.sub('_', str(said['host']))} (since {since})"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):  # it has not signed yet
        return "Another process"
