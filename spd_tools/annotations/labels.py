"""Labels and their versions; the full-text index of the newest ones."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime, timedelta

from spd_tools.annotations.database import now
from spd_tools.annotations.inputs import MAX_WORDS, storable
from spd_tools.annotations.records import LabelDraft, LabelRecord, LabelStatus
from spd_tools.annotations.rows import as_json, fields, insert, new_id
from spd_tools.errors import SpdToolsError

_WORDS = ("input_view", "output_view", "category", "notes")
PARSED = ("ruled_out", "evidence", "missing")
"""Columns that hold JSON."""


def add(
    connection: sqlite3.Connection, key: str, draft: LabelDraft, status: LabelStatus, missing: list[str], author: str
) -> LabelRecord:
    """Add a version, the newest of its component."""
    version, created = _next_version(connection, key)
    stamp = {"id": new_id("l"), "key": key, "version": version, "created": created, "author": author}
    label = LabelRecord.model_validate({**stamp, **draft.model_dump(), "status": status, "missing": missing})
    _unindex(connection, key)
    _insert(connection, label)
    _index(connection, key)
    return label


def merge(connection: sqlite3.Connection, labels: Iterable[LabelRecord]) -> None:
    """Add versions that were written elsewhere; all versions of their components are numbered anew by time."""
    new = list(labels)
    for key in sorted({str(label.key) for label in new}):
        _unindex(connection, key)
        for label in new:
            if str(label.key) == key:
                _insert(connection, label)
        connection.execute(
            """UPDATE labels SET version = place FROM
                   (SELECT row AS at, row_number() OVER (ORDER BY created, version, id) AS place
                    FROM labels WHERE key = :key)
               WHERE row = at""",
            {"key": key},
        )
        _index(connection, key)


def history(connection: sqlite3.Connection, key: str) -> list[LabelRecord]:
    """All versions, oldest first."""
    return [_record(row) for row in connection.execute("SELECT * FROM labels WHERE key = ? ORDER BY version", (key,))]


def newest(connection: sqlite3.Connection, key: str) -> LabelRecord | None:
    """A component's label; None when it has none."""
    row = connection.execute("SELECT * FROM labels WHERE key = ? ORDER BY version DESC LIMIT 1", (key,)).fetchone()
    return None if row is None else _record(row)


def find(connection: sqlite3.Connection, label_id: str) -> LabelRecord | None:
    """One version by its id; None when there is none."""
    row = connection.execute("SELECT * FROM labels WHERE id = ?", (label_id,)).fetchone()
    return None if row is None else _record(row)


def listed(connection: sqlite3.Connection, status: LabelStatus | None) -> list[LabelRecord]:
    """The newest label of every component that has one, by layer and index."""
    # Next to a single max(), SQLite takes the other columns from the row that has it.
    rows = connection.execute("SELECT *, max(version) AS newest FROM labels GROUP BY key")
    records = [_record(row) for row in rows if status is None or row["status"] == status]
    return sorted(records, key=lambda label: label.key)


def search(connection: sqlite3.Connection, query: str, limit: int) -> list[LabelRecord]:
    """Newest labels that match a quoted query, best first (BM25)."""
    rows = connection.execute(
        """SELECT labels.* FROM label_words JOIN labels ON labels.row = label_words.rowid
           WHERE label_words MATCH ? ORDER BY rank, labels.key LIMIT ?""",
        (query, limit),
    )
    return [_record(row) for row in rows]


def quoted(query: str) -> str:
    """A query of FTS5 for all words of a text; nothing in the text is taken for syntax.

    Raises:
        SpdToolsError: for a text without words, or with too many.
    """
    words = storable("The query", query).replace("\0", " ").split()
    if not words:
        raise SpdToolsError("The query has no words; write what the label should say.")
    if len(words) > MAX_WORDS:
        raise SpdToolsError(f"The query has {len(words):,} words; search for at most {MAX_WORDS}.")
    return " ".join('"' + word.replace('"', '""') + '"' for word in words)


def _next_version(connection: sqlite3.Connection, key: str) -> tuple[int, str]:
    """(number, time) of a component's next version: later than the last one's, whatever the clocks say."""
    last = connection.execute(
        "SELECT version, created FROM labels WHERE key = ? ORDER BY version DESC LIMIT 1", (key,)
    ).fetchone()
    if last is None:
        return 1, now()
    after = datetime.fromisoformat(last["created"]) + timedelta(microseconds=1)
    return last["version"] + 1, max(now(), after.isoformat(timespec="microseconds"))


def _insert(connection: sqlite3.Connection, label: LabelRecord) -> None:
    row = label.model_dump(mode="json")
    insert(connection, "labels", row | {name: as_json(row[name]) for name in PARSED})


def _index(connection: sqlite3.Connection, key: str) -> None:
    connection.execute(
        f"""INSERT INTO label_words (rowid, {", ".join(_WORDS)})
            SELECT row, {", ".join(_WORDS)} FROM labels WHERE key = ? ORDER BY version DESC LIMIT 1""",
        (key,),
    )


def _unindex(connection: sqlite3.Connection, key: str) -> None:
    # An index without content of its own has to be told what it forgets.
    connection.execute(
        f"""INSERT INTO label_words (label_words, rowid, {", ".join(_WORDS)})
            SELECT 'delete', row, {", ".join(_WORDS)} FROM labels WHERE key = ? ORDER BY version DESC LIMIT 1""",
        (key,),
    )


def _record(row: sqlite3.Row) -> LabelRecord:
    return LabelRecord(**fields(row, parsed=PARSED, without=["row", "newest"]))
