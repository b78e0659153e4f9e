"""The ledger of a run: what was asked, answered and paid. It lies in the run's annotations file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

from spd_tools.annotations.database import Database
from spd_tools.annotations.inputs import run_name
from spd_tools.llm import ledger_tables, requests
from spd_tools.llm.call import Usage
from spd_tools.llm.prices import NANO
from spd_tools.llm.requests import usage_of
from spd_tools.settings import Settings
from spd_tools.store.records import Record

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], Any]
_GATHER_SECONDS = 0.01
"""How long a commit waits for company."""


class CallRecord(Record):
    """One call and all its requests."""

    hash: str
    job: str
    purpose: str
    tag: str
    model: str
    """That was asked."""
    served: str | None
    """That answered."""
    status: Literal["sent", "answered", "failed"]
    """"sent": under way, or nobody knows what became of it."""
    attempts: int
    repeats: int
    """Requests that were sent although an earlier one had an unknown outcome."""
    usage: Usage | None
    """Of all its requests; None while there is none whose outcome is known."""
    dollars: float
    """Paid for all its requests."""
    unknown_dollars: float
    """At most paid on top, for requests of unknown outcome."""
    seconds: float | None
    """Of the last request."""
    request_id: str | None
    time: str
    """When the last request was sent; UTC, ISO 8601."""
    reason: str | None
    """Why the last request has no answer."""
    answer: str | None
    """JSON."""


class Spending(Record):
    """What a job has cost, over all its sittings."""

    dollars: float
    """Of requests whose outcome is known."""
    unknown_dollars: float
    """At most, of those under way and those of which nobody knows what became of them."""
    n_unknown: int
    """Requests of unknown outcome."""


class Ledger:
    """Every call of a run."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, run_id: str, fingerprint: str) -> Ledger:
        """The ledger of a run; nothing is written before the first call.

        Raises:
            SpdToolsError: when its file is damaged, of another version or about another decomposition.
        """
        path = Settings.from_environment().annotations(run_name(run_id))
        ledger = cls(Database(path, run_id, fingerprint))
        with ledger.reading():
            return ledger

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection that sees one state; None while there is no ledger."""
        with self._database.read() as connection:
            yield connection if connection is not None and ledger_tables.are_there(connection) else None

    def transaction(self, operations: Sequence[Callable[[sqlite3.Connection], T]]) -> list[T]:
        """Do all of them, durably, or none."""
        with self._database.write() as connection:
            if not ledger_tables.are_there(connection):
                ledger_tables.make(connection)
            return [operation(connection) for operation in operations]

    def calls(self, job: str | None = None) -> list[CallRecord]:
        """Every call, in the order of their first requests."""
        with self.reading() as connection:
            if connection is None:
                return []
            rows = connection.execute("SELECT * FROM llm_requests WHERE ? IN (job, '') ORDER BY seq", (job or "",))
            by_call: dict[str, list[sqlite3.Row]] = {}
            for row in rows:
                by_call.setdefault(row["hash"], []).append(row)
            answers = dict(connection.execute("SELECT hash, answer FROM llm_answers").fetchall())
        return [_record(rows, answers.get(call_hash)) for call_hash, rows in by_call.items()]

    def call(self, call_hash: str) -> CallRecord | None:
        """One call; None when it was never sent."""
        with self.reading() as connection:
            if connection is None:
                return None
            rows = connection.execute("SELECT * FROM llm_requests WHERE hash = ? ORDER BY seq", (call_hash,)).fetchall()
            answer = connection.execute("SELECT answer FROM llm_answers WHERE hash = ?", (call_hash,)).fetchone()
        return _record(rows, answer and answer["answer"]) if rows else None

    def holds(self, call_hash: str) -> bool:
        """Whether a call would not be sent: its answer is here, or it is part of a batch that is not collected yet."""
        with self.reading() as connection:
            return connection is not None and requests.find(connection, call_hash) is not None

    def held_tags(self, purpose: str, model: str) -> set[str]:
        """Tags of all calls to a model for a purpose of which ``holds`` may be true."""
        query = """SELECT tag FROM llm_requests
                   WHERE purpose = ? AND model = ? AND (state = 'answered' OR (state = 'sent' AND batch IS NOT NULL))"""
        with self.reading() as connection:
            return set() if connection is None else {row["tag"] for row in connection.execute(query, (purpose, model))}

    def spending(self, job: str | None = None) -> Spending:
        """What a job, or everything, has cost."""
        with self.reading() as connection:
            if connection is None:
                return Spending(dollars=0, unknown_dollars=0, n_unknown=0)
            known, unknown, n_unknown = connection.execute(
                """SELECT coalesce(sum(cost), 0), coalesce(sum(CASE WHEN cost IS NULL THEN worst END), 0),
                          count(*) - count(cost) FROM llm_requests WHERE ? IN (job, '')""",
                (job or "",),
            ).fetchone()
        return Spending(dollars=known / NANO, unknown_dollars=unknown / NANO, n_unknown=n_unknown)

    def typical_output(self, purpose: str, model: str) -> tuple[float, int]:
        """(mean output tokens of the answers to calls of this purpose, how many there are)"""
        with self.reading() as connection:
            if connection is None:
                return 0.0, 0
            mean, n = connection.execute(
                """SELECT coalesce(avg(output_tokens), 0), count(*) FROM llm_requests
                   WHERE purpose = ? AND model = ? AND state = 'answered'""",
                (purpose, model),
            ).fetchone()
        return mean, n


def _record(rows: list[sqlite3.Row], answer: str | None) -> CallRecord:
    last = rows[-1] if answer is None else next(row for row in reversed(rows) if row["state"] == "answered")
    known = [row for row in rows if row["cost"] is not None]
    usages = [usage_of(row) for row in known]
    total = {name: sum(getattr(usage, name) for usage in usages) for name in Usage.model_fields}
    return CallRecord(
        **{name: last[name] for name in ("hash", "job", "purpose", "tag", "model", "served", "seconds", "request_id")},
        status=last["state"],
        attempts=len(rows),
        repeats=sum(row["repeats"] > 0 for row in rows),
        usage=Usage(**total) if usages else None,
        dollars=sum(row["cost"] for row in known) / NANO,
        unknown_dollars=sum(row["worst"] for row in rows if row["cost"] is None) / NANO,
        time=last["sent"],
        reason=last["reason"],
        answer=answer,
    )


class GroupCommits:
    """Operations of many tasks, made durable together: each waits some ten milliseconds at most, not its turn."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._waiting: list[tuple[Operation, asyncio.Future[Any]]] = []
        self._committing: asyncio.Task[None] | None = None

    async def __call__(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Do it; when this returns, it is on disk. It is done even if the task that waits is cancelled."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._waiting.append((operation, done))
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit())
        return await done

    async def close(self) -> None:
        """Wait for what is on its way."""
        if self._committing is not None:
            await self._committing

    async def _commit(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(_GATHER_SECONDS)
                group, self._waiting = self._waiting, []
                await self._commit_group(group)
        finally:
            self._committing = None

    async def _commit_group(self, group: list[tuple[Operation, asyncio.Future[Any]]]) -> None:
        try:
            made = await asyncio.to_thread(self._ledger.transaction, [operation for operation, _ in group])
        except Exception as error:
            for _, done in group:
                if not done.done():
                    done.set_exception(error)
            return
        for (_, done), result in zip(group, made, strict=True):
            if not done.done():
                done.set_result(result)
