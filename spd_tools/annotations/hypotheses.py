"""Hypotheses and their versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from spd_tools.annotations.database import now
from spd_tools.annotations.inputs import share_of, storable, text_of
from spd_tools.annotations.records import Hypothesis, HypothesisStatus
from spd_tools.annotations.rows import as_json, fields, insert, new_id
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey


def add(connection: sqlite3.Connection, version: Hypothesis) -> None:
    """Add a version."""
    row = version.model_dump(mode="json") | {"evidence": as_json(version.evidence)}

    insert(connection, "hypotheses", row)


def versions(connection: sqlite3.Connection, hypothesis_id: str) -> list[Hypothesis]:
    """All versions of a hypothesis, oldest first; none when there is no such hypothesis."""
    storable("The id of the hypothesis", hypothesis_id)
    rows = connection.execute("SELECT * FROM hypotheses WHERE id = ? ORDER BY version", (hypothesis_id,))
    return [_record(row) for row in rows]


def newest(connection: sqlite3.Connection | None, hypothesis_id: str) -> Hypothesis:
    """A hypothesis as it stands.

    Raises:
        SpdToolsError: when there is none of that id.
    """
    found = [] if connection is None else versions(connection, hypothesis_id)
    if not found:
        raise SpdToolsError(f"There is no hypothesis {hypothesis_id!r}; list those of the component.")
    return found[-1]


def listed(connection: sqlite3.Connection, key: str | None, status: HypothesisStatus | None) -> list[Hypothesis]:
    """Hypotheses as they stand, in the order in which they were proposed."""
    rows = connection.execute(
        """SELECT * FROM hypotheses AS it JOIN
               (SELECT id AS of, max(version) AS newest, min(created) AS proposed FROM hypotheses GROUP BY id)
               ON of = it.id AND newest = it.version
           WHERE (:key IS NULL OR key = :key) AND (:status IS NULL OR status = :status)
           ORDER BY proposed, it.id""",
        {"key": key, "status": status},
    )
    return [_record(row) for row in rows]


def proposed(key: str, text: str, confidence: float, evidence: Sequence[str], author: str) -> Hypothesis:
    """The first version of a new hypothesis.

    Raises:
        SpdToolsError: for a blank or too long text, or a confidence outside 0 to 1.
    """
    return Hypothesis(
        id=new_id("h"),
        version=1,
        key=ComponentKey.parse(key),
        text=text_of("The hypothesis", text),
        status="open",
        confidence=share_of("The confidence", confidence),
        note=None,
        evidence=list(dict.fromkeys(evidence)),
        created=now(),
        author=author,
    )


def changes(
    hypothesis_id: str, status: str | None, confidence: float | None, note: str | None, evidence: Sequence[str]
) -> dict[str, Any]:
    """Fields of a new version that somebody gave; without a note it has none.

    Raises:
        SpdToolsError: when nothing is given, or something that does not fit.
    """
    if status is None and confidence is None and note is None and not evidence:
        raise SpdToolsError(f"Nothing about {hypothesis_id!r} changes; give a status, confidence, note or evidence.")
    if status not in (None, *get_args(HypothesisStatus)):
        raise SpdToolsError(f"There is no status {status!r} of a hypothesis; choose open, supported or rejected.")
    given: dict[str, Any] = {"note": None if note is None else text_of("The note", note)}
    if confidence is not None:
        given["confidence"] = share_of("The confidence", confidence)
    if status is not None:
        given["status"] = status
    return given


def revised(last: Hypothesis, given: Mapping[str, Any], evidence: Sequence[str], author: str) -> Hypothesis:
    """The version after ``last``, with what ``changes`` returned and more evidence.

    Raises:
        SpdToolsError: when it becomes "supported" without evidence, or "rejected" without evidence or a note.
    """
    ids = list(dict.fromkeys([*last.evidence, *evidence]))
    if given.get("status") == "supported" and not ids:
        raise SpdToolsError(
            f"Nothing supports {last.id}: it cites no evidence; cite the id of a result about {last.key} that speaks "
            "for it."
        )
    if given.get("status") == "rejected" and not ids and given["note"] is None:
        raise SpdToolsError(
            f"Nothing rejects {last.id}: it has neither evidence nor a note; cite the id of a result that speaks "
            "against it, or say why in a note."
        )
    new = {**given, "evidence": ids, "version": last.version + 1, "created": now(), "author": author}
    return last.model_copy(update=new)


def _record(row: sqlite3.Row) -> Hypothesis:
    return Hypothesis(**fields(row, parsed=["evidence"], without=["of", "newest", "proposed"]))
