"""What became of trials, and the scores made of them: tables in the run's annotations file, version 2.

==================  ================================================================================================
evaluation_runs     id of an evaluation -> its settings as JSON, and when it was first started
evaluation_trials   one row per evaluation, trial and call: what was asked (``call``, the hash of the prompt and of
                    everything else that determines the answer; the ledger has its requests), what was answered,
                    tokens, dollars, the model that served it, when and how long; ``graded``: how the answer compares
                    to the truth. A failed trial has a ``reason``, until a later run replaces the row
evaluation_scores   one row per evaluation, component, score and label that was judged; ``value`` NULL: no score, and
                    ``reason`` says why. ``trials``: pairs of trial and call, in the order of the trials.
                    ``origin``: where the component's own label comes from (see ``origins``), which decides what it and
                    its baselines are judged on; NULL where no label is judged, and in rows of version 1
==================  ================================================================================================

The version stands in the table ``meta`` as ``evaluation_version``. Version 1 has no ``origin``; it is added when
something is written.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.annotations.database import Database, now
from spd_tools.annotations.inputs import run_name
from spd_tools.annotations.rows import as_json, fields
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.records import ComponentScore, Judged, LabelSource, ModelCost, TrialRow, general_reason
from spd_tools.evaluate.trials import ScoreName
from spd_tools.llm import Usage
from spd_tools.settings import Settings
from spd_tools.store.harvest import Harvest

_VERSION = "2"
_ADDED_IN_2 = ("ALTER TABLE evaluation_scores ADD COLUMN origin TEXT",)
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
        reason TEXT, notes TEXT NOT NULL, trials TEXT NOT NULL, created TEXT NOT NULL, origin TEXT,
        PRIMARY KEY (evaluation, score, judged, key)) WITHOUT ROWID""",
)
_USAGE = {name: f"{name}_tokens" for name in Usage.model_fields}


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
            store._version(connection)
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
                columns["origin"] = None if score.origin is None else as_json(columns["origin"])
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
        with self._reading() as rows:
            return [row["value"] for row in rows(query, evaluation, score, judged)]

    def reasons(self, evaluation: str, score: ScoreName, judged: Judged) -> Counter[str]:
        """Why components have no value, made general (see ``general_reason``) -> how many."""
        query = """SELECT reason FROM evaluation_scores WHERE evaluation = ? AND score = ? AND judged = ?
                   AND value IS NULL ORDER BY key"""
        with self._reading() as rows:
            return Counter(general_reason(row["reason"]) for row in rows(query, evaluation, score, judged))

    def label_sources(self, evaluation: str, score: ScoreName) -> list[LabelSource]:
        """Where the labels come from that were judged for a score, the most frequent first."""
        query = """SELECT origin FROM evaluation_scores WHERE evaluation = ? AND score = ? AND judged = 'label'
                   AND origin IS NOT NULL"""
        with self._reading() as rows:
            origins = (json.loads(row["origin"]) for row in rows(query, evaluation, score))
            found = Counter((origin["author"], origin["blind"], origin["reason"]) for origin in origins)
        listed = [LabelSource(author=author, blind=blind, reason=why, n=n) for (author, blind, why), n in found.items()]
        return sorted(listed, key=lambda each: (-each.n, each.author, each.reason or ""))

    def pairs(self, evaluation: str, score: ScoreName, judged: Judged, other: Judged) -> NDArray[np.float64]:
        """[n, 2] values of one label and of another, of all components that have both."""
        query = """SELECT a.value AS one, b.value AS two FROM evaluation_scores a JOIN evaluation_scores b
                   ON b.evaluation = a.evaluation AND b.score = a.score AND b.key = a.key AND b.judged = ?
                   WHERE a.evaluation = ? AND a.score = ? AND a.judged = ?
                   AND a.value IS NOT NULL AND b.value IS NOT NULL ORDER BY a.key"""
        with self._reading() as rows:
            found = rows(query, other, evaluation, score, judged)
            return np.fromiter((value for row in found for value in row), float).reshape(-1, 2)

    def trial(self, evaluation: str, trial: str, call: str) -> TrialRow | None:
        """What became of a trial; None when it is not there."""
        query = "SELECT * FROM evaluation_trials WHERE evaluation = ? AND trial = ? AND call = ?"
        return next((_trial(row) for row in self._rows(query, evaluation, trial, call)), None)

    def costs(self, evaluation: str) -> list[ModelCost]:
        """Trials, tokens and dollars of an evaluation by the model that served them."""
        models = """SELECT DISTINCT model FROM evaluation_trials WHERE evaluation = ? AND model IS NOT NULL
                    ORDER BY model"""
        sums = ", ".join(f"coalesce(sum({column}), 0) AS {name}" for name, column in _USAGE.items())
        totals = f"""SELECT count(*) AS trials, sum(dollars) AS dollars, {sums} FROM evaluation_trials
                     WHERE evaluation = ? AND model = ?"""
        found: list[ModelCost] = []
        with self._reading() as rows:
            # A query per model: grouping would sort all trials, in memory.
            for model in [row["model"] for row in rows(models, evaluation)]:
                [total] = rows(totals, evaluation, model)
                usage = Usage(**{name: total[name] for name in _USAGE})
                found.append(ModelCost(model=model, trials=total["trials"], usage=usage, dollars=total["dollars"]))
        return found

    def failures(self, evaluation: str) -> dict[str, int]:
        """Why trials of an evaluation failed -> how many, the most frequent first."""
        query = "SELECT reason FROM evaluation_trials WHERE evaluation = ? AND state = 'failed'"
        with self._reading() as rows:
            found = Counter(row["reason"] for row in rows(query, evaluation))
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def labelled(self) -> set[str]:
        """Keys of the components whose newest label is not rejected."""
        query = """SELECT key FROM (SELECT key, status, max(version) FROM labels GROUP BY key)
                   WHERE status != 'rejected'"""
        with self._database.read() as connection:
            return set() if connection is None else {row["key"] for row in connection.execute(query)}

    def _version(self, connection: sqlite3.Connection | None) -> str | None:
        """None where there are no tables yet."""
        if connection is None:
            return None
        row = connection.execute("SELECT value FROM meta WHERE name = 'evaluation_version'").fetchone()
        if row is not None and row["value"] not in ("1", _VERSION):
            raise SpdToolsError(
                f"The evaluations in {self._database.path} have version {row['value']} and this spd-tools reads "
                f"versions 1 and {_VERSION}; use the spd-tools that wrote them, or a newer one."
            )
        return None if row is None else row["value"]

    @contextmanager
    def _reading(self) -> Iterator[Callable[..., Iterable[sqlite3.Row]]]:
        """A function that gives the rows of a query one by one, inside this; writers wait for it."""
        with self._database.read() as connection:
            version = self._version(connection)
            if connection is None or version is None:
                yield lambda query, *values: ()
                return
            if version == "1":  # a temporary view stands in front of the table of its name, in this connection
                connection.execute(
                    "CREATE TEMP VIEW evaluation_scores AS SELECT *, NULL AS origin FROM main.evaluation_scores"
                )
            yield lambda query, *values: connection.execute(query, values)

    def _rows(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._reading() as rows:
            return list(rows(query, *values))

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._database.write() as connection:
            version = self._version(connection)
            if version != _VERSION:
                for statement in _STATEMENTS if version is None else _ADDED_IN_2:
                    connection.execute(statement)
                connection.execute("INSERT OR REPLACE INTO meta VALUES ('evaluation_version', ?)", (_VERSION,))
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
    values = fields(row, parsed=_PARSED, without=("evaluation", "created"))
    values["origin"] = None if row["origin"] is None else json.loads(row["origin"])
    return ComponentScore(**values)
