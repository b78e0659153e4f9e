"""What is said to the API about batches: create one, watch it, fetch its results, find one that went missing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.llm import batch_rows, requests
from spd_tools.llm.api import Api, Lost, Rejected, Unreached, insistently
from spd_tools.llm.batch_rows import BatchRow
from spd_tools.llm.ledger import GroupCommits
from spd_tools.llm.replies import outcome_of
from spd_tools.llm.requests import NOTHING
from spd_tools.llm.retries import OVERLOADED
from spd_tools.llm.terms import Terms
from spd_tools.llm.wire import Reply, plain

if TYPE_CHECKING:
    from anthropic.types.messages import MessageBatch

_CLOCK_SKEW = timedelta(minutes=10)
"""By the server's clock, a batch may have been created that much before its intention."""
_PER_COMMIT = 200
"""Results that are stored together."""


class BatchDesk:
    """The batches of a ledger."""

    def __init__(self, terms: Terms, api: Api, commit: GroupCommits) -> None:
        self._terms = terms
        self._api = api
        self._commit = commit

    async def create(self, batch: str, bodies: list[dict[str, Any]]) -> None:
        """Create a batch whose intention is stored.

        Raises:
            SpdToolsError: when it was refused, or nobody knows whether it was created.
        """
        try:
            made = await self._created(bodies)
        except Lost as error:
            row = next(row for row in await self._commit(batch_rows.open_batches) if row.id == batch)
            raise _uncertain(row, await self._candidates(row), str(error)) from None
        except SpdToolsError as error:
            reason = str(error)
            await self._commit(lambda connection: batch_rows.rejected(connection, batch, reason))
            raise
        await self._note_created(batch, made.id)

    async def identify(self, show: Callable[[str], None]) -> None:
        """Find out which batches of the API those are that were intended and have no id.

        Raises:
            SpdToolsError: when that cannot be found out, with the candidates and what to do.
        """
        for row in await self._commit(batch_rows.open_batches):
            if row.batch_id is None:
                found = await self._identified(row)
                await self._note_created(row.id, found)
                show(f"found batch {row.id} again, as {found}")

    async def ended(self, batches: set[str], poll_seconds: float, show: Callable[[str], None]) -> list[str]:
        """Wait until at least one of them has ended; which have."""
        while True:
            rows = [row for row in await self._commit(batch_rows.open_batches) if row.id in batches]
            found = {row.id: await self._state(row) for row in rows}
            # What is not open any more was collected by another process.
            done = [batch for batch in sorted(batches) if batch not in found or found[batch] is None]
            if done:
                show("")
                return done
            show("; ".join(f"batch {batch}: {state}" for batch, state in found.items()))
            await asyncio.sleep(poll_seconds)

    async def collect(self, batch: str) -> None:
        """Store the results of a batch that has ended. Texts are stored as they are: who asks for them checks them."""
        row = next((row for row in await self._commit(batch_rows.open_batches) if row.id == batch), None)
        if row is None:
            return
        await insistently(lambda: self._store_results(row), self._terms.retries.pause)
        await self._commit(lambda connection: batch_rows.collected(connection, batch))

    async def _created(self, bodies: list[dict[str, Any]]) -> MessageBatch:
        """
        Raises:
            Lost: when nobody knows whether it was created.
            SpdToolsError: when it was not.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return await self._api.create_batch(bodies)
            except (Rejected, Unreached) as error:
                status = error.status if isinstance(error, Rejected) else None
                if status is not None and status >= 500 and status not in OVERLOADED:
                    raise Lost(str(error)) from None
                asked = error.retry_after if isinstance(error, Rejected) else None
                passing = status is None or status in OVERLOADED
                seconds = self._terms.retries.pause(attempt, asked) if passing else None
                if seconds is None:
                    raise SpdToolsError(f"A batch was not created: {error}") from None
            await asyncio.sleep(seconds)

    async def _note_created(self, batch: str, batch_id: str) -> None:
        await self._commit(lambda connection: batch_rows.created(connection, batch, batch_id))

    async def _state(self, row: BatchRow) -> str | None:
        """None when it has ended, else how far it is."""
        assert row.batch_id is not None, "intended batches are identified first"
        batch = await self._ask(row.batch_id)
        if batch.processing_status == "ended":
            return None
        counts = batch.request_counts
        return f"{row.n - counts.processing:,} of {row.n:,} done, {batch.processing_status.replace('_', ' ')}"

    async def _ask(self, batch_id: str) -> MessageBatch:
        return await insistently(lambda: self._api.batch(batch_id), self._terms.retries.pause)

    async def _store_results(self, row: BatchRow) -> None:
        assert row.batch_id is not None
        members = await self._commit(lambda connection: batch_rows.members(connection, row.id))
        settled: list[tuple[int, requests.Outcome]] = []
        async for result in self._api.batch_results(row.batch_id):
            member = members.pop(str(result.get("custom_id")), None)
            outcome = None if member is None else self._outcome(result.get("result"), member[1])
            if member is not None and outcome is not None:
                settled.append((member[0], outcome))
            if len(settled) >= _PER_COMMIT:
                await self._store(settled)
                settled = []
        await self._store(settled)

    async def _store(self, settled: list[tuple[int, requests.Outcome]]) -> None:
        await self._commit(lambda connection: [requests.settle(connection, *one) for one in settled])

    def _outcome(self, result: Any, model: str) -> requests.Outcome | None:
        """None when nobody can read from it what became of the request."""
        prices = self._terms.prices
        match result:
            case {"type": "succeeded", "message": message}:
                try:
                    reply = Reply.model_validate(message)
                except ValidationError:
                    return None
                return outcome_of(reply, None, prices, prices.of(model), batch=True)[0]
            case {"type": "errored", "error": error}:
                return _unpaid(f"The API could not answer it in the batch: {plain(str(_message_of(error)))}.")
            case {"type": "canceled"}:
                return _unpaid("The batch was canceled before it was answered.")
            case {"type": "expired"}:
                return _unpaid("The batch expired before it was answered.")
            case _:
                return None

    async def _identified(self, row: BatchRow) -> str:
        candidates = await self._candidates(row)
        for batch in candidates:
            if batch.processing_status == "ended" and await self._is_ours(row, batch.id):
                return batch.id
        unproven = [batch for batch in candidates if batch.processing_status != "ended"]
        raise _uncertain(row, unproven, "The process that created it did not live to store its id.")

    async def _candidates(self, row: BatchRow) -> list[MessageBatch]:
        """Batches of the right size and time that belong to no other intention."""
        earliest = datetime.fromisoformat(row.created) - _CLOCK_SKEW
        newest = await insistently(
            lambda: self._api.newest_batches(lambda batch: batch.created_at < earliest), self._terms.retries.pause
        )
        known = await self._commit(batch_rows.known_batch_ids)
        return [batch for batch in newest if batch.id not in known and _size(batch) == row.n]

    async def _is_ours(self, row: BatchRow, batch_id: str) -> bool:
        async def first() -> str:
            results = self._api.batch_results(batch_id)
            try:
                async for result in results:
                    return str(result.get("custom_id"))
                return ""
            finally:
                await results.aclose()

        found = await insistently(first, self._terms.retries.pause)
        return found.startswith(f"{row.id}-")


def _uncertain(row: BatchRow, candidates: list[MessageBatch], why: str) -> SpdToolsError:
    listed = ", ".join(
        f"{plain(batch.id)} ({batch.processing_status}, created {batch.created_at:%Y-%m-%d %H:%M:%S} UTC)"
        for batch in candidates
    )
    return SpdToolsError(
        f"Nobody knows whether batch {row.id} ({row.n:,} requests, {row.created[:19]} UTC) was created "
        f"({why.rstrip('.')}); candidates in the API's list: {listed or 'none'}. Run again when they have ended (ours "
        f"is then recognised by its requests), say which it is with --adopt-batch {row.id}=ID, or that there is none "
        f"with --abandon-batch {row.id}."
    )


def _size(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired


def _unpaid(reason: str) -> requests.Outcome:
    return requests.Outcome(state="failed", usage=NOTHING, cost=0, reason=reason)


def _message_of(error: Any) -> Any:
    match error:
        case {"error": {"message": message}} | {"message": message}:
            return message
        case _:
            return "no reason given"
