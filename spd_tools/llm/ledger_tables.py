"""The ledger's tables, version 1, in the annotations file of a run.

============  =====================================================================================================
llm_requests  one row per request that was sent, retries too, in the order of sending (``seq``). ``state``:
              ``sent`` (under way, or nobody knows what became of it: the process was killed or the connection
              dropped; ``reason`` says so where somebody lived to tell), ``answered``, ``failed``. ``worst``: what it
              can cost at most; ``cost``: what it did cost, NULL while ``state`` is ``sent``; both in nanodollars.
              ``attempt``: 1, 2, ... of this call; ``repeats``: how many earlier ones of the same call have an
              unknown outcome. ``batch``: the row of llm_batches that it belongs to
llm_answers   call hash -> the answer's JSON as the model wrote it, and the request that it came with
llm_batches   message batches. ``state``: ``intended`` (perhaps created, its id is not known), ``created`` (``batch_id``
              is known), ``collected`` (its results are in the ledger), ``rejected`` (it was not created), ``abandoned``
              (somebody decided that an intended one does not exist)
llm_jobs      what a job may have cost so far, in nanodollars: the sum of ``cost``, or else ``worst``, of its requests
============  =====================================================================================================

Nothing here is ever removed but an answer that, read again, does not fit its schema. The version stands in the table
``meta`` as ``llm_version``.
"""

from __future__ import annotations

import sqlite3

from spd_tools.errors import SpdToolsError

VERSION = "1"
STATEMENTS = (
    """CREATE TABLE llm_requests (
        seq INTEGER PRIMARY KEY, hash TEXT NOT NULL, job TEXT NOT NULL, purpose TEXT NOT NULL, tag TEXT NOT NULL,
        model TEXT NOT NULL, batch TEXT, attempt INTEGER NOT NULL, repeats INTEGER NOT NULL, state TEXT NOT NULL,
        sent TEXT NOT NULL, worst INTEGER NOT NULL, ended TEXT, seconds REAL, served TEXT, input_tokens INTEGER,
        output_tokens INTEGER, cache_read_tokens INTEGER, cache_write_tokens INTEGER, cost INTEGER, http_status INTEGER,
        request_id TEXT, reason TEXT)""",
    "CREATE INDEX llm_requests_of_call ON llm_requests (hash)",
    "CREATE INDEX llm_requests_of_batch ON llm_requests (batch) WHERE batch IS NOT NULL",
    "CREATE TABLE llm_answers (hash TEXT PRIMARY KEY, seq INTEGER NOT NULL, answer TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE llm_batches (
        id TEXT PRIMARY KEY, job TEXT NOT NULL, created TEXT NOT NULL, n INTEGER NOT NULL, state TEXT NOT NULL,
        batch_id TEXT UNIQUE) WITHOUT ROWID""",
    "CREATE TABLE llm_jobs (job TEXT PRIMARY KEY, cost INTEGER NOT NULL) WITHOUT ROWID",
)


def are_there(connection: sqlite3.Connection) -> bool:
    """Whether the file has a ledger.

    Raises:
        SpdToolsError: when it is one of another version.
    """
    row = connection.execute("SELECT value FROM meta WHERE name = 'llm_version'").fetchone()
    if row is not None and row["value"] != VERSION:
        raise SpdToolsError(
            f"The ledger of calls has version {row['value']} and this spd-tools reads version {VERSION}; "
            "use the spd-tools that wrote it, or a newer one."
        )
    return row is not None


def make(connection: sqlite3.Connection) -> None:
    """Make the tables."""
    for statement in STATEMENTS:
        connection.execute(statement)
    connection.execute("INSERT INTO meta VALUES ('llm_version', ?)", (VERSION,))
