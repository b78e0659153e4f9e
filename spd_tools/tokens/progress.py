"""Progress on stderr: only on a terminal, and only for what takes longer than two seconds."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PATIENCE_S = 2.0


class TokenisingProgress:
    """A bar with tokens, tokens per second and the time left."""

    def __init__(self) -> None:
        self._wanted = sys.stderr.isatty()
        self._start = monotonic()
        self._n_tokens = 0
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, n_tokens: int, done: float | None) -> None:
        """Report ``n_tokens`` more, and the share of the data set that has been read (None: unknown)."""
        self._n_tokens += n_tokens
        elapsed = monotonic() - self._start
        if not self._wanted or elapsed < PATIENCE_S:
            return
        if self._bar is None:
            self._bar, self._task = _bar()
        assert self._task is not None
        self._bar.update(
            self._task,
            total=None if done is None else 1.0,
            completed=done or 0.0,
            tokens=f"{self._n_tokens:,} tokens, {self._n_tokens / elapsed:,.0f}/s",
        )


def _bar() -> tuple[Progress, TaskID]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("Tokenising"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[tokens]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    bar.start()
    return bar, bar.add_task("", total=None, tokens="")


@contextmanager
def waiting(message: str) -> Iterator[None]:
    """Say on stderr what is waited for, when that is a terminal. The message must be our own text."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(message):
        yield
