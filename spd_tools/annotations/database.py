"""Connections to an annotations file, and transactions that many processes make at once."""

from __future__ import annotations

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from spd_tools.annotations.schema import APPLICATION_ID, SCHEMA_VERSION, STATEMENTS
from spd_tools.errors import SpdToolsError

T = TypeVar("T")
WAIT_SECONDS = 120.0
"""How long a transaction waits for those of others before it gives up."""
_PAUSE = (0.001, 0.008)
"""Seconds between tries, drawn evenly: SQLite's own waiting gets slower with each try, which starves those who wait."""
_LONG_PAUSE = (0.005, 0.03)
"""After the first second: on a network file system each try is a question to the server."""

_SMALLEST = 512
"""Bytes of a database with one page; SQLite takes a shorter file for an empty one."""
_DAMAGED = (
    "is damaged or no annotations file ({}); move it away and restore a copy, or import an export into a new one."
)
_SETTINGS = """
    PRAGMA journal_mode = DELETE;
    PRAGMA synchronous = FULL;
    PRAGMA mmap_size = 0;
    PRAGMA cache_spill = OFF;
    PRAGMA temp_store = MEMORY;
    PRAGMA trusted_schema = OFF;
"""
"""With cache_spill a transaction would write pages, and lock the file for readers, before it commits."""

_PROCESS = threading.RLock()
"""Held during every transaction. SQLite keeps in memory which locks this process has; a child that is forked meanwhile
would believe that they are its own. So forks wait for transactions, and connections live no longer than those."""
os.register_at_fork(before=_PROCESS.acquire, after_in_parent=_PROCESS.release, after_in_child=_PROCESS.release)

# Nothing here opens the file other than through SQLite: closing any descriptor of a file drops all POSIX locks that the
# process has on it, those of SQLite's connections in other threads too.


def now() -> str:
    """The time, UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


class Database:
    """One annotations file, which need not exist yet."""

    def __init__(self, path: Path, run_id: str, fingerprint: str) -> None:
        self.path = path
        self.run_id = run_id
        self.fingerprint = fingerprint

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection | None]:
        """A connection that sees one state of the file; None when nothing has been written yet.

        Keep it short: writers wait for readers.

        Raises:
            SpdToolsError: when the file is damaged, foreign, of a newer version or about another decomposition.
        """
        with _PROCESS, self._explained():
            if not self._has_content():
                yield None
                return
            # Not mode=ro: a reader may be the first to find the journal of a killed writer, and has to roll it back.
            with self._connection("rw") as connection:
                is_empty = _insist(lambda: self._begin(connection, "BEGIN"))
                yield None if is_empty else connection

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes become durable together when the block ends without an exception.

        The file is made when it is missing.

        Raises:
            SpdToolsError: as ``read``; when it cannot be written, or others do not let go of it.
        """
        with _PROCESS, self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._has_content()
            with self._connection("rwc") as connection:  # closing rolls back what has not been committed
                if _insist(lambda: self._begin(connection, "BEGIN IMMEDIATE")):
                    self._make(connection)
                yield connection
                _insist(lambda: connection.execute("COMMIT"))

    def _has_content(self) -> bool:
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return False
        if 0 < size < _SMALLEST and self.path.is_file():
            raise SpdToolsError(f"{self.path} {_DAMAGED.format('it is too short')}")
        return size > 0

    @contextmanager
    def _connection(self, mode: str) -> Iterator[sqlite3.Connection]:
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        with closing(sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None)) as connection:
            connection.row_factory = sqlite3.Row
            _insist(lambda: connection.executescript(_SETTINGS))
            yield connection

    def _begin(self, connection: sqlite3.Connection, how: str) -> bool:
        """Begin a transaction and check that the file is ours; whether there is nothing in it."""
        connection.execute(how)
        try:
            is_empty = self._is_empty(connection)
            if not is_empty:
                self._check(connection)
        except sqlite3.OperationalError:
            connection.execute("ROLLBACK")
            raise
        return is_empty

    def _is_empty(self, connection: sqlite3.Connection) -> bool:
        """Whether nothing has been committed to the file; a process may have been killed just before."""
        n_tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return n_tables == 0 and _header(connection) == (0, 0)

    def _make(self, connection: sqlite3.Connection) -> None:
        for statement in STATEMENTS:
            connection.execute(statement)
        meta = {"run_id": self.run_id, "fingerprint": self.fingerprint, "created": now()}
        connection.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _check(self, connection: sqlite3.Connection) -> None:
        application, version = _header(connection)
        if application != APPLICATION_ID:
            raise SpdToolsError(f"{self.path} is a database, but not of annotations; move it away.")
        if version != SCHEMA_VERSION:
            raise SpdToolsError(
                f"{self.path} has schema version {version} and this spd-tools reads version {SCHEMA_VERSION}; "
                "use the spd-tools that wrote it, or a newer one."
            )
        meta = dict(connection.execute("SELECT name, value FROM meta").fetchall())
        found = meta.get("fingerprint", "")
        if found != self.fingerprint:
            raise SpdToolsError(
                f"{self.path} holds annotations of a decomposition with fingerprint {found[:8]}, and this one has "
                f"{self.fingerprint[:8]}: they are about other components; move that file away or set another "
                "SPD_OUT_DIR."
            )

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn what a disk or another process can cause into a sentence; our own mistakes in SQL pass through."""
        try:
            yield
        except OSError as error:
            raise SpdToolsError(f"Could not open {self.path}: {error.strerror}; choose another SPD_OUT_DIR.") from error
        except sqlite3.DatabaseError as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            raise SpdToolsError(f"{self.path} {sentence}") from error


def _header(connection: sqlite3.Connection) -> tuple[int, int]:
    """(application id, schema version)"""
    application, version = (
        connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
    )
    return application, version


def _insist(attempt: Callable[[], T]) -> T:
    """Repeat what fails because others hold the file.

    Raises:
        sqlite3.OperationalError: when it still fails after WAIT_SECONDS.
    """
    begun = time.monotonic()
    while True:
        try:
            return attempt()
        except sqlite3.OperationalError as error:
            waited = time.monotonic() - begun
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or waited > WAIT_SECONDS:
                raise
        time.sleep(random.uniform(*(_PAUSE if waited < 1 else _LONG_PAUSE)))


def _sentence(error: sqlite3.DatabaseError) -> str | None:
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return None
    match code & 0xFF:
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return _DAMAGED.format(error)
        case sqlite3.SQLITE_BUSY:
            return f"has been locked by other processes for {WAIT_SECONDS:.0f} s; try again when they are done."
        case sqlite3.SQLITE_FULL:
            return "could not be written: the disk is full; free space and try again."
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_AUTH:
            return f"cannot be opened or written ({error}); check the permissions of the file and its folder."
        case sqlite3.SQLITE_IOERR:
            return f"could not be read or written ({error}); check the disk and try again."
        case sqlite3.SQLITE_TOOBIG:
            return "takes no record of that size; shorten it."
        case _:
            return None
