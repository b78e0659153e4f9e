"""Rows of requests and answers: everything that is written for a call, inside a transaction."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

from spd_tools.annotations.database import now
from spd_tools.annotations.rows import insert
from spd_tools.llm.call import Call, Usage

_SENT = "state = 'sent'"


@dataclass(frozen=True)
class Stored:
    """An answer in the ledger."""

    seq: int
    text: str
    model: str
    usage: Usage
    cost: int
    seconds: float | None
    request_id: str | None
    time: str


@dataclass(frozen=True)
class InBatch:
    """A call without an answer yet whose last request is part of a batch that has not been collected."""

    batch: str


@dataclass(frozen=True)
class Outcome:
    """What became of a request."""

    state: Literal["answered", "failed"]
    usage: Usage
    cost: int
    """Nanodollars."""
    served: str | None = None
    seconds: float | None = None
    http_status: int | None = None
    request_id: str | None = None
    reason: str | None = None
    answer: str | None = None
    """JSON; only where ``state`` is "answered"."""


NOTHING = Usage(input=0, output=0, cache_read=0, cache_write=0)


def find(connection: sqlite3.Connection, call_hash: str) -> Stored | InBatch | None:
    """What the ledger knows about a call, if it makes sending it superfluous."""
    row = connection.execute(
        "SELECT r.*, a.answer FROM llm_answers a JOIN llm_requests r ON r.seq = a.seq WHERE a.hash = ?", (call_hash,)
    ).fetchone()
    if row is None:
        return _open_batch(connection, call_hash)
    return Stored(
        seq=row["seq"],
        text=row["answer"],
        model=row["served"],
        usage=usage_of(row),
        cost=row["cost"],
        seconds=row["seconds"],
        request_id=row["request_id"],
        time=row["ended"],
    )


def usage_of(row: sqlite3.Row) -> Usage:
    """Tokens of a request whose outcome is known."""
    names = {name: f"{name}_tokens" for name in Usage.model_fields}
    return Usage(**{name: row[column] for name, column in names.items()})


def _open_batch(connection: sqlite3.Connection, call_hash: str) -> InBatch | None:
    row = connection.execute(
        f"""SELECT b.id FROM llm_requests r JOIN llm_batches b ON b.id = r.batch
            WHERE r.hash = ? AND r.{_SENT} AND b.state IN ('intended', 'created')""",
        (call_hash,),
    ).fetchone()
    return None if row is None else InBatch(row["id"])


def begin(
    connection: sqlite3.Connection, call: Call, worst: int, job: str, limit: int | None, batch: str | None = None
) -> int | Stored | InBatch | None:
    """Note that a request is about to be sent; its ``seq``.

    None when the job might then cost more than ``limit`` nanodollars. What another process has meanwhile found out is
    returned instead.
    """
    known = find(connection, call.hash)
    if known is not None:
        return known
    if limit is not None and cost_of_job(connection, job) + worst > limit:
        return None
    earlier, unknown = connection.execute(
        f"SELECT count(*), coalesce(sum({_SENT}), 0) FROM llm_requests WHERE hash = ?", (call.hash,)
    ).fetchone()
    row = {"hash": call.hash, "job": job, "purpose": call.purpose, "tag": call.tag, "model": call.model, "batch": batch}
    counts = {"attempt": earlier + 1, "repeats": unknown, "state": "sent", "sent": now(), "worst": worst}
    _charge(connection, job, worst)
    return insert(connection, "llm_requests", row | counts)


def cost_of_job(connection: sqlite3.Connection, job: str) -> int:
    """Nanodollars that a job has cost so far, requests of unknown outcome at their worst."""
    row = connection.execute("SELECT cost FROM llm_jobs WHERE job = ?", (job,)).fetchone()
    return 0 if row is None else row["cost"]


def settle(connection: sqlite3.Connection, seq: int, outcome: Outcome) -> str:
    """Note what became of a request; when."""
    before = connection.execute("SELECT job, hash, worst, cost FROM llm_requests WHERE seq = ?", (seq,)).fetchone()
    _charge(connection, before["job"], outcome.cost - (before["worst"] if before["cost"] is None else before["cost"]))
    ended = now()
    usage = {f"{name}_tokens": count for name, count in outcome.usage.model_dump().items()}
    _update(
        connection,
        seq,
        usage
        | {
            "state": outcome.state,
            "ended": ended,
            "seconds": outcome.seconds,
            "served": outcome.served,
            "cost": outcome.cost,
            "http_status": outcome.http_status,
            "request_id": outcome.request_id,
            "reason": outcome.reason,
        },
    )
    if outcome.answer is not None:
        assert outcome.state == "answered"
        row = (before["hash"], seq, outcome.answer)
        connection.execute("INSERT OR IGNORE INTO llm_answers VALUES (?, ?, ?)", row)
    return ended


def lost(connection: sqlite3.Connection, seq: int, reason: str) -> None:
    """Note why nobody knows what became of a request; it stays counted at its worst."""
    _update(connection, seq, {"ended": now(), "reason": reason})


def reject_answer(connection: sqlite3.Connection, stored: Stored, reason: str) -> None:
    """Take an answer back that does not fit its schema; what it cost stays."""
    connection.execute("DELETE FROM llm_answers WHERE seq = ?", (stored.seq,))
    _update(connection, stored.seq, {"state": "failed", "reason": reason})


def _update(connection: sqlite3.Connection, seq: int, values: dict[str, Any]) -> None:
    columns = ", ".join(f"{name} = ?" for name in values)
    connection.execute(f"UPDATE llm_requests SET {columns} WHERE seq = ?", (*values.values(), seq))


def _charge(connection: sqlite3.Connection, job: str, nanodollars: int) -> None:
    connection.execute(
        "INSERT INTO llm_jobs VALUES (?, ?) ON CONFLICT (job) DO UPDATE SET cost = cost + excluded.cost",
        (job, nanodollars),
    )
