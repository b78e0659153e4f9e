"""Between SQLite rows and records."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from spd_tools.annotations.database import now
from spd_tools.annotations.inputs import name_of
from spd_tools.errors import SpdToolsError


def as_json(value: Any) -> str:
    """Compact JSON in plain ASCII, equal for equal values."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def new_id(kind: str) -> str:
    """A random id of 12 hex digits: "h-0123456789ab"."""
    return f"{kind}-{secrets.token_hex(6)}"


def insert(connection: sqlite3.Connection, table: str, row: Mapping[str, Any]) -> int:
    """Add a row; its number."""
    columns = ", ".join(row)
    marks = ", ".join("?" * len(row))
    done = connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(row.values()))
    assert done.lastrowid is not None
    return done.lastrowid


def fields(row: sqlite3.Row, *, parsed: Iterable[str] = (), without: Iterable[str] = ()) -> dict[str, Any]:
    """Columns of a row as fields of a record; those named ``parsed`` hold JSON."""
    values = {name: row[name] for name in row.keys() if name not in set(without)}  # noqa: SIM118 (not a dict)
    return values | {name: json.loads(row[name]) for name in parsed}


class Once:
    """One write, done at most once per idempotency key."""

    def __init__(self, operation: str, author: str, idempotency_key: str | None, content: Any) -> None:
        """``content``: everything the write was asked for.

        Raises:
            SpdToolsError: for a blank or too long author or key.
        """
        self.operation = operation
        self.author = name_of("The author", author)
        self.key = None if idempotency_key is None else name_of("The idempotency key", idempotency_key)
        self._digest = hashlib.sha256(as_json([operation, author, content]).encode()).hexdigest()

    def made(self, connection: sqlite3.Connection) -> Any:
        """What the first write with this key made; None when this is the first.

        Raises:
            SpdToolsError: when that one was asked to write something else.
        """
        if self.key is None:
            return None
        row = connection.execute(
            "SELECT operation, digest, made FROM writes WHERE idempotency_key = ?", (self.key,)
        ).fetchone()
        if row is None:
            return None
        if (row["operation"], row["digest"]) != (self.operation, self._digest):
            raise SpdToolsError(
                f"The idempotency key {self.key!r} belongs to another write ({row['operation']}); take a new key, or "
                "repeat that one as it was."
            )
        return json.loads(row["made"])

    def remember(self, connection: sqlite3.Connection, made: Any) -> None:
        """Note what this write made."""
        if self.key is not None:
            row = {"idempotency_key": self.key, "operation": self.operation, "digest": self._digest}
            insert(connection, "writes", {**row, "made": as_json(made), "created": now()})
