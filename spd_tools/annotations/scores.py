"""Scores of labels, and the research log."""

from __future__ import annotations

import sqlite3

from spd_tools.annotations.records import LogEntry, Score
from spd_tools.annotations.rows import fields
from spd_tools.errors import SpdToolsError


def label_id(connection: sqlite3.Connection, key: str, version: int) -> str:
    """Id of a label's version.

    Raises:
        SpdToolsError: when there is no such version.
    """
    row = connection.execute("SELECT id FROM labels WHERE key = ? AND version = ?", (key, version)).fetchone()
    if row is None:
        raise SpdToolsError(f"The label of {key} has no version {version}; its history lists those there are.")
    return row["id"]


def scores(connection: sqlite3.Connection, *, key: str | None = None, score_id: str | None = None) -> list[Score]:
    """Scores, oldest first."""
    rows = connection.execute(
        """SELECT scores.*, labels.version AS label_version FROM scores LEFT JOIN labels ON labels.id = scores.label
           WHERE (:key IS NULL OR scores.key = :key) AND (:id IS NULL OR scores.id = :id)
           ORDER BY scores.created, scores.id""",
        {"key": key, "id": score_id},
    )
    return [Score(**fields(row, parsed=["details"], without=["label"])) for row in rows]


def log(connection: sqlite3.Connection, key: str | None, limit: int | None) -> list[LogEntry]:
    """The last ``limit`` entries, oldest first."""
    rows = connection.execute(
        """SELECT id, key, text, created, author FROM log WHERE :key IS NULL OR key = :key
           ORDER BY seq DESC LIMIT :limit""",
        {"key": key, "limit": -1 if limit is None else limit},
    ).fetchall()
    return [LogEntry(**fields(row)) for row in reversed(rows)]


def log_entry(connection: sqlite3.Connection, entry_id: str) -> LogEntry:
    """An entry that is known to be there."""
    row = connection.execute("SELECT id, key, text, created, author FROM log WHERE id = ?", (entry_id,)).fetchone()
    return LogEntry(**fields(row))
