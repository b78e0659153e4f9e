"""Message batches: half the price, up to 24 hours, and nothing is created twice.

A batch goes through the ledger as intended -> created -> collected. Its intention is stored before it is created, with
custom ids that no other batch has. Whoever finds an intention without the API's id (somebody was killed, or the
connection dropped in between) looks through the API's list of batches: one that has ended shows its custom ids, and is
taken over when they are ours; else the user is told the candidates and decides (``adopt_batch``, ``abandon_batch``).
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from dataclasses import dataclass

from spd_tools.llm import batch_rows, requests
from spd_tools.llm.api import Api
from spd_tools.llm.batch_desk import BatchDesk
from spd_tools.llm.batch_rows import custom_id
from spd_tools.llm.budget import Budget
from spd_tools.llm.call import Asked, Call, Outcome
from spd_tools.llm.ledger import GroupCommits
from spd_tools.llm.replies import failure, not_sent, stored_answer
from spd_tools.llm.requests import InBatch, Stored
from spd_tools.llm.terms import Terms
from spd_tools.llm.wire import input_bound, request_body, unpriced, worst_cost

_MAX_BYTES = 100_000_000
"""Of one batch, by a bound on its requests; the API takes 256 MB."""


@dataclass(frozen=True, kw_only=True)
class BatchSettings:
    """How batches are made and watched."""

    size: int = 10_000
    """Requests of one batch at most; the API takes 100,000. They are in memory together while it is made."""
    poll_seconds: float = 30.0
    """Between two looks at the batches that are under way."""


async def answer_in_batches(
    calls: Iterable[Call], terms: Terms, budget: Budget, settings: BatchSettings, show: Callable[[str], None]
) -> AsyncGenerator[Outcome]:
    """See ``LanguageModel.answer_in_batches``."""
    api = Api(max_concurrent=4, timeout_seconds=terms.timeout_seconds)
    commit = GroupCommits(terms.ledger)
    desk = BatchDesk(terms, api, commit)
    try:
        await desk.identify(show)
        async for outcome in _Round(terms, budget, settings, desk, commit, show).answer(iter(calls)):
            yield outcome
    finally:
        await commit.close()
        await api.close()


def _take(supply: Iterator[Call], size: int) -> list[Call]:
    taken: list[Call] = []
    n_bytes = 0
    for call in supply:
        taken.append(call)
        n_bytes += 2 * input_bound(call)
        if len(taken) == size or n_bytes >= _MAX_BYTES:
            break
    return taken


class _Round:
    """Calls go into batches as long as the budget allows for their worst; then those are collected, and so on."""

    def __init__(
        self,
        terms: Terms,
        budget: Budget,
        settings: BatchSettings,
        desk: BatchDesk,
        commit: GroupCommits,
        show: Callable[[str], None],
    ) -> None:
        self._terms = terms
        self._budget = budget
        self._settings = settings
        self._desk = desk
        self._commit = commit
        self._show = show
        self._waiting: dict[str, list[Asked]] = {}
        """Batch -> calls that it holds."""
        self._new: set[str] = set()
        """Hashes of calls in ``waiting`` that were sent by us."""

    async def answer(self, supply: Iterator[Call]) -> AsyncGenerator[Outcome]:
        """An outcome per call."""
        chunk = _take(supply, self._settings.size)
        while chunk or self._waiting:
            left: list[Call] = []
            if chunk:
                outcomes, left = await self._submit(chunk)
                for outcome in outcomes:
                    yield outcome
            if left and not self._waiting:
                self._budget.exhausted = True  # nothing is under way that could cost less than feared
            chunk = left or _take(supply, self._settings.size)
            if left or not chunk:
                async for outcome in self._collect():
                    yield outcome

    async def _submit(self, chunk: list[Call]) -> tuple[list[Outcome], list[Call]]:
        """Put calls into a batch; (outcomes that are there at once, calls that the budget has no room for now)."""
        priced, outcomes = self._priced(chunk)
        unknown = await self._look_up(priced, outcomes)
        if self._budget.exhausted:
            return outcomes + [not_sent(call, self._budget.sentence()) for call in unknown], []
        once = list({call.hash: call for call in reversed(unknown)}.values())[::-1]
        n_seen = await self._send(once)
        left = {call.hash for call in once[n_seen:]}
        remaining = await self._look_up([call for call in unknown if call.hash not in left], outcomes)
        assert not remaining, "what was looked at is in a batch now, ours or another's, or has an answer"
        return outcomes, [call for call in unknown if call.hash in left]

    def _priced(self, chunk: list[Call]) -> tuple[list[Call], list[Outcome]]:
        """(calls whose price is known, outcomes of the others)"""
        reasons = [unpriced(call, self._terms.prices.of(call.model)) for call in chunk]
        priced = [call for call, reason in zip(chunk, reasons, strict=True) if reason is None]
        return priced, [not_sent(call, reason) for call, reason in zip(chunk, reasons, strict=True) if reason]

    async def _look_up(self, calls: list[Call], outcomes: list[Outcome]) -> list[Call]:
        """Add outcomes that are in the ledger, and note what is in a batch; the other calls."""
        unknown = []
        for call, known in zip(calls, await self._find([call.hash for call in calls]), strict=True):
            if isinstance(known, InBatch):
                self._waiting.setdefault(known.batch, []).append(call.asked)
            elif known is not None:
                outcomes.append(await stored_answer(call, known, self._commit, from_ledger=True))
            else:
                unknown.append(call)
        return unknown

    async def _find(self, hashes: list[str]) -> list[Stored | InBatch | None]:
        return await self._commit(lambda connection: [requests.find(connection, one) for one in hashes])

    async def _send(self, calls: list[Call]) -> int:
        """Create a batch of the calls that the budget has room for; how many it has."""
        prices, job, limit = self._terms.prices, self._terms.job, self._budget.limit
        priced = [(call, worst_cost(call, prices, prices.of(call.model), batch=True)) for call in calls]
        batch = f"b-{secrets.token_hex(6)}"
        taken, n_seen = await self._commit(lambda connection: batch_rows.intend(connection, batch, priced, job, limit))
        if taken:
            self._new |= {call.hash for call in taken}
            bodies = [
                {"custom_id": custom_id(batch, call.hash), "params": request_body(call, prices.of(call.model))}
                for call in taken
            ]
            await self._desk.create(batch, bodies)
        return n_seen

    async def _collect(self) -> AsyncGenerator[Outcome]:
        while self._waiting:
            for batch in await self._desk.ended(set(self._waiting), self._settings.poll_seconds, self._show):
                await self._desk.collect(batch)
                held = self._waiting.pop(batch)
                known = await self._find([asked.hash for asked in held])
                for asked, found in zip(held, known, strict=True):
                    yield await self._collected(asked, found)

    async def _collected(self, asked: Asked, found: Stored | InBatch | None) -> Outcome:
        new = asked.hash in self._new
        self._new.discard(asked.hash)
        if isinstance(found, Stored):
            return await stored_answer(asked, found, self._commit, from_ledger=not new)
        reason, cost = await self._commit(lambda connection: batch_rows.last_reason(connection, asked.hash))
        return failure(asked, reason, cost if new else 0)
