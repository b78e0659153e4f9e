"""Judge labels: trials -> answers -> scores, each stored when it is there.

Whatever is interrupted goes on where it was: answers are found in the ledger, finished scores in the tables of
``results``. Trials that failed (a refusal, an answer that breaks its schema, a server that gave up) are asked again by
every later run, whatever they failed of; until then they count neither for nor against a component.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.annotations import Annotations
from spd_tools.annotations.rows import as_json
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.courses import Courses, Work
from spd_tools.evaluate.judges import judge_call
from spd_tools.evaluate.labels import JudgedLabel, Labels
from spd_tools.evaluate.origins import LabelOrigin, seen_rows
from spd_tools.evaluate.plan import EvaluationSettings
from spd_tools.evaluate.records import ComponentScore, TrialRow, general_reason
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.statistics import CHANCE
from spd_tools.evaluate.trials import ScoreName, make_trials
from spd_tools.evaluate.works import Works
from spd_tools.keys import ComponentKey
from spd_tools.llm import BatchSettings, Call, LanguageModel, Ledger, Outcome
from spd_tools.llm.alone import alone
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record

_BATCH_WORKS = 1_000
"""Components and scores that are in hand together where answers come in batches: with baselines, 20,000 calls."""
_FLUSH_TRIALS = 200
_FLUSH_WORKS = 20
_MOST_PENDING = 200


class EvaluationSummary(Record):
    """What a run has done."""

    id: str
    """Of the evaluation; the same settings have the same, and go on from here."""
    n_components: int
    n_scored: int
    """Pairs of component and score that have a value, from earlier runs too."""
    n_known: int
    """Among them: found by an earlier run, with the same labels."""
    n_unscored: int
    """Pairs of component and score that were looked at and have no value."""
    unscored: dict[str, int]
    """Reason -> how many. Reasons that differ in a component's name or a number only are one."""
    n_left: int
    """Pairs of component and score that were not taken up, or not finished, because calls were not sent."""
    not_sent: str | None
    """Why they were not."""
    n_failed_trials: int
    """In this run, baselines included."""
    budget_exhausted: bool
    dollars: float
    """Paid in this run."""


async def evaluate(
    harvest: Harvest,
    notes: Annotations,
    model: LanguageModel,
    settings: EvaluationSettings,
    *,
    batches: BatchSettings | None = None,
) -> EvaluationSummary:
    """Score components; every trial and score is stored in the run's annotations.

    Args:
        harvest: with a firing log.
        notes: of the harvest's run, with labels; get the scores.
        model: answers; its budget, when exhausted, leaves the rest unscored.
        settings: see ``plan.settings_of``.
        batches: ask in message batches, at half price.

    Raises:
        SpdToolsError: when there is nothing to score; as ``LanguageModel.answer``.
    """
    return await Evaluation(harvest, notes, settings).run(model, batches)


