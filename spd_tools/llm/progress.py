"""Progress of calls on stderr."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from spd_tools.llm.call import Answer, Failure, NotSent, Outcome


@dataclass
class Tally:
    """What a sitting has done so far."""

    answered: int = 0
    """Newly."""
    from_ledger: int = 0
    failed: int = 0
    not_sent: int = 0
    dollars: float = 0.0
    """Paid."""
    note: str = ""
    """What it is waiting for, if it is."""

    def count(self, outcome: Outcome) -> None:
        """Add an outcome."""
        match outcome:
            case Answer():
                self.answered += not outcome.from_ledger
                self.from_ledger += outcome.from_ledger
                self.dollars += 0 if outcome.from_ledger else outcome.dollars
            case NotSent():
                self.not_sent += 1
                self.dollars += outcome.dollars
            case Failure():
                self.failed += 1
                self.dollars += outcome.dollars

    @property
    def done(self) -> int:
        """Calls with an outcome."""
        return self.answered + self.from_ledger + self.failed + self.not_sent


class CallProgress(Protocol):
    """Is told after each outcome."""

    def show(self, tally: Tally) -> None:
        """The state so far."""
        ...


class CallBar:
    """A bar on stderr: calls done, failures and dollars so far, time left."""

    def __init__(self, description: str, total: int | None, *, enabled: bool = True) -> None:
        """``total``: calls that there will be; None when that is not known."""
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            disable=not enabled,
        )
        self._task = self._bar.add_task(description, total=total, state="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, tally: Tally) -> None:
        """See ``CallProgress``."""
        self._bar.update(self._task, completed=tally.done, state=state_line(tally))


def state_line(tally: Tally) -> str:
    """Dollars and failures so far, in words."""
    parts = [f"${tally.dollars:,.4f}", f"{tally.failed:,} failed"]
    if tally.from_ledger:
        parts.append(f"{tally.from_ledger:,} known before")
    if tally.not_sent:
        parts.append(f"{tally.not_sent:,} not sent")
    return ", ".join(parts + [tally.note] * bool(tally.note))
