"""What the processes of test_tokens_cache do. Spawned ones import this module by name."""

import os
import signal
from contextlib import contextmanager
from multiprocessing.connection import Connection

import numpy as np

from spd_tools.tokens import DataConfig, TokenDataset, cache, cached_rows, prepare_tokens
from spd_tools.tokens.rows import ROWS_AT_ONCE

N_ROWS = 2 * ROWS_AT_ONCE + 500


def rows():
    """Rows of 1 to 5 tokens, more than are written at once."""
    return [np.arange(number, number + 1 + number % 5) % 90 for number in range(N_ROWS)]


def make(rows=rows) -> TokenDataset:
    return cached_rows("some-rows", 5, 90, rows, "rows of a test", None)


def prepare_together(barrier, config: DataConfig, result: Connection) -> None:
    barrier.wait()
    dataset = prepare_tokens(config)
    result.send((dataset.fingerprint, (dataset.folder / "tokens.npy").stat().st_ino, dataset.tokens.tolist()))


def make_slowly(started: Connection, go_on: Connection, result: Connection) -> None:
    """Make the token file, stopping in its middle until told to go on."""

    def slow_rows():
        for number, row in enumerate(rows()):
            if number == N_ROWS - 1:
                started.send(None)
                go_on.recv()
            yield row

    make(slow_rows)
    result.send(None)


def make_unless_made(events: Connection) -> None:
    """Make the token file; tell when it waits for somebody else, when the rows are asked for, and the end."""

    @contextmanager
    def telling(message):
        events.send("waits")
        yield

    def watched_rows():
        events.send("asks for rows")
        return rows()

    cache.waiting = telling
    make(watched_rows)
    events.send("has it")


def make_and_die(at: int) -> None:
    """Make the token file; at the ``at``-th call that changes the disk for good, SIGKILL."""
    left = at

    def deadly(call):
        def wrapper(*args, **kwargs):
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return wrapper

    for name in ("mkdir", "fsync", "rename", "replace"):
        setattr(os, name, deadly(getattr(os, name)))
    make()
