"""Labels as explanations in the format of Neuronpedia's exports (``explanations/batch-*.jsonl``): a row per label.

Fields written: ``id``, ``modelId``, ``layer`` (what Neuronpedia calls the source; here the layer's name), ``index`` (a
string), ``description`` (the input view, and the output view after it), ``typeName`` ("spd-tools"),
``explanationModelName`` and ``authorName`` (the author of the label), ``createdAt``, and ``notes``: a string that holds
a JSON document with status, confidence, category, version, both views and the output effect. Neuronpedia's fields about
accounts (``authorId``, ``triggeredByUserId``) are left out: our authors have no accounts there.

Of rows that are read, ``layer``, ``index`` and ``description`` are required; ``typeName``, ``explanationModelName`` and
``authorName`` go into the notes of the draft.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spd_tools.annotations import labels
from spd_tools.annotations.exchange import write
from spd_tools.annotations.importing import json_lines
from spd_tools.annotations.inputs import key_of
from spd_tools.annotations.records import LabelDraft, LabelRecord
from spd_tools.annotations.rows import Once, as_json
from spd_tools.annotations.support import missing_for_support
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.keys import KeySpace

TYPE_NAME = "spd-tools"
_IN_NOTES = ("status", "confidence", "category", "version", "input_view", "output_view", "output_effect")
_SOURCES = ("typeName", "explanationModelName", "authorName")


def explanation(label: LabelRecord, model_id: str) -> dict[str, Any]:
    """One label as a row."""
    description = f"{label.input_view}; output: {label.output_view}" if label.output_view else label.input_view
    return {
        "id": label.id,
        "modelId": model_id,
        "layer": label.key.layer,
        "index": str(label.key.index),
        "description": description,
        "typeName": TYPE_NAME,
        "explanationModelName": label.author,
        "authorName": label.author,
        "createdAt": label.created,
        "notes": as_json(label.model_dump(mode="json", include=set(_IN_NOTES))),
    }


def export(newest: Iterable[LabelRecord], path: Path, model_id: str) -> int:
    """Write labels that are not rejected; how many.

    Raises:
        SpdToolsError: when the file cannot be written.
    """
    rows = [explanation(label, model_id) for label in newest if label.status != "rejected"]
    write(rows, path)
    return len(rows)


def read(path: Path, keys: KeySpace | None) -> list[tuple[str, LabelDraft]]:
    """(key, draft) of every row.

    Raises:
        SpdToolsError: naming the first row that is none, or whose layer and index are no component.
    """
    drafts: list[tuple[str, LabelDraft]] = []
    for number, row in json_lines(path):
        try:
            drafts.append(_draft(row, keys))
        except SpdToolsError as error:
            raise SpdToolsError(f"{path.name}, line {number}: {error}") from None
    return drafts


def store(connection: sqlite3.Connection, drafts: Iterable[tuple[str, LabelDraft]], author: str) -> int:
    """Add drafts of the author's that were not imported before; how many.

    Raises:
        SpdToolsError: for a blank or too long author.
    """
    n_new = 0
    for key, draft in drafts:
        content = [key, draft.model_dump(mode="json"), author]
        digest = hashlib.sha256(as_json(content).encode()).hexdigest()
        once = Once("import_neuronpedia", author, f"neuronpedia {digest}", content)
        if once.made(connection) is None:
            missing = missing_for_support(draft, [], {}, {})
            once.remember(connection, labels.add(connection, key, draft, "draft", missing, author).id)
            n_new += 1
    return n_new


def _draft(row: dict[str, Any], keys: KeySpace | None) -> tuple[str, LabelDraft]:
    missing = [name for name in ("layer", "index", "description") if not isinstance(row.get(name), str | int)]
    if missing:
        raise SpdToolsError(f"the row has no {missing[0]!r}; it is no explanation of Neuronpedia.")
    sources = ", ".join(f"{name} {row[name]}" for name in _SOURCES if isinstance(row.get(name), str))
    notes = f"From Neuronpedia ({sources})." if sources else "From Neuronpedia."
    draft = LabelDraft.of({"input_view": row["description"], "notes": notes})
    return key_of(f"{row['layer']}:{row['index']}", keys), draft
