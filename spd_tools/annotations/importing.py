"""Reading an export of annotations: every line is checked before anything is stored."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from spd_tools.annotations import evidence as evidence_table
from spd_tools.annotations.inputs import finite, key_of, name_of, share_of, text_of
from spd_tools.annotations.records import Hypothesis, LabelDraft, LabelRecord, LogEntry, Score
from spd_tools.annotations.rows import as_json
from spd_tools.annotations.support import missing_for_support
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.experiments.records import Result
    from spd_tools.keys import KeySpace

VERSION = 1
HEADER = "annotations"
"""The "record" of the first line."""
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\+00:00", re.ASCII)
_AHEAD = timedelta(days=1)
"""How far clocks may differ."""


@dataclass
class Bundle:
    """The content of an export, checked line by line."""

    evidence: dict[str, tuple[Result, dict[str, Any]]] = field(default_factory=dict)
    """Id -> (result, row of the table)."""
    hypotheses: dict[tuple[str, int], Hypothesis] = field(default_factory=dict)
    labels: dict[str, LabelRecord] = field(default_factory=dict)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Id -> row of the table."""
    log: dict[str, LogEntry] = field(default_factory=dict)


def read(path: Path, fingerprint: str, keys: KeySpace | None) -> Bundle:
    """Read an export and check every line of it.

    Raises:
        SpdToolsError: naming the first line that does not fit.
    """
    bundle = Bundle()
    for number, document in json_lines(path):
        try:
            if number == 1:
                _check_header(document, fingerprint)
            else:
                _Line(bundle, fingerprint, keys).add(document)
        except SpdToolsError as error:
            raise SpdToolsError(f"{path.name}, line {number}: {error}") from None
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))[:100]
            raise SpdToolsError(
                f"{path.name}, line {number}: {where!r} does not fit ({first['msg']}); export it again."
            ) from None
    _check_citations(bundle)
    return bundle


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, JSON object) of every line that is not blank.

    Raises:
        SpdToolsError: when the file cannot be read, has no such line, or one that is no JSON object.
    """
    number, n_found = 0, 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                document = json.loads(line)
                if not isinstance(document, dict):
                    raise SpdToolsError(f"{path.name}, line {number} is no JSON object; export it again.")
                n_found += 1
                yield number, document
    except OSError as error:
        raise SpdToolsError(f"Could not read {path}: {error.strerror}; name another file.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise SpdToolsError(f"{path.name}, line {number} is no JSON; export it again.") from None
    if not n_found:
        raise SpdToolsError(f"{path.name} is empty; export it again.")


def _check_header(document: Mapping[str, Any], fingerprint: str) -> None:
    if document.get("record") != HEADER:
        raise SpdToolsError("this is no export of annotations; make one with `spd-tools label export`.")
    if document.get("version") != VERSION:
        raise SpdToolsError(
            f"it has version {str(document.get('version'))[:20]!r}, and this spd-tools reads {VERSION}; update it."
        )
    found = str(document.get("fingerprint"))
    if found != fingerprint:
        raise SpdToolsError(
            f"it is about a decomposition with fingerprint {found[:8]!r}, not {fingerprint[:8]!r}; import it there."
        )


@dataclass(frozen=True)
class _Line:
    """Checks one line and puts it into the bundle."""

    bundle: Bundle
    fingerprint: str
    keys: KeySpace | None

    def add(self, document: dict[str, Any]) -> None:
        content = dict(document)
        kind = content.pop("record", None)
        readers = {
            "evidence": self._evidence,
            "hypothesis": self._hypothesis,
            "label": self._label,
            "score": self._score,
            "log": self._log,
        }
        if kind not in readers:
            raise SpdToolsError(f"there is no record {str(kind)[:40]!r}; update spd-tools.")
        author, created = content.get("author"), content.get("created")
        name_of("The author", author if isinstance(author, str) else "")
        if not isinstance(created, str) or not _is_time(created):
            raise SpdToolsError("'created' is no time in UTC up to now; export it again.")
        readers[kind](content)

    def _evidence(self, content: dict[str, Any]) -> None:
        from spd_tools.experiments.registry import read_result

        result = read_result(content.get("result", {}))
        evidence_table.check_fingerprint(result, self.fingerprint)
        self._key(result.request.key)
        name_of("The id", result.id)
        row = evidence_table.evidence_row(result, content["created"], content["author"])
        _put(self.bundle.evidence, result.id, (result, row))

    def _hypothesis(self, content: dict[str, Any]) -> None:
        version = Hypothesis.model_validate(content)
        name_of("The id", version.id)
        text_of("The hypothesis", version.text)
        share_of("The confidence", version.confidence)
        if version.note is not None:
            text_of("The note", version.note)
        self._key(version.key)
        _put(self.bundle.hypotheses, (version.id, version.version), version)

    def _label(self, content: dict[str, Any]) -> None:
        label = LabelRecord.model_validate(content)
        name_of("The id", label.id)
        _draft_of(label)
        self._key(label.key)
        _put(self.bundle.labels, label.id, label)

    def _score(self, content: dict[str, Any]) -> None:
        label = content.pop("label", None)
        score = Score.model_validate({**content, "label_version": None})
        for what, number in (("score", score.value), ("low end", score.low), ("high end", score.high)):
            if number is not None:
                finite(f"The {what}", number)
        name_of("The id", score.id)
        self._key(score.key)
        row = score.model_dump(mode="json", exclude={"label_version"})
        row |= {"details": as_json(score.details), "label": None if label is None else name_of("The label", str(label))}
        _put(self.bundle.scores, score.id, row)

    def _log(self, content: dict[str, Any]) -> None:
        entry = LogEntry.model_validate(content)
        name_of("The id", entry.id)
        text_of("The entry", entry.text)
        if entry.key is not None:
            self._key(entry.key)
        _put(self.bundle.log, entry.id, entry)

    def _key(self, key: Any) -> None:
        key_of(key, self.keys)


def _is_time(text: str) -> bool:
    if not _TIME.fullmatch(text):
        return False
    try:
        return datetime.fromisoformat(text) <= datetime.now(UTC) + _AHEAD
    except ValueError:
        return False


def _put(records: dict[Any, Any], name: Any, record: Any) -> None:
    if name in records:
        raise SpdToolsError(f"{name!r} stands in the file twice; export it again.")
    records[name] = record


def _draft_of(label: LabelRecord) -> LabelDraft:
    return LabelDraft.of({name: getattr(label, name) for name in LabelDraft.model_fields})


def _check_citations(bundle: Bundle) -> None:
    """An export is complete: what it cites is in it, and what it calls supported is.

    That a generate-and-test was done on fresh texts, and that a p-value stands when it is corrected for all that had
    been asked by then, was checked when the label was written; evidence that is brought together from several places
    has no common order to check it by. Here p-values are corrected for what the label cites.
    """
    for cites in (*bundle.hypotheses.values(), *bundle.labels.values()):
        for cited in cites.evidence:
            if cited not in bundle.evidence:
                raise SpdToolsError(f"{cites.id} cites {cited!r}, which is not in the file; export it again.")
            if bundle.evidence[cited][0].request.key != cites.key:
                raise SpdToolsError(
                    f"{cites.id} is about {cites.key} and cites {cited}, which is not; export it again."
                )
    for label in bundle.labels.values():
        if label.status == "supported":
            cited = [bundle.evidence[evidence_id][0] for evidence_id in label.evidence]
            missing = missing_for_support(_draft_of(label), cited, {}, {})
            if missing:
                raise SpdToolsError(f"{label.id} of {label.key} calls itself supported and is not. {missing[0]}")
    for row in bundle.scores.values():
        if row["label"] is not None and row["label"] not in bundle.labels:
            raise SpdToolsError(
                f"{row['id']} scores the label {row['label']!r}, which is not in the file; export it again."
            )
