"""Calls in, outcomes out: what a language model is here."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager

from spd_tools.errors import SpdToolsError
from spd_tools.llm.batches import BatchSettings, answer_in_batches
from spd_tools.llm.budget import Budget
from spd_tools.llm.call import Call, Outcome
from spd_tools.llm.ledger import Ledger
from spd_tools.llm.limits import Pace
from spd_tools.llm.prices import Prices
from spd_tools.llm.progress import CallProgress, Tally
from spd_tools.llm.retries import Retries
from spd_tools.llm.sitting import Sitting
from spd_tools.llm.terms import Terms

MAX_CONCURRENT = 1000


class LanguageModel:
    """Answers calls: from the ledger what has been paid for, by the API the rest. One stream at a time."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        job: str = "",
        max_concurrent: int = 50,
        budget: float | None = None,
        progress: CallProgress | None = None,
        retries: Retries | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        """
        Args:
            ledger: of the run that the calls are about.
            job: what the budget is for: everything ever paid under this name in this ledger counts. The same command,
                started again, should have the same one, and other commands others.
            max_concurrent: requests under way at once, at most; fewer while the server asks for it.
            budget: dollars. None: no limit.
            progress: is told after each outcome.
            retries: patience with failures that may pass.
            timeout_seconds: for one reply.

        Raises:
            SpdToolsError: for an impossible number of requests or budget, or unreadable prices.
        """
        if not 1 <= max_concurrent <= MAX_CONCURRENT:
            raise SpdToolsError(f"{max_concurrent} requests at once are impossible; choose from 1 to {MAX_CONCURRENT}.")
        self._budget = Budget(budget)
        self._terms = Terms(
            ledger=ledger,
            job=job,
            max_concurrent=max_concurrent,
            prices=Prices.load(),
            retries=retries or Retries(),
            timeout_seconds=timeout_seconds,
        )
        self._pace = Pace(max_concurrent)
        self._failures: dict[str, str] = {}
        self._progress = progress
        self._busy = False
        self.tally = Tally()
        """What this object has done so far."""

    @property
    def budget_exhausted(self) -> bool:
        """Whether a call was left unsent because it might have crossed the budget."""
        return self._budget.exhausted

    async def answer(self, calls: Iterable[Call]) -> AsyncGenerator[Outcome]:
        """Outcomes as they come, one per call. An answer is in the ledger before it is yielded.

        Calls are taken when there is room for them: only ``max_concurrent`` and a few exist at once. The same call
        twice is sent once. Close the iterator (or exhaust it): what is still under way then is given up, and counted
        at its worst.

        Raises:
            SpdToolsError: for failures that every other call would share: no key or a wrong one, an unknown model, no
                connection, an unknown price, a ledger that cannot be written.
        """
        with self._alone():
            sitting = Sitting(self._terms, self._budget, self._pace, self._failures)
            outcomes = sitting.answer(calls)
            try:
                async for outcome in outcomes:
                    yield self._counted(outcome)
            finally:
                await outcomes.aclose()

    async def answer_in_batches(
        self, calls: Iterable[Call], settings: BatchSettings | None = None
    ) -> AsyncGenerator[Outcome]:
        """Outcomes at half price, within 24 hours (mostly one). See ``batches``.

        After a kill, the same calls find their batches again. All that fit into a batch exist at once.

        Raises:
            SpdToolsError: as ``answer``; for a batch of which nobody knows whether it was created, with what to do.
        """
        with self._alone():
            outcomes = answer_in_batches(calls, self._terms, self._budget, settings or BatchSettings(), self._wait_for)
            try:
                async for outcome in outcomes:
                    yield self._counted(outcome)
            finally:
                await outcomes.aclose()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        assert not self._busy, "a LanguageModel answers one stream of calls at a time"
        self._busy = True
        try:
            yield
        finally:
            self._busy = False

    def _wait_for(self, note: str) -> None:
        self.tally.note = note
        self._show()

    def _counted(self, outcome: Outcome) -> Outcome:
        self.tally.count(outcome)
        self._show()
        return outcome

    def _show(self) -> None:
        if self._progress is not None:
            self._progress.show(self.tally)