class Evaluation:
    """One evaluation of a harvest's components."""

    def __init__(self, harvest: Harvest, notes: Annotations, settings: EvaluationSettings) -> None:
        """
        Raises:
            SpdToolsError: when there is nothing to score.
        """
        self._harvest = harvest
        self._notes = notes
        self._settings = settings
        self._store = ResultStore.of(harvest)
        self._split = Split(harvest)
        labelled = self._store.labelled()
        ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
        self._labels = Labels(harvest, notes, ledger, labelled, settings.seed)
        self._components = self._chosen(labelled)
        if not len(self._components):
            raise SpdToolsError(
                "No component of this run has a label that could be scored; label some first (`spd-tools interpret`), "
                "name some with --keys, or ask for --score intruder, which needs no labels."
                if settings.needs_labels
                else "No component of this harvest fires, so there is nothing to score; harvest more text."
            )
        self._trials: list[TrialRow] = []
        self._works: list[Work] = []
        self._unscored: Counter[str] = Counter()
        self._n_scored = self._n_known = self._n_failed = self._n_unsent = self._n_outcomes = 0
        self._not_sent: str | None = None
        self._goes_on = False
        """Whether an earlier run has found something."""

    @property
    def n_components(self) -> int:
        """That are to be scored."""
        return len(self._components)

    @property
    def most_calls(self) -> int:
        """If every trial there may be is asked."""
        per_component = sum(len(self._settings.judged(score)) for score in self._settings.scores)
        return self.n_components * per_component * self._settings.n_trials

    def sample(self, n_components: int = 5) -> list[Call]:
        """Calls of components spread over those that are to be scored, one trial of each score and label.

        Raises:
            SpdToolsError: when there is no material for a single trial.
        """
        step = max(1, len(self._components) // n_components)
        calls: list[Call] = []
        for flat in self._components[::step][:n_components].tolist():
            key = self._harvest.keys.key(flat)
            for score in self._settings.scores:
                labels = self.labels(key, score)
                seen = seen_rows(self._harvest, key, labels[0].origin)
                made = make_trials(self._split, key, score, 1, self._settings.seed, seen)
                for label in labels if made.trials else []:
                    if label.reason is None:
                        texts = self._harvest.token_texts
                        calls.append(judge_call(made.trials[0], label.text, texts, self._settings.model))
        if not calls:
            raise SpdToolsError("There is no trial to estimate costs from; harvest more text, or label components.")
        return calls

    async def run(self, model: LanguageModel, batches: BatchSettings | None = None) -> EvaluationSummary:
        """See ``evaluate``. While another process makes one of these scores about the run, this one waits."""
        works = [f"{score} scores by {self._settings.model}" for score in self._settings.scores]
        async with alone(self._harvest.run_id, works):
            return await self._run(model, batches)

    async def _run(self, model: LanguageModel, batches: BatchSettings | None) -> EvaluationSummary:
        settings = self._settings
        self._store.begin(settings.id, settings.harvest_id, settings.model_dump(mode="json"))
        works = await asyncio.to_thread(self._unknown)
        most_open = None if batches is None else _BATCH_WORKS
        courses = Courses(self._split, settings, iter(works), self, self._finish, most_open)
        try:
            while not courses.finished:
                n_before = self._n_outcomes
                async with aclosing(_outcomes(model, courses, batches)) as outcomes:
                    async for outcome in outcomes:
                        await self._take(courses, outcome)
                        if model.budget_exhausted:
                            courses.stop()
                assert courses.finished or self._n_outcomes > n_before, "calls without outcomes"
        finally:
            self._store_pending(*self._pending())
        return self._summary(model, courses, len(works))

    # --- what there is to do ------------------------------------------------------------------------------------

    def _chosen(self, labelled: set[str]) -> NDArray[np.int64]:
        """[n] flat indices."""
        settings, keys = self._settings, self._harvest.keys
        if settings.keys is not None:
            return np.array([keys.flat(key) for key in settings.keys][: settings.limit], np.int64)
        counts = self._harvest.firing_counts
        order = np.argsort(-counts, kind="stable")
        if settings.needs_labels:
            wanted = np.zeros(len(keys), bool)
            wanted[[keys.flat(key) for key in labelled]] = True
            order = order[wanted[order]]
        else:
            order = order[counts[order] > 0]
        return order[: settings.limit]

    def _unknown(self) -> Works:
        """What is to be done; earlier runs' results, which need not be made again, are counted and left out."""
        works = Works(self._harvest.keys, self._components, self._settings.scores)
        self._goes_on = self._store.has_scores(self._settings.id)
        if not self._goes_on:
            return works
        unknown = np.ones(len(works), bool)
        for number, (key, score) in enumerate(works):
            labels = self.labels(key, score)
            found = (self.stored(key, score, label, labels[0].origin) for label in labels)
            unknown[number] = any(row is None for row in found)
        self._n_known = int((~unknown).sum())
        return works.only(unknown)

    def labels(self, key: ComponentKey, score: ScoreName) -> Sequence[JudgedLabel]:
        """The labels that a component is judged by; the first is what its score is about."""
        first, *baselines = self._settings.judged(score)
        own = self._labels.of(key, first)
        if own.reason is not None or not self._harvest.firing_counts[self._harvest.keys.flat(key)]:
            return [own]
        return [own, *(self._labels.of(key, judged) for judged in baselines)]

    def stored(
        self, key: ComponentKey, score: ScoreName, label: JudgedLabel, origin: LabelOrigin | None
    ) -> ComponentScore | None:
        """What an earlier run has found with the same label on the same trials, if all of them were good."""
        if not self._goes_on:
            return None
        found = self._store.score(self._settings.id, str(key), score, label.judged)
        if found is None or found.value is None or found.failed:
            return None
        return found if (found.label, found.origin) == (label.text, origin) else None

    # --- what comes of it ---------------------------------------------------------------------------------------

    async def _take(self, courses: Courses, outcome: Outcome) -> None:
        self._n_outcomes += 1
        row = courses.take(outcome)
        if row is not None:
            self._trials.append(row)
            self._n_failed += row.state == "failed"
        if len(self._trials) >= _FLUSH_TRIALS or len(self._works) >= _FLUSH_WORKS:
            await asyncio.to_thread(self._store_pending, *self._pending())

    def _finish(self, work: Work) -> None:
        first = work.courses[0]
        self._not_sent = self._not_sent or next((course.reason for course in work.courses if course.unsent), None)
        if first.unsent:
            self._n_unsent += 1
        elif first.score_row.value is None:
            self._unscored[general_reason(first.score_row.reason or "")] += 1
        else:
            self._n_scored += 1
        self._works.append(work)
        if len(self._works) >= _MOST_PENDING:  # many that need no call, one after the other
            self._store_pending(*self._pending())

    def _pending(self) -> tuple[list[TrialRow], list[Work]]:
        """What is not stored yet, for somebody who stores it now."""
        pending = self._trials, self._works
        self._trials, self._works = [], []
        return pending

    def _store_pending(self, trials: list[TrialRow], works: list[Work]) -> None:
        rows = [[course.score_row for course in work.courses] for work in works]
        for first, *baselines in rows:
            self._note(first, baselines)
        # Last: a score that is stored here is not looked at again.
        if trials or rows:
            self._store.write(self._settings.id, trials, [row for of_work in rows for row in of_work])

    def _note(self, row: ComponentScore, baselines: Sequence[ComponentScore]) -> None:
        """Add a score to the component's annotations; the same one again changes nothing."""
        if row.value is None:
            return
        details = {
            "evaluation": self._settings.id,
            "harvest": self._settings.harvest_id,
            "judge": self._settings.model,
            "chance": CHANCE[row.score],
            "n_judgements": row.n_judgements,
            "failed_trials": row.failed,
            "looks": row.looks,
            "look": row.look,
            "origin": row.origin and asdict(row.origin),
            "notes": row.notes,
            "baselines": {baseline.judged: _as_baseline(baseline) for baseline in baselines},
        }
        identity = as_json([row.model_dump(mode="json", exclude={"trials"}), details])
        self._notes.add_score(
            row.key,
            row.score,
            row.value,
            author=self._settings.model,
            low=row.low,
            high=row.high,
            n=row.n_trials,
            details=details,
            label_version=row.label_version,
            idempotency_key=f"evaluate-{hashlib.sha256(identity.encode()).hexdigest()[:32]}",
        )

    def _summary(self, model: LanguageModel, courses: Courses, n_works: int) -> EvaluationSummary:
        return EvaluationSummary(
            id=self._settings.id,
            n_components=self.n_components,
            n_scored=self._n_scored + self._n_known,
            n_known=self._n_known,
            n_unscored=self._unscored.total(),
            unscored=dict(self._unscored.most_common()),
            n_left=n_works - courses.n_opened + self._n_unsent,
            not_sent=self._not_sent,
            n_failed_trials=self._n_failed,
            budget_exhausted=model.budget_exhausted,
            dollars=model.tally.dollars,
        )


def _outcomes(model: LanguageModel, courses: Courses, batches: BatchSettings | None) -> AsyncGenerator[Outcome]:
    return model.answer(courses) if batches is None else model.answer_in_batches(courses, batches)


def _as_baseline(row: ComponentScore) -> dict[str, Any]:
    names = ("value", "low", "high", "n_trials", "failed", "label", "label_of", "reason")
    return {name: value for name, value in row.model_dump(mode="json").items() if name in names}
