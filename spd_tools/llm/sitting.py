"""One stream of calls, answered by many tasks at once."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.llm import requests
from spd_tools.llm.api import Api, Delivered, Lost, Rejected, Unreached
from spd_tools.llm.budget import Budget
from spd_tools.llm.call import Call, Failure, NotSent, Outcome
from spd_tools.llm.ledger import GroupCommits
from spd_tools.llm.limits import Pace, Slot, Slots
from spd_tools.llm.prices import NANO, Price
from spd_tools.llm.replies import answer_of, failure, not_sent, outcome_of, stored_answer
from spd_tools.llm.requests import NOTHING, InBatch, Stored
from spd_tools.llm.retries import OVERLOADED
from spd_tools.llm.terms import Terms
from spd_tools.llm.wire import likely_input, request_body, unpriced, worst_cost

_AHEAD = 8
"""Calls that are built and looked up in the ledger while all slots are taken."""


@dataclass(frozen=True)
class _Again:
    """An attempt that did not come to an end, and may be repeated after some seconds (None: not any more)."""

    reason: str
    seconds: float | None
    unknown: int
    """Nanodollars that it may have cost."""
    unreached: bool = False


class Sitting:
    """From the first call to the last outcome."""

    def __init__(self, terms: Terms, budget: Budget, pace: Pace, failures: dict[str, str]) -> None:
        self._terms = terms
        self._budget = budget
        self._pace = pace
        self._failures = failures
        """Hash of a call -> why it failed under this budget: it is not sent again before somebody asks anew."""
        self._slots = Slots(pace)
        self._commit = GroupCommits(terms.ledger)
        self._being_answered: dict[str, asyncio.Event] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._api: Api | None = None

    async def answer(self, calls: Iterable[Call]) -> AsyncGenerator[Outcome]:
        """See ``LanguageModel.answer``."""
        n_workers = self._terms.max_concurrent + _AHEAD
        outcomes: asyncio.Queue[Outcome | BaseException | None] = asyncio.Queue(n_workers)
        supply = iter(calls)
        self._workers = {asyncio.create_task(self._work(supply, outcomes)) for _ in range(n_workers)}
        try:
            n_working = n_workers
            while n_working:
                outcome = await outcomes.get()
                if isinstance(outcome, BaseException):
                    raise outcome
                if outcome is None:
                    n_working -= 1
                else:
                    yield outcome
        finally:
            for worker in self._workers:
                worker.cancel()
            await asyncio.gather(*self._workers, return_exceptions=True)
            await self._commit.close()
            if self._api is not None:
                await self._api.close()

    async def _work(self, supply: Iterator[Call], outcomes: asyncio.Queue[Outcome | BaseException | None]) -> None:
        try:
            for call in supply:
                await outcomes.put(await self._outcome(call))
            await outcomes.put(None)
        except Exception as error:  # whoever reads the outcomes is to see it, and nothing else is to be sent
            for worker in self._workers - {asyncio.current_task()}:
                worker.cancel()
            await outcomes.put(error)

    async def _outcome(self, call: Call) -> Outcome:
        while call.hash in self._being_answered:
            await self._being_answered[call.hash].wait()
        earlier = self._failures.get(call.hash)
        if earlier is not None:
            return failure(call, earlier, 0)
        self._being_answered[call.hash] = asyncio.Event()
        try:
            outcome = await self._ask(call)
        finally:
            self._being_answered.pop(call.hash).set()
        if isinstance(outcome, Failure) and not isinstance(outcome, NotSent):
            self._failures[call.hash] = sys.intern(outcome.reason)
        return outcome

    async def _ask(self, call: Call) -> Outcome:
        price = self._terms.prices.of(call.model)
        reason = unpriced(call, price)
        if reason is not None:
            return not_sent(call, reason)
        known = await self._commit(lambda connection: requests.find(connection, call.hash))
        if known is not None:
            return await self._known(call, known)
        return await self._insist(call, price)

    async def _known(self, call: Call, known: Stored | InBatch) -> Outcome:
        if isinstance(known, InBatch):
            return not_sent(call, f"Not sent: it is part of batch {known.batch}, which --batch collects.")
        return await stored_answer(call, known, self._commit, from_ledger=True)

    def _connected(self) -> Api:
        """Made when something has to be sent: what is in the ledger needs no key."""
        if self._api is None:
            self._api = Api(max_concurrent=self._terms.max_concurrent, timeout_seconds=self._terms.timeout_seconds)
        return self._api

    async def _insist(self, call: Call, price: Price) -> Outcome:
        """Send it until there is an outcome, patience ends or the budget does."""
        self._connected()
        worst = worst_cost(call, self._terms.prices, price, batch=False)
        body = request_body(call, price)
        attempt = unknown = 0
        while True:
            attempt += 1
            result = await self._attempt(call, price, body, worst, attempt)
            if isinstance(result, _Again):
                unknown += result.unknown
                if result.seconds is not None:
                    await asyncio.sleep(result.seconds)
                    continue
                if result.unreached:
                    raise SpdToolsError(f"{result.reason.rstrip('.')}; check the network and ANTHROPIC_BASE_URL.")
                result = failure(call, result.reason, 0)
            if isinstance(result, Failure) and unknown:
                return result.model_copy(update={"unknown_dollars": unknown / NANO})
            return result

    async def _attempt(
        self, call: Call, price: Price, body: dict[str, Any], worst: int, attempt: int
    ) -> Outcome | _Again:
        slot = await self._slots.acquire(likely_input(call))
        try:
            begun = await self._budget.admit(
                lambda: self._commit(
                    lambda connection: requests.begin(connection, call, worst, self._terms.job, self._budget.limit)
                )
            )
            if begun is None:
                return not_sent(call, self._budget.sentence())
            try:
                if not isinstance(begun, int):
                    return await self._known(call, begun)
                return await self._request(call, price, body, worst, attempt, begun, slot)
            finally:
                self._budget.end()
        finally:
            self._slots.release(slot)

    async def _request(
        self, call: Call, price: Price, body: dict[str, Any], worst: int, attempt: int, seq: int, slot: Slot
    ) -> Outcome | _Again:
        started = time.monotonic()
        try:
            delivered = await self._connected().send(body)
        except Rejected as error:
            return await self._rejected(call, error, attempt, seq, slot)
        except Unreached as error:
            await self._settle_unpaid(seq, str(error))
            return _Again(str(error), self._terms.retries.pause(attempt, None), unknown=0, unreached=True)
        except Lost as error:
            reason = str(error)
            await self._commit(lambda connection: requests.lost(connection, seq, reason))
            return _Again(reason, self._terms.retries.pause(attempt, None), unknown=worst)
        except SpdToolsError as error:
            await self._settle_unpaid(seq, str(error))
            raise
        self._pace.succeeded(slot, delivered.headers)
        return await self._delivered(call, price, delivered, time.monotonic() - started, seq)

    async def _rejected(self, call: Call, error: Rejected, attempt: int, seq: int, slot: Slot) -> Outcome | _Again:
        if error.status in OVERLOADED:
            self._pace.refused(slot, error.headers, error.retry_after)
        await self._settle_unpaid(seq, error.sentence, http_status=error.status, request_id=error.request_id)
        if not error.transient:
            return failure(call, error.sentence, 0)
        return _Again(error.sentence, self._terms.retries.pause(attempt, error.retry_after), unknown=0)

    async def _settle_unpaid(self, seq: int, reason: str, **known: Any) -> None:
        outcome = requests.Outcome(state="failed", usage=NOTHING, cost=0, reason=reason, **known)
        await self._commit(lambda connection: requests.settle(connection, seq, outcome))

    async def _delivered(self, call: Call, price: Price, delivered: Delivered, seconds: float, seq: int) -> Outcome:
        outcome, value = outcome_of(delivered.reply, call.schema, self._terms.prices, price, batch=False)
        outcome = replace(outcome, seconds=seconds, request_id=delivered.request_id, http_status=200)
        ended = await self._commit(lambda connection: requests.settle(connection, seq, outcome))
        if value is None:
            assert outcome.reason is not None
            return failure(call, outcome.reason, outcome.cost)
        return answer_of(call, outcome, value, ended)
