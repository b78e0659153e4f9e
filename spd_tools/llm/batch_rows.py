"""Rows of message batches."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from spd_tools.annotations.database import now
from spd_tools.annotations.rows import insert
from spd_tools.errors import SpdToolsError
from spd_tools.llm import requests
from spd_tools.llm.call import Call
from spd_tools.llm.ledger import Ledger
from spd_tools.llm.requests import NOTHING

_HASH_DIGITS = 48
"""Of a call's hash, in a custom id: those have at most 64 characters."""


@dataclass(frozen=True)
class BatchRow:
    """A batch that has not been collected."""

    id: str
    """Ours."""
    created: str
    n: int
    batch_id: str | None
    """The API's; None where nobody knows whether it was created."""


def custom_id(intent: str, call_hash: str) -> str:
    """Name of a request within a batch; no other batch has requests of that name."""
    return f"{intent}-{call_hash[:_HASH_DIGITS]}"


def open_batches(connection: sqlite3.Connection) -> list[BatchRow]:
    """Batches whose results are not in the ledger, oldest first."""
    rows = connection.execute(
        "SELECT * FROM llm_batches WHERE state IN ('intended', 'created') ORDER BY created, id"
    ).fetchall()
    return [BatchRow(**{name: row[name] for name in ("id", "created", "n", "batch_id")}) for row in rows]


def known_batch_ids(connection: sqlite3.Connection) -> set[str]:
    """The API's ids of all batches that this ledger knows about."""
    rows = connection.execute("SELECT batch_id FROM llm_batches WHERE batch_id IS NOT NULL").fetchall()
    return {row["batch_id"] for row in rows}


def intend(
    connection: sqlite3.Connection, batch: str, calls: Sequence[tuple[Call, int]], job: str, limit: int | None
) -> tuple[list[Call], int]:
    """Note that a batch of calls (each with its worst cost) is about to be created.

    Returns the calls that are in it, and how many have been looked at: those behind did not fit into the limit. What
    another process has answered or put into a batch meanwhile is left out.
    """
    taken: list[Call] = []
    n_seen = 0
    for call, worst in calls:
        begun = requests.begin(connection, call, worst, job, limit, batch)
        if begun is None:
            break
        n_seen += 1
        if isinstance(begun, int):
            taken.append(call)
    if taken:
        row = {"id": batch, "job": job, "created": now(), "n": len(taken), "state": "intended"}
        insert(connection, "llm_batches", row)
    return taken, n_seen


def created(connection: sqlite3.Connection, batch: str, batch_id: str) -> None:
    """Note the id of a batch."""
    connection.execute("UPDATE llm_batches SET state = 'created', batch_id = ? WHERE id = ?", (batch_id, batch))


def rejected(connection: sqlite3.Connection, batch: str, reason: str) -> None:
    """Note that a batch was not created."""
    _set_state(connection, batch, "rejected")
    for seq, _ in members(connection, batch).values():
        requests.settle(connection, seq, requests.Outcome(state="failed", usage=NOTHING, cost=0, reason=reason))


def collected(connection: sqlite3.Connection, batch: str) -> None:
    """Note that all results are in the ledger; requests without one have an unknown outcome."""
    for seq, _ in members(connection, batch).values():
        requests.lost(connection, seq, "The batch has no result for it that can be read.")
    _set_state(connection, batch, "collected")


def members(connection: sqlite3.Connection, batch: str) -> dict[str, tuple[int, str]]:
    """custom id -> (seq, model) of the requests of a batch without an outcome."""
    rows = connection.execute(
        "SELECT hash, seq, model FROM llm_requests WHERE batch = ? AND state = 'sent'", (batch,)
    ).fetchall()
    return {custom_id(batch, row["hash"]): (row["seq"], row["model"]) for row in rows}


def last_reason(connection: sqlite3.Connection, call_hash: str) -> tuple[str, int]:
    """(why the last request of a call has no answer, nanodollars paid for it)"""
    row = connection.execute(
        "SELECT reason, cost FROM llm_requests WHERE hash = ? ORDER BY seq DESC LIMIT 1", (call_hash,)
    ).fetchone()
    return row["reason"] or "Nobody knows what became of it.", row["cost"] or 0


def adopt_batch(ledger: Ledger, batch: str, batch_id: str) -> None:
    """Say which batch of the API an intended one is; it is then collected like any other.

    Raises:
        SpdToolsError: when there is no such intention, or the id belongs to another one.
    """

    def write(connection: sqlite3.Connection) -> None:
        _check_intended(connection, batch)
        if batch_id in known_batch_ids(connection):
            raise SpdToolsError(f"Batch {batch_id!r} is known under another name already; choose another candidate.")
        created(connection, batch, batch_id)

    ledger.transaction([write])


def abandon_batch(ledger: Ledger, batch: str) -> None:
    """Say that an intended batch was never created: its calls may be sent again. They stay counted at their worst.

    Raises:
        SpdToolsError: when there is no such intention.
    """

    def write(connection: sqlite3.Connection) -> None:
        _check_intended(connection, batch)
        for seq, _ in members(connection, batch).values():
            requests.lost(connection, seq, "The batch that it was part of was given up.")
        _set_state(connection, batch, "abandoned")

    ledger.transaction([write])


def _check_intended(connection: sqlite3.Connection, batch: str) -> None:
    row = connection.execute("SELECT state FROM llm_batches WHERE id = ?", (batch,)).fetchone()
    if row is None or row["state"] != "intended":
        raise SpdToolsError(f"There is no batch {batch!r} whose creation is uncertain.")


def _set_state(connection: sqlite3.Connection, batch: str, state: str) -> None:
    connection.execute("UPDATE llm_batches SET state = ? WHERE id = ?", (state, batch))
