"""What became of trials, and the scores made of them: records, and tables in the run's annotations file, version 1.

==================  ================================================================================================
evaluation_runs     id of an evaluation -> its settings as JSON, and when it was first started
evaluation_trials   one row per evaluation, trial and call: what was asked (``call``, the hash of the prompt and of
                    everything else that determines the answer; the ledger has its requests), what was answered,
                    tokens, dollars, the model that served it, when and how long; ``graded``: how the answer compares
                    to the truth. A failed trial has a ``reason``, until a later run replaces the row
evaluation_scores   one row per evaluation, component, score and label that was judged; ``value`` NULL: no score, and
                    ``reason`` says why. ``trials``: pairs of trial and call, in the order of the trials
==================  ================================================================================================

The version stands in the table ``meta`` as ``evaluation_version``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from spd_tools.annotations.database import Database, now
from spd_tools.annotations.inputs import run_name
from spd_tools.annotations.rows import as_json, fields
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.trials import ScoreName
from spd_tools.llm import Usage
from spd_tools.settings import Settings
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import KeyField, Record

Judged = Literal["label", "another", "empty", "top_tokens", "none"]
"""Which label the judge was shown: the component's own, another component's, an empty one, one made from the top
tokens; "none": the score (intruder) needs none."""
BASELINES: tuple[Judged, ...] = ("another", "empty", "top_tokens")

_VERSION = "1"
_PARSED = ("looks", "notes", "trials")
"""Columns of scores that hold JSON."""
_STATEMENTS = (
    """CREATE TABLE evaluation_runs (
        id TEXT PRIMARY KEY, harvest_id TEXT NOT NULL, settings TEXT NOT NULL, created TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE evaluation_trials (
        evaluation TEXT NOT NULL, trial TEXT NOT NULL, call TEXT NOT NULL, key TEXT NOT NULL, score TEXT NOT NULL,
        judged TEXT NOT NULL, state TEXT NOT NULL, answer TEXT, graded TEXT, model TEXT,
        input_tokens INTEGER, output_tokens INTEGER, cache_read_tokens INTEGER, cache_write_tokens INTEGER,
        dollars REAL NOT NULL, seconds REAL, request_id TEXT, time TEXT NOT NULL, reason TEXT,
        PRIMARY KEY (evaluation, trial, call)) WITHOUT ROWID""",
    """CREATE TABLE evaluation_scores (
        evaluation TEXT NOT NULL, key TEXT NOT NULL, score TEXT NOT NULL, judged TEXT NOT NULL, label TEXT,
        label_version INTEGER, label_of TEXT, value REAL, low REAL, high REAL, n_trials INTEGER NOT NULL,
        n_judgements INTEGER NOT NULL, failed INTEGER NOT NULL, looks TEXT NOT NULL, look INTEGER NOT NULL,
        reason TEXT, notes TEXT NOT NULL, trials TEXT NOT NULL, created TEXT NOT NULL,
        PRIMARY KEY (evaluation, score, judged, key)) WITHOUT ROWID""",
)
_USAGE = {name: f"{name}_tokens" for name in Usage.model_fields}


class TrialRow(Record):
    """What became of one trial."""

    trial: str
    """Its id: equal trials have equal ones."""
    call: str
    """Hash of the prompt and of everything else that determines the answer."""
    key: KeyField
    score: ScoreName
    judged: Judged
    state: Literal["graded", "failed"]
    answer: str | None
    """JSON."""
    graded: list[tuple[float, float]] | None
    """(truth, answer) of each judgement; see ``statistics.Graded``."""
    model: str | None
    """That served it."""
    usage: Usage | None
    dollars: float
    """Paid for the answer, whenever that was; for a failed trial, what this run paid."""
    seconds: float | None
    request_id: str | None
    time: str
    """UTC, ISO 8601."""
    reason: str | None
    """Why it failed."""


class ComponentScore(Record):
    """A component's score by one method with one label."""

    key: KeyField
    score: ScoreName
    judged: Judged
    label: str | None
    """That the judge was shown; None for "none" and where there is no such label."""
    label_version: int | None
    """Of the component's own label."""
    label_of: KeyField | None
    """The component whose label it is, for "another"."""
    value: float | None
    low: float | None
    high: float | None
    """95 % interval."""
    n_trials: int
    """Trials that the score was made of."""
    n_judgements: int
    failed: int
    """Trials without an answer that could be graded."""
    looks: list[int]
    """Numbers of trials at which stopping was planned to be considered."""
    look: int
    """How many of them were used up."""
    reason: str | None
    """Why there is no value."""
    notes: list[str]
    """What the trials say about themselves, for example that like density could not be met."""
    trials: list[tuple[str, str]]
    """(trial, call) of every trial that was asked, in their order."""


class ModelCost(Record):
    """What the answers of one model came to."""

    model: str
    trials: int
    usage: Usage
    dollars: float
    """Paid for them, whenever that was."""


class ResultStore:
    """The tables of evaluations in a run's annotations."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def of(cls, harvest: Harvest) -> ResultStore:
        """Those of a harvest's run; nothing is written before the first result.

        Raises:
            SpdToolsError: when the file is damaged, of another version or about another decomposition.
        """
        path = Settings.from_environment().annotations(run_name(harvest.run_id))
        store = cls(Database(path, harvest.run_id, harvest.manifest.decomposition.fingerprint))
        with store._database.read() as connection:
            store._are_there(connection)
        return store

    def begin(self, evaluation: str, harvest_id: str, settings: dict[str, Any]) -> None:
        """Note that an evaluation is about to start, or to go on."""
        with self._writing() as connection:
            row = (evaluation, harvest_id, as_json(settings), now())
            connection.execute("INSERT OR IGNORE INTO evaluation_runs VALUES (?, ?, ?, ?)", row)

    def settings(self, evaluation: str) -> dict[str, Any]:
        """Settings of an evaluation.

        Raises:
            SpdToolsError: when there is none of that id.
        """
        for row in self._rows("SELECT settings FROM evaluation_runs WHERE id = ?", evaluation):
            return json.loads(row["settings"])
        raise SpdToolsError(f"There is no evaluation {evaluation!r} of this run.")

    def newest(self, harvest_id: str) -> str | None:
        """Id of the evaluation of a harvest that was started last; None when there is none."""
        query = "SELECT id FROM evaluation_runs WHERE harvest_id = ? ORDER BY created DESC LIMIT 1"
        return next((row["id"] for row in self._rows(query, harvest_id)), None)

    def write(self, evaluation: str, trials: Sequence[TrialRow], scores: Sequence[ComponentScore]) -> None:
        """Add rows, or put them in the place of earlier ones about the same."""
        with self._writing() as connection:
            for trial in trials:
                _replace(connection, "evaluation_trials", {"evaluation": evaluation, **_trial_columns(trial)})
            for score in scores:
                columns = {"evaluation": evaluation, **score.model_dump(mode="json"), "created": now()}
                columns |= {name: as_json(columns[name]) for name in _PARSED}
                _replace(connection, "evaluation_scores", columns)

    def score(self, evaluation: str, key: str, score: ScoreName, judged: Judged) -> ComponentScore | None:
        """One score; None when it is not there."""
        query = "SELECT * FROM evaluation_scores WHERE evaluation = ? AND key = ? AND score = ? AND judged = ?"
        return next((_score(row) for row in self._rows(query, evaluation, key, score, judged)), None)

    def extremes(self, evaluation: str, score: ScoreName, judged: Judged, n: int, *, best: bool) -> list[str]:
        """Keys of the ``n`` best or worst components that have a value, the best or worst first."""
        order = "DESC" if best else "ASC"
        query = f"""SELECT key FROM evaluation_scores WHERE evaluation = ? AND score = ? AND judged = ?
                    AND value IS NOT NULL ORDER BY value {order}, n_trials DESC, key LIMIT ?"""
        return [row["key"] for row in self._rows(query, evaluation, score, judged, n)]

    def has_scores(self, evaluation: str) -> bool:
        """Whether anything has been found yet."""
        return any(self._rows("SELECT 1 FROM evaluation_scores WHERE evaluation = ? LIMIT 1", evaluation))

    def values(self, evaluation: str, score: ScoreName, judged: Judged) -> list[float]:
        """Values of all components that have one."""
        query = """SELECT value FROM evaluation_scores WHERE evaluation = ? AND score = ? AND judged = ?
                   AND value IS NOT NULL ORDER BY key"""
        return [row["value"] for row in self._rows(query, evaluation, score, judged)]

    def reasons(self, evaluation: str, score: ScoreName, judged: Judged) -> list[str]:
        """Why components have no value."""
        query = """SELECT reason FROM evaluation_scores WHERE evaluation = ? AND score = ? AND judged = ?
                   AND value IS NULL ORDER BY key"""
        return [row["reason"] for row in self._rows(query, evaluation, score, judged)]

    def pairs(self, evaluation: str, score: ScoreName, judged: Judged, other: Judged) -> list[tuple[float, float]]:
        """Values of one label and of another, of all components that have both."""
        query = """SELECT a.value AS one, b.value AS two FROM evaluation_scores a JOIN evaluation_scores b
                   ON b.evaluation = a.evaluation AND b.score = a.score AND b.key = a.key AND b.judged = ?
                   WHERE a.evaluation = ? AND a.score = ? AND a.judged = ?
                   AND a.value IS NOT NULL AND b.value IS NOT NULL ORDER BY a.key"""
        return [(row["one"], row["two"]) for row in self._rows(query, other, evaluation, score, judged)]

    def trial(self, evaluation: str, trial: str, call: str) -> TrialRow | None:
        """What became of a trial; None when it is not there."""
        query = "SELECT * FROM evaluation_trials WHERE evaluation = ? AND trial = ? AND call = ?"
        return next((_trial(row) for row in self._rows(query, evaluation, trial, call)), None)

    def costs(self, evaluation: str) -> list[ModelCost]:
        """Trials, tokens and dollars of an evaluation by the model that served them."""
        sums = ", ".join(f"coalesce(sum({column}), 0) AS {column}" for column in _USAGE.values())
        query = f"""SELECT model, count(*) AS trials, sum(dollars) AS dollars, {sums} FROM evaluation_trials
                    WHERE evaluation = ? AND model IS NOT NULL GROUP BY model ORDER BY model"""
        return [
            ModelCost(
                model=row["model"],
                trials=row["trials"],
                usage=Usage(**{name: row[column] for name, column in _USAGE.items()}),
                dollars=row["dollars"],
            )
            for row in self._rows(query, evaluation)
        ]

    def failures(self, evaluation: str) -> dict[str, int]:
        """Why trials of an evaluation failed -> how many, the most frequent first."""
        query = """SELECT reason, count(*) AS n FROM evaluation_trials WHERE evaluation = ? AND state = 'failed'
                   GROUP BY reason ORDER BY n DESC, reason"""
        return {row["reason"]: row["n"] for row in self._rows(query, evaluation)}

    def labelled(self) -> set[str]:
        """Keys of the components whose newest label is not rejected."""
        query = """SELECT key FROM (SELECT key, status, max(version) FROM labels GROUP BY key)
                   WHERE status != 'rejected'"""
        with self._database.read() as connection:
            return set() if connection is None else {row["key"] for row in connection.execute(query)}

    def _are_there(self, connection: sqlite3.Connection | None) -> bool:
        if connection is None:
            return False
        row = connection.execute("SELECT value FROM meta WHERE name = 'evaluation_version'").fetchone()
        if row is not None and row["value"] != _VERSION:
            raise SpdToolsError(
                f"The evaluations in {self._database.path} have version {row['value']} and this spd-tools reads "
                f"version {_VERSION}; use the spd-tools that wrote them, or a newer one."
            )
        return row is not None

    def _rows(self, query: str, *values: Any) -> Iterator[sqlite3.Row]:
        with self._database.read() as connection:
            if connection is None or not self._are_there(connection):
                return
            found = connection.execute(query, values).fetchall()
        yield from found

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database.write() as connection:
            if not self._are_there(connection):
                for statement in _STATEMENTS:
                    connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES ('evaluation_version', ?)", (_VERSION,))
            yield connection


def _replace(connection: sqlite3.Connection, table: str, columns: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(columns))
    query = f"INSERT OR REPLACE INTO {table} ({', '.join(columns)}) VALUES ({marks})"
    connection.execute(query, tuple(columns.values()))


def _trial_columns(trial: TrialRow) -> dict[str, Any]:
    columns = trial.model_dump(mode="json", exclude={"usage"})
    columns["graded"] = None if trial.graded is None else as_json(trial.graded)
    return columns | {column: getattr(trial.usage, name, None) for name, column in _USAGE.items()}


def _trial(row: sqlite3.Row) -> TrialRow:
    values = fields(row, without=("evaluation", *_USAGE.values()))
    values["graded"] = None if row["graded"] is None else json.loads(row["graded"])
    known = row["input_tokens"] is not None
    usage = Usage(**{name: row[column] for name, column in _USAGE.items()}) if known else None
    return TrialRow(**values, usage=usage)


def _score(row: sqlite3.Row) -> ComponentScore:
    return ComponentScore(**fields(row, parsed=_PARSED, without=("evaluation", "created")))
