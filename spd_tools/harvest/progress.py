"""Progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _TokenRate(ProgressColumn):
    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        rate = task.fields["n_tokens"] / elapsed if elapsed else 0.0
        return Text(f"{rate:,.0f} tokens/s")


class HarvestProgress:
    """Batches done, tokens per second, time left."""

    def __init__(self, rank: int, world_size: int, n_batches: int, *, enabled: bool) -> None:
        self.n_tokens = 0
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("batches"),
            _TokenRate(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        name = "Harvesting" if world_size == 1 else f"Harvesting rank {rank} of {world_size}"
        self._world_size = world_size
        self._task = self._bar.add_task(name, total=n_batches, n_tokens=0)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self, tokens: int, index: int) -> None:
        """Count a batch: its tokens and its global number."""
        self.n_tokens += tokens
        self._bar.update(self._task, completed=index // self._world_size + 1, n_tokens=self.n_tokens)


@contextmanager
def step_printer(name: str, *, enabled: bool) -> Iterator[Callable[[str], None]]:
    """A spinner that says which step is under way."""
    console = Console(stderr=True)
    if not enabled or not console.is_terminal:
        yield lambda step: None
        return
    with console.status(f"{name} …") as status:
        yield lambda step: status.update(f"{name}: {step} …")
