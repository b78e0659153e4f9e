"""Evidence: results of experiments, kept when they are run."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from spd_tools.annotations.inputs import storable
from spd_tools.annotations.records import EvidenceRecord, EvidenceSummary, MainNumber
from spd_tools.annotations.rows import as_json, insert
from spd_tools.annotations.support import ABLATION, TEST, texts_of
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.experiments.records import Result

_SUMMARY = (
    "id, key, experiment, kind, harvest_id, n, effect_value, effect_low, effect_high, effect_n, excludes_control, "
    "p_value, summary, created, author, "
    + ", ".join(f"json_extract(document, '$.control.{part}') AS control_{part}" for part in MainNumber.model_fields)
)


def evidence_row(result: Result, created: str, author: str) -> dict[str, Any]:
    """A result as a row of the table.

    Raises:
        SpdToolsError: when there is a number in it that JSON cannot hold.
    """
    content = result.model_dump(mode="json")
    try:
        document = as_json(content)
    except ValueError as error:
        raise SpdToolsError(f"{result.id} cannot be stored ({error}); report this.") from None
    storable(f"The summary of {result.id}", result.summary)
    effect = result.effect
    return {
        "id": result.id,
        "key": str(result.request.key),
        "experiment": result.request.experiment,
        "kind": result.kind,
        "harvest_id": result.subject.harvest_id,
        "n": result.n,
        "effect_value": effect and effect.value,
        "effect_low": effect and effect.low,
        "effect_high": effect and effect.high,
        "effect_n": effect and effect.n,
        "excludes_control": result.excludes_control,
        "p_value": result.p_value,
        "removal_kl": _removal_kl(content),
        "summary": result.summary,
        "created": created,
        "author": author,
        "document": document,
    }


def check_fingerprint(result: Result, fingerprint: str) -> None:
    """Refuse what was found out about another decomposition.

    Raises:
        SpdToolsError: for such a result.
    """
    if result.subject.fingerprint != fingerprint:
        raise SpdToolsError(
            f"{result.id} was done on a decomposition with fingerprint {result.subject.fingerprint[:8]}, and these "
            f"annotations are about {fingerprint[:8]}: it is no evidence here; run the experiment on this one."
        )


def add(connection: sqlite3.Connection, row: dict[str, Any], texts: Iterable[str]) -> None:
    """Store a result, unless its id is there already: then the first one stays."""
    if connection.execute("SELECT 1 FROM evidence WHERE id = ?", (row["id"],)).fetchone() is not None:
        return
    seq = insert(connection, "evidence", row)
    connection.executemany(
        "INSERT INTO evidence_texts (key, seq, text) VALUES (?, ?, ?)",
        [(row["key"], seq, text) for text in sorted(texts)],
    )


def request_texts(result: Result) -> set[str]:
    """Normalised texts that the model was run on; none where it was not run, as when near misses are only proposed.

    Raises:
        SpdToolsError: for halves of surrogate pairs.
    """
    texts = texts_of(result.request) if result.kind in ("counterfactual", "mixed") else set()
    return {storable(f"A text of {result.id}", text) for text in texts}


def find(connection: sqlite3.Connection, evidence_id: str) -> EvidenceRecord | None:
    """One result; None when there is none of that id."""
    storable("The id of the evidence", evidence_id)
    row = connection.execute(f"SELECT {_SUMMARY}, document FROM evidence WHERE id = ?", (evidence_id,)).fetchone()
    return None if row is None else EvidenceRecord(**_summary(row), document=row["document"])


def listed(
    connection: sqlite3.Connection, key: str | None, experiment: str | None, limit: int | None
) -> list[EvidenceSummary]:
    """Results, newest first."""
    storable("The experiment", experiment or "")
    wanted = {"key": key, "experiment": experiment}
    conditions = [f"{name} = :{name}" for name, value in wanted.items() if value is not None] or ["1"]
    rows = connection.execute(
        f"SELECT {_SUMMARY} FROM evidence WHERE {' AND '.join(conditions)} ORDER BY seq DESC LIMIT :limit",
        {**wanted, "limit": -1 if limit is None else limit},
    )
    return [EvidenceSummary(**_summary(row)) for row in rows]


def p_values(connection: sqlite3.Connection, key: str) -> dict[str, float]:
    """Id -> p-value of every result about a component that has one."""
    rows = connection.execute("SELECT id, p_value FROM evidence WHERE key = ? AND p_value IS NOT NULL", (key,))
    return {row["id"]: row["p_value"] for row in rows}


def cited(connection: sqlite3.Connection | None, ids: Sequence[str], key: str) -> list[EvidenceRecord]:
    """The results that something about a component cites.

    Raises:
        SpdToolsError: for an id that is unknown or belongs to another component.
    """
    records: list[EvidenceRecord] = []
    for evidence_id in dict.fromkeys(ids):
        record = None if connection is None else find(connection, evidence_id)
        if record is None:
            raise SpdToolsError(f"There is no evidence {evidence_id!r}; cite ids that the experiments returned.")
        if str(record.key) != key:
            raise SpdToolsError(
                f"{evidence_id} is about {record.key} and says nothing about {key}; cite evidence about {key}, or run "
                f"{record.experiment} on it."
            )
        records.append(record)
    return records


def earlier_texts(connection: sqlite3.Connection, records: Iterable[EvidenceRecord]) -> dict[str, set[str]]:
    """Id of each generate-and-test -> texts of all evidence about its component that came before it."""
    return {record.id: texts_used(connection, str(record.key), record.id) for record in records if _is_test(record)}


def texts_used(connection: sqlite3.Connection, key: str, before: str | None = None) -> set[str]:
    """Normalised texts of all evidence about a component, or of what came before one result."""
    limit = "" if before is None else "AND seq < (SELECT seq FROM evidence WHERE id = :before)"
    rows = connection.execute(
        f"SELECT DISTINCT text FROM evidence_texts WHERE key = :key {limit}", {"key": key, "before": before}
    )
    return {row["text"] for row in rows}


def _removal_kl(content: dict[str, Any]) -> float | None:
    """Mean KL when the component is removed, of a triage or an ablation; their main numbers may be about logits."""
    request = content["request"]
    if request["experiment"] == "triage" and content["effect"] is not None:
        return content["effect"]["value"]
    removed = request["experiment"] == ABLATION and (request["mode"], request["base"]) == ("remove", "firing")
    return content["kl"]["value"] if removed else None


def _is_test(record: EvidenceRecord) -> bool:
    return record.experiment == TEST


def _summary(row: sqlite3.Row) -> dict[str, Any]:
    plain = ("id", "key", "experiment", "kind", "harvest_id", "n", "p_value", "summary", "created", "author")
    excludes = row["excludes_control"]
    return {
        **{name: row[name] for name in plain},
        "excludes_control": None if excludes is None else bool(excludes),
        "effect": _number(row, "effect"),
        "control": _number(row, "control"),
    }


def _number(row: sqlite3.Row, what: str) -> MainNumber | None:
    if row[f"{what}_value"] is None:
        return None
    return MainNumber(**{part: row[f"{what}_{part}"] for part in MainNumber.model_fields})
