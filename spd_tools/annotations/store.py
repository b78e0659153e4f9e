"""The annotations of one run: the door to everything in this package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spd_tools.annotations import evidence as evidence_table
from spd_tools.annotations import exchange, hypotheses, importing, labels, neuronpedia, scores
from spd_tools.annotations.database import Database, now
from spd_tools.annotations.disputes import disputes
from spd_tools.annotations.inputs import count_of, finite, key_of, name_of, run_name, text_of
from spd_tools.annotations.multiplicity import corrected
from spd_tools.annotations.queue import Known, Queue, drop, leases, release, renew, take
from spd_tools.annotations.records import (
    Dispute,
    EvidenceRecord,
    EvidenceSummary,
    Hypothesis,
    HypothesisStatus,
    ImportReport,
    LabelDecision,
    LabelDraft,
    LabelRecord,
    LabelStatus,
    Lease,
    LogEntry,
    QueueItem,
    Score,
)
from spd_tools.annotations.rows import Once, as_json, insert, new_id
from spd_tools.annotations.support import missing_for_support
from spd_tools.annotations.worth import Sizes
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey, KeySpace
from spd_tools.settings import Settings

if TYPE_CHECKING:
    from spd_tools.experiments.records import Result
    from spd_tools.store.harvest import Harvest

Key = str | ComponentKey
MAX_CLAIM = 1000
MAX_LEASE_SECONDS = 30 * 24 * 3600


class Annotations:
    """Evidence, hypotheses, labels, scores and the log of one run.

    Nothing is overwritten: a label or a hypothesis that changes gets a new version. Many threads and processes may read
    and write at once; what a method returned is on disk. Reading makes no file. Every write names its author, and may
    carry an idempotency key: a second write with the same key does nothing and returns what the first one made.
    """

    def __init__(self, database: Database, keys: KeySpace | None = None, vocab_size: int | None = None) -> None:
        """Use ``Annotations.open`` or ``Annotations.of``."""
        self._database = database
        self._keys = keys
        self._vocab_size = vocab_size

    @classmethod
    def open(
        cls, run_id: str, fingerprint: str, *, keys: KeySpace | None = None, vocab_size: int | None = None
    ) -> Annotations:
        """The annotations of a run; they need not exist yet.

        Args:
            run_id: of the run.
            fingerprint: of its decomposition.
            keys: its components; with them, others are refused.
            vocab_size: tokens that its model knows; with it, nobody is told to try more controls than there are.

        Raises:
            SpdToolsError: for what is no run id, a file that is damaged, foreign or of a newer version, and one about
                a decomposition with another fingerprint.
        """
        name_of("The fingerprint", fingerprint)
        path = Settings.from_environment().annotations(run_name(run_id))
        notes = cls(Database(path, run_id, fingerprint), keys, vocab_size)
        with notes._database.read():
            return notes

    @classmethod
    def of(cls, harvest: Harvest) -> Annotations:
        """The annotations of a harvest's run. Raises SpdToolsError as ``open``."""
        made_of = harvest.manifest.decomposition
        return cls.open(harvest.run_id, made_of.fingerprint, keys=harvest.keys, vocab_size=made_of.vocab_size)

    @property
    def path(self) -> Path:
        """The file."""
        return self._database.path

    # --- evidence -----------------------------------------------------------------------------------------------

    def add_evidence(self, result: Result, *, author: str, idempotency_key: str | None = None) -> EvidenceRecord:
        """Keep a result. When its id is there already, the first one stays and is returned.

        Raises:
            SpdToolsError: when it is about another decomposition, or a component that this one has not.
        """
        evidence_table.check_fingerprint(result, self._database.fingerprint)
        self._key(result.request.key)
        once = Once("add_evidence", author, idempotency_key, result.id)
        row = evidence_table.evidence_row(result, now(), author)
        texts = evidence_table.request_texts(result)
        with self._database.write() as connection:
            if once.made(connection) is None:
                evidence_table.add(connection, row, texts)
                once.remember(connection, result.id)
            record = evidence_table.find(connection, result.id)
        assert record is not None
        return record

    def find_evidence(self, evidence_id: str) -> EvidenceRecord | None:
        """A stored result; None when there is none of that id."""
        with self._database.read() as connection:
            return None if connection is None else evidence_table.find(connection, evidence_id)

    def evidence(self, evidence_id: str) -> EvidenceRecord:
        """A stored result.

        Raises:
            SpdToolsError: when there is none of that id.
        """
        record = self.find_evidence(evidence_id)
        if record is None:
            raise SpdToolsError(f"There is no evidence {evidence_id!r}; take an id that an experiment returned.")
        return record

    def list_evidence(
        self, key: Key | None = None, experiment: str | None = None, limit: int | None = 50
    ) -> list[EvidenceSummary]:
        """Stored results, newest first."""
        with self._database.read() as connection:
            if connection is None:
                return []
            return evidence_table.listed(connection, self._optional(key), experiment, _limit(limit))

    def corrected_p_values(self, key: Key) -> dict[str, float]:
        """Id -> p-value corrected (Holm) for all stored results about a component; without those that have none."""
        name = self._key(key)
        with self._database.read() as connection:
            return {} if connection is None else corrected(evidence_table.p_values(connection, name))

    def texts_used(self, key: Key) -> set[str]:
        """Normalised texts (see ``normalised``) that the model was run on for evidence about a component."""
        name = self._key(key)
        with self._database.read() as connection:
            return set() if connection is None else evidence_table.texts_used(connection, name)

    # --- hypotheses ---------------------------------------------------------------------------------------------

    def add_hypothesis(
        self,
        key: Key,
        text: str,
        *,
        confidence: float,
        author: str,
        evidence: Sequence[str] = (),
        idempotency_key: str | None = None,
    ) -> Hypothesis:
        """Propose something about a component; it starts as "open".

        Raises:
            SpdToolsError: for a blank or too long text, a confidence outside 0 to 1, or evidence that is unknown or
                about another component.
        """
        name = self._key(key)
        version = hypotheses.proposed(name, text, confidence, evidence, author)
        content = version.model_dump(mode="json", include={"key", "text", "confidence", "evidence"})
        once = Once("add_hypothesis", author, idempotency_key, content)
        with self._database.write() as connection:
            made = once.made(connection)
            if made is not None:
                return hypotheses.versions(connection, made)[0]
            evidence_table.cited(connection, version.evidence, name)
            hypotheses.add(connection, version)
            once.remember(connection, version.id)
        return version

    def update_hypothesis(
        self,
        hypothesis_id: str,
        *,
        status: HypothesisStatus | None = None,
        confidence: float | None = None,
        note: str | None = None,
        evidence: Sequence[str] = (),
        author: str,
        idempotency_key: str | None = None,
    ) -> Hypothesis:
        """Add a version that differs in what is given; ``evidence`` adds to that of earlier versions.

        Raises:
            SpdToolsError: for an unknown id or status, nothing to change, a hypothesis that is to be supported by no
                evidence or rejected without evidence or a note, and as ``add_hypothesis``.
        """
        given = hypotheses.changes(hypothesis_id, status, confidence, note, evidence)
        content = [hypothesis_id, given, list(evidence)]
        once = Once("update_hypothesis", author, idempotency_key, content)
        with self._database.write() as connection:
            made = once.made(connection)
            if made is not None:
                return hypotheses.versions(connection, hypothesis_id)[made - 1]
            last = hypotheses.newest(connection, hypothesis_id)
            evidence_table.cited(connection, evidence, str(last.key))
            version = hypotheses.revised(last, given, evidence, author)
            hypotheses.add(connection, version)
            once.remember(connection, version.version)
        return version

    def hypotheses(self, key: Key | None = None, status: HypothesisStatus | None = None) -> list[Hypothesis]:
        """Hypotheses as they stand, in the order in which they were proposed."""
        with self._database.read() as connection:
            return [] if connection is None else hypotheses.listed(connection, self._optional(key), status)

    def hypothesis_history(self, hypothesis_id: str) -> list[Hypothesis]:
        """All versions of a hypothesis, oldest first.

        Raises:
            SpdToolsError: when there is none of that id.
        """
        with self._database.read() as connection:
            hypotheses.newest(connection, hypothesis_id)
            assert connection is not None
            return hypotheses.versions(connection, hypothesis_id)

    # --- labels -------------------------------------------------------------------------------------------------

    def set_label(
        self, key: Key, draft: LabelDraft, *, author: str, idempotency_key: str | None = None
    ) -> LabelDecision:
        """Add a version of a component's label, and give back the author's lease on it.

        One that wants to be supported is, if it has what ``missing_for_support`` asks for; otherwise it is a draft.

        Raises:
            SpdToolsError: for evidence that is unknown or about another component.
        """
        name = self._key(key)
        once = Once("set_label", author, idempotency_key, [name, draft.model_dump(mode="json")])
        missing = self._missing(name, draft)
        status: LabelStatus = "draft" if draft.wants == "supported" and missing else draft.wants
        with self._database.write() as connection:
            made = once.made(connection)
            label = None if made is None else labels.find(connection, made)
            if label is None:
                label = labels.add(connection, name, draft, status, missing, author)
                drop(connection, name, author)
                once.remember(connection, label.id)
        return LabelDecision(label=label)

    def label(self, key: Key) -> LabelRecord | None:
        """A component's label, its newest version; None when it has none."""
        name = self._key(key)
        with self._database.read() as connection:
            return None if connection is None else labels.newest(connection, name)

    def label_history(self, key: Key) -> list[LabelRecord]:
        """All versions of a component's label, oldest first."""
        name = self._key(key)
        with self._database.read() as connection:
            return [] if connection is None else labels.history(connection, name)

    def labels(self, status: LabelStatus | None = None) -> list[LabelRecord]:
        """The label of every component that has one, by layer and index."""
        with self._database.read() as connection:
            return [] if connection is None else labels.listed(connection, status)

    def search_labels(self, query: str, limit: int = 20) -> list[LabelRecord]:
        """Labels that hold all words of a query (in other endings too), best first.

        Raises:
            SpdToolsError: for a query without words, or with too many.
        """
        words = labels.quoted(query)
        with self._database.read() as connection:
            return [] if connection is None else labels.search(connection, words, count_of("The limit", limit, 0))

    def disputed(self) -> list[Dispute]:
        """Components about which authors contradict each other, or whose label is rejected, by layer and index."""
        with self._database.read() as connection:
            found = {} if connection is None else disputes(connection)
        listed = [Dispute(key=ComponentKey.parse(key), why=why) for key, why in found.items()]
        return sorted(listed, key=lambda dispute: dispute.key)

    # --- who labels what ----------------------------------------------------------------------------------------

    def queue(self, harvest: Harvest, limit: int = 20) -> list[QueueItem]:
        """Components worth labelling, most worthy first (see ``Queue``); those somebody works on are marked."""
        count_of("The limit", limit, 0)
        return Queue(harvest, self._known()).items(limit)

    def claim(
        self,
        harvest: Harvest,
        *,
        author: str,
        n: int = 1,
        lease_seconds: float = 1800,
        idempotency_key: str | None = None,
    ) -> list[Lease]:
        """Take the ``n`` most worthy components that nobody works on; fewer when there are not as many.

        Raises:
            SpdToolsError: for a number or a time out of bounds.
        """
        count_of("The number of components", n, 1, MAX_CLAIM)
        _check_lease(lease_seconds)
        once = Once("claim", author, idempotency_key, [n, lease_seconds])
        known = self._known()
        queue = Queue(harvest, known)
        with self._database.write() as connection:
            made = once.made(connection)
            if made is not None:
                return [Lease.model_validate(lease) for lease in made]
            taken = take(connection, queue, known, author, n, lease_seconds)
            once.remember(connection, [lease.model_dump(mode="json") for lease in taken])
        return taken

    def leases(self) -> list[Lease]:
        """Who works on what."""
        with self._database.read() as connection:
            return [] if connection is None else leases(connection)

    def renew(self, key: Key, *, author: str, lease_seconds: float = 1800) -> Lease:
        """Keep a component for ``lease_seconds`` from now.

        Raises:
            SpdToolsError: when the author does not hold it any more.
        """
        _check_lease(lease_seconds)
        with self._database.write() as connection:
            return renew(connection, self._key(key), name_of("The author", author), lease_seconds)

    def release(self, key: Key, *, author: str) -> None:
        """Let others have a component.

        Raises:
            SpdToolsError: when the author does not hold it.
        """
        with self._database.write() as connection:
            release(connection, self._key(key), name_of("The author", author))

    # --- scores and log -----------------------------------------------------------------------------------------

    def add_score(
        self,
        key: Key,
        method: str,
        value: float,
        *,
        author: str,
        low: float | None = None,
        high: float | None = None,
        n: int | None = None,
        details: Mapping[str, Any] | None = None,
        label_version: int | None = None,
        idempotency_key: str | None = None,
    ) -> Score:
        """Note how good a component's label is by some method.

        Args:
            key: component.
            method: name of the method.
            value: the score.
            author: who or what scored it.
            low: lower end of its 95 % interval.
            high: upper end.
            n: observations.
            details: anything else, as JSON.
            label_version: version of the label that was scored.
            idempotency_key: see the class.

        Raises:
            SpdToolsError: for numbers that are not finite, details that are no JSON, or an unknown version.
        """
        name = self._key(key)
        bounds = {
            what: None if x is None else finite(f"The {what} end", x) for what, x in (("low", low), ("high", high))
        }
        numbers = {"value": finite("The score", value), **bounds}
        numbers["n"] = None if n is None else count_of("The number of observations", n, 0)
        row = {"key": name, "method": name_of("The method", method), **numbers, "details": _details(details)}
        once = Once("add_score", author, idempotency_key, [row, label_version])
        with self._database.write() as connection:
            made = once.made(connection)
            if made is None:
                label = None if label_version is None else scores.label_id(connection, name, label_version)
                made = new_id("s")
                insert(connection, "scores", {"id": made, **row, "label": label, "created": now(), "author": author})
                once.remember(connection, made)
            return scores.scores(connection, score_id=made)[0]

    def scores(self, key: Key | None = None) -> list[Score]:
        """Scores, oldest first."""
        with self._database.read() as connection:
            return [] if connection is None else scores.scores(connection, key=self._optional(key))

    def add_log(
        self, text: str, *, author: str, key: Key | None = None, idempotency_key: str | None = None
    ) -> LogEntry:
        """Write a line into the research log, about a component or the run as a whole.

        Raises:
            SpdToolsError: for a blank or too long text.
        """
        name = self._optional(key)
        once = Once("add_log", author, idempotency_key, [name, text_of("The entry", text)])
        with self._database.write() as connection:
            made = once.made(connection)
            if made is None:
                made = new_id("n")
                insert(connection, "log", {"id": made, "key": name, "text": text, "created": now(), "author": author})
                once.remember(connection, made)
            return scores.log_entry(connection, made)

    def research_log(self, key: Key | None = None, limit: int | None = 50) -> list[LogEntry]:
        """The last ``limit`` entries (about one component), oldest first."""
        with self._database.read() as connection:
            return [] if connection is None else scores.log(connection, self._optional(key), _limit(limit))

    # --- to and from elsewhere ----------------------------------------------------------------------------------

    def export_jsonl(self, path: Path | str) -> int:
        """Write everything but leases into one file (see ``exchange``); how many records."""
        with self._database.read() as connection:
            documents = exchange.documents(connection, self._database.run_id, self._database.fingerprint)
        exchange.write(documents, Path(path))
        return len(documents) - 1

    def import_jsonl(self, path: Path | str) -> ImportReport:
        """Add the records of an export that are not here yet; all of them or, when one does not fit, none.

        Raises:
            SpdToolsError: when the file is no export, is about another decomposition, holds a record that contradicts
                one of the same id here, or a supported label without the evidence for it.
        """
        bundle = importing.read(Path(path), self._database.fingerprint, self._keys)
        with self._database.write() as connection:
            return exchange.merge(connection, bundle)

    def export_neuronpedia(self, path: Path | str, *, model_id: str | None = None) -> int:
        """Write the newest labels that are not rejected as Neuronpedia explanations (see ``neuronpedia``); how many."""
        name = self._database.run_id if model_id is None else name_of("The model's id", model_id)
        return neuronpedia.export(self.labels(), Path(path), name)

    def import_neuronpedia(self, path: Path | str, *, author: str) -> int:
        """Store Neuronpedia explanations as drafts (see ``neuronpedia``); how many were new.

        Raises:
            SpdToolsError: when a row is none, or its layer and index are no component here.
        """
        drafts = neuronpedia.read(Path(path), self._keys)
        with self._database.write() as connection:
            return neuronpedia.store(connection, drafts, author)

    # --- helpers ------------------------------------------------------------------------------------------------

    def _key(self, key: Key) -> str:
        return key_of(key, self._keys)

    def _optional(self, key: Key | None) -> str | None:
        return None if key is None else self._key(key)

    def _known(self) -> Known:
        with self._database.read() as connection:
            return Known.read(connection)

    def _missing(self, key: str, draft: LabelDraft) -> list[str]:
        # Evidence is never changed or removed. What arrives between this and the write counts for the next version.
        with self._database.read() as connection:
            cited = evidence_table.cited(connection, draft.evidence, key)
            earlier = {} if connection is None else evidence_table.earlier_texts(connection, cited)
            p_values = {} if connection is None else evidence_table.p_values(connection, key)
        if draft.wants == "rejected":
            return []
        sizes = Sizes(self._vocab_size, None if self._keys is None else len(self._keys))
        return missing_for_support(draft, [record.result for record in cited], earlier, p_values, sizes)


def _limit(limit: int | None) -> int | None:
    return None if limit is None else count_of("The limit", limit, 0)


def _check_lease(seconds: float) -> None:
    if not 1 <= seconds <= MAX_LEASE_SECONDS:
        raise SpdToolsError(f"A lease of {seconds} s is none; choose from 1 s to {MAX_LEASE_SECONDS:,} s (30 days).")


def _details(details: Mapping[str, Any] | None) -> str:
    try:
        return as_json(dict(details or {}))
    except (TypeError, ValueError, RecursionError) as error:
        raise SpdToolsError(
            f"The details of a score are no JSON ({error}); give plain numbers, texts and lists."
        ) from None
