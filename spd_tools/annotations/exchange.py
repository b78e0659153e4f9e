"""Annotations as one file of lines, each a JSON document, to keep in version control or to bring together.

The first line is {"record": "annotations", "version": 1, "run_id": ..., "fingerprint": ...}. Then follow, each with its
"record":

==========  ==========================================================================================================
evidence    ``created``, ``author``, ``result`` (the whole result), in the order in which it was stored
hypothesis  the fields of ``Hypothesis``; one line per version, by id and version
label       the fields of ``LabelRecord``; one line per version, by key and version
score       the fields of ``Score`` with ``label``, the scored label's id, for ``label_version``; by time
log         the fields of ``LogEntry``, by time
==========  ==========================================================================================================

Equal annotations give equal files, and what is imported into nothing is exported again byte by byte. Leases and
idempotency keys stay at home.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spd_tools.annotations import evidence as evidence_table
from spd_tools.annotations import hypotheses, labels
from spd_tools.annotations.importing import HEADER, VERSION, Bundle
from spd_tools.annotations.records import ImportReport, LabelRecord
from spd_tools.annotations.rows import as_json, fields, insert
from spd_tools.errors import SpdToolsError
from spd_tools.files import write_bytes

_SCORE_COLUMNS = ("id", "key", "method", "value", "low", "high", "n", "details", "label", "created", "author")
_LOG_COLUMNS = ("id", "key", "text", "created", "author")


def documents(connection: sqlite3.Connection | None, run_id: str, fingerprint: str) -> list[dict[str, Any]]:
    """The header and all records."""
    header = {"record": HEADER, "version": VERSION, "run_id": run_id, "fingerprint": fingerprint}
    return [header, *([] if connection is None else _records(connection))]


def write(lines: Iterable[Mapping[str, Any]], path: Path) -> None:
    """Write documents, one per line.

    Raises:
        SpdToolsError: when the file cannot be written.
    """
    write_bytes(path, "".join(as_json(line) + "\n" for line in lines).encode())


def _records(connection: sqlite3.Connection) -> Iterator[dict[str, Any]]:
    for row in connection.execute("SELECT created, author, document FROM evidence ORDER BY seq"):
        yield {
            "record": "evidence",
            "created": row["created"],
            "author": row["author"],
            "result": json.loads(row["document"]),
        }
    for row in connection.execute("SELECT * FROM hypotheses ORDER BY id, version"):
        yield {"record": "hypothesis", **fields(row, parsed=["evidence"])}
    for row in connection.execute("SELECT * FROM labels ORDER BY key, version"):
        yield {"record": "label", **fields(row, parsed=labels.PARSED, without=["row"])}
    for row in connection.execute("SELECT * FROM scores ORDER BY created, id"):
        yield {"record": "score", **fields(row, parsed=["details"])}
    for row in connection.execute("SELECT id, key, text, created, author FROM log ORDER BY created, id"):
        yield {"record": "log", **fields(row)}


def merge(connection: sqlite3.Connection, bundle: Bundle) -> ImportReport:
    """Add the records that are not there yet.

    Raises:
        SpdToolsError: when one contradicts the record of the same id; the caller's transaction must then be undone.
    """
    total = sum(len(part) for part in (bundle.evidence, bundle.hypotheses, bundle.labels, bundle.scores, bundle.log))
    added = {
        "evidence": _merge_evidence(connection, bundle),
        "hypothesis": _merge_hypotheses(connection, bundle),
        "label": _merge_labels(connection, bundle),
        "score": _merge_rows(connection, "scores", _SCORE_COLUMNS, bundle.scores),
        "log": _merge_rows(
            connection,
            "log",
            _LOG_COLUMNS,
            {name: entry.model_dump(mode="json") for name, entry in bundle.log.items()},
        ),
    }
    return ImportReport(added=added, known=total - sum(added.values()))


def _merge_evidence(connection: sqlite3.Connection, bundle: Bundle) -> int:
    n_new = 0
    for name, (result, row) in bundle.evidence.items():
        here = evidence_table.find(connection, name)
        if here is None:
            evidence_table.add(connection, row, evidence_table.request_texts(result))
            n_new += 1
            continue
        # The numbers may differ in the last digits, between machines; then the first ones stay.
        ours, theirs = (json.loads(document) for document in (here.document, row["document"]))
        if any(ours[part] != theirs[part] for part in ("request", "subject")):
            raise _contradiction(name)
    return n_new


def _merge_hypotheses(connection: sqlite3.Connection, bundle: Bundle) -> int:
    n_new = 0
    for (name, number), version in sorted(bundle.hypotheses.items()):
        here = {known.version: known for known in hypotheses.versions(connection, name)}
        if number not in here:
            if number != len(here) + 1 or any(known.key != version.key for known in here.values()):
                raise _contradiction(name)
            hypotheses.add(connection, version)
            n_new += 1
        elif here[number] != version:
            raise _contradiction(name)
    return n_new


def _merge_labels(connection: sqlite3.Connection, bundle: Bundle) -> int:
    new: list[LabelRecord] = []
    for name, label in bundle.labels.items():
        here = labels.find(connection, name)
        if here is None:
            new.append(label)
        elif here.model_dump(exclude={"version"}) != label.model_dump(exclude={"version"}):
            raise _contradiction(name)
    labels.merge(connection, new)
    return len(new)


def _merge_rows(
    connection: sqlite3.Connection, table: str, columns: tuple[str, ...], rows: Mapping[str, Mapping[str, Any]]
) -> int:
    n_new = 0
    for name, row in rows.items():
        here = connection.execute(f"SELECT {', '.join(columns)} FROM {table} WHERE id = ?", (name,)).fetchone()
        if here is None:
            insert(connection, table, row)
            n_new += 1
        elif fields(here) != row:
            raise _contradiction(name)
    return n_new


def _contradiction(name: str) -> SpdToolsError:
    return SpdToolsError(
        f"{name} here and {name} in the file differ, so nothing was imported; remove it from the file."
    )
