"""Which trials are asked when: components are taken up one after the other, each only while it is being judged.

A work is one component and score; it has a course per label that is judged: the component's own and the baselines, all
on the same trials. A course goes from one look to the next until its interval is narrow enough or its trials are over.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from spd_tools.annotations.database import now
from spd_tools.evaluate.judges import judge_call, judged
from spd_tools.evaluate.labels import JudgedLabel
from spd_tools.evaluate.origins import LabelOrigin, seen_rows
from spd_tools.evaluate.plan import EvaluationSettings
from spd_tools.evaluate.records import ComponentScore, TrialRow
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.statistics import Graded, Score, planned_looks, precise, score_of
from spd_tools.evaluate.trials import ScoreName, Trial, Trials, make_trials
from spd_tools.keys import ComponentKey
from spd_tools.llm import Answer, Call, NotSent, Outcome


@dataclass(eq=False)
class Course:
    """One component, score and label."""

    key: ComponentKey
    score: ScoreName
    label: JudgedLabel
    origin: LabelOrigin | None
    """Of the component's own label, whatever label is judged here."""
    looks: list[int]
    """Empty: nothing is asked."""
    notes: list[str]
    reason: str | None = None
    """Why nothing is asked, or not all was."""
    look: int = 0
    asked: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """(trial, call)"""
    graded: list[Graded | None] = field(default_factory=list[Graded | None])
    """Along ``asked``; None while there is no outcome."""
    n_waiting: int = 0
    unsent: bool = False
    """Whether ``reason`` is why a call was not sent."""
    found: Score | None = None
    stored: ComponentScore | None = None
    """What an earlier run has come to."""

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.stored is not None or self.reason is not None or self.found is not None

    @property
    def score_row(self) -> ComponentScore:
        """What it has come to."""
        if self.stored is not None:
            return self.stored
        found = None if self.reason is not None else self.found
        good = [trial for trial in self.graded if trial is not None and trial.pairs is not None]
        failed = sum(trial is not None and trial.pairs is None for trial in self.graded)
        return ComponentScore(
            key=self.key,
            score=self.score,
            judged=self.label.judged,
            label=self.label.text,
            label_version=self.label.version,
            label_of=self.label.of,
            origin=self.origin,
            value=found and found.value,
            low=found and found.low,
            high=found and found.high,
            n_trials=len(good),
            n_judgements=sum(len(trial.pairs or ()) for trial in good),
            failed=failed,
            looks=self.looks,
            look=self.look,
            reason=self.reason or (found and found.reason),
            notes=self.notes,
            trials=self.asked,
        )


@dataclass(eq=False)
class Work:
    """One component and score."""

    courses: list[Course]

    @property
    def done(self) -> bool:
        """Whether all courses have come to their ends."""
        return all(course.done for course in self.courses)


class LabelsOf(Protocol):
    """The labels that a component is judged by for a score; what an earlier run has found out about them."""

    def labels(self, key: ComponentKey, score: ScoreName) -> Sequence[JudgedLabel]:
        """The labels; at least one."""
        ...

    def stored(
        self, key: ComponentKey, score: ScoreName, label: JudgedLabel, origin: LabelOrigin | None
    ) -> ComponentScore | None:
        """A score that need not be made again; ``origin``: of the component's own label."""
        ...


@dataclass(frozen=True)
class _Waiting:
    course: Course
    work: Work
    place: int
    trial: Trial | None
    """None: it is made again when the answer is there."""


class Courses:
    """Gives out calls, takes outcomes in, says what is done.

    Iterating over it gives the calls that can be made now; when it ends before everything is ``finished``, outcomes are
    missing that decide what comes next.
    """

    def __init__(
        self,
        split: Split,
        plan: EvaluationSettings,
        works: Iterator[tuple[ComponentKey, ScoreName]],
        labels: LabelsOf,
        done: Callable[[Work], None],
        most_open: int | None = None,
    ) -> None:
        """
        Args:
            split: of the harvest.
            plan: how works are judged.
            works: components and scores.
            labels: that are judged.
            done: is told of every work that has come to its end.
            most_open: works that are in hand at once. None: as many as calls are asked for; trials are kept.
        """
        self._split = split
        self._plan = plan
        self._works = works
        self._labels = labels
        self._most_open = most_open
        self._n_open = 0
        self._ready: deque[tuple[Work, Course, int]] = deque()
        self._waiting: dict[str, deque[_Waiting]] = defaultdict(deque)
        self._done = done
        self._stopped = self._exhausted = False
        self.n_opened = 0
        self._trials = lru_cache(maxsize=8)(self._make_trials)

    def __iter__(self) -> Iterator[Call]:
        return self

    def __next__(self) -> Call:
        while not self._ready:
            if not self._open():
                raise StopIteration
        work, course, place = self._ready.popleft()
        trial = self._trials(course.key, course.score, course.origin).trials[place]
        call = judge_call(trial, course.label.text, self._split.harvest.token_texts, self._plan.model)
        course.asked[place] = (trial.id, call.hash)
        kept = trial if self._most_open is None else None
        self._waiting[call.hash].append(_Waiting(course, work, place, kept))
        return call

    @property
    def finished(self) -> bool:
        """Whether nothing is left to ask."""
        return not self._ready and not self._waiting and (self._exhausted or self._stopped)

    def stop(self) -> None:
        """Take up no other component."""
        self._stopped = True

    def take(self, outcome: Outcome) -> TrialRow | None:
        """Take in what became of a call; the row of its trial, unless it was not sent."""
        queue = self._waiting[outcome.call_hash]
        waiting = queue.popleft()
        if not queue:
            del self._waiting[outcome.call_hash]
        course = waiting.course
        course.n_waiting -= 1
        row = None
        if isinstance(outcome, NotSent):
            course.reason, course.unsent = outcome.reason, True
        else:
            graded = self._graded(waiting, outcome)
            course.graded[waiting.place] = graded
            row = _row(course, waiting.place, outcome, graded)
        if course.n_waiting == 0:
            self._look(waiting.work, course)
        return row

    # --- from trial to trial ------------------------------------------------------------------------------------

    def _open(self) -> bool:
        """Take up the next work; whether there was one, and room for it."""
        if self._stopped or (self._most_open is not None and self._n_open >= self._most_open):
            return False
        following = next(self._works, None)
        if following is None:
            self._exhausted = True
            return False
        self.n_opened += 1
        self._n_open += 1
        key, score = following
        labels = self._labels.labels(key, score)
        work = Work([self._course(key, score, label, labels[0].origin) for label in labels])
        for course in work.courses:
            if not course.done:
                self._ask(work, course)
        self._close_if_done(work)
        return True

    def _course(self, key: ComponentKey, score: ScoreName, label: JudgedLabel, origin: LabelOrigin | None) -> Course:
        stored = self._labels.stored(key, score, label, origin)
        if stored is not None:
            return Course(key, score, label, origin, [], [], stored=stored)
        if label.reason is not None:
            return Course(key, score, label, origin, [], [], reason=label.reason)
        made = self._trials(key, score, origin)
        about_label = None if label.origin is None else label.origin.note(key)
        notes = made.notes if about_label is None else [about_label, *made.notes]
        if made.reason is not None:
            return Course(key, score, label, origin, [], notes, reason=made.reason)
        looks = planned_looks(len(made.trials), early_stopping=self._plan.precision is not None)
        return Course(key, score, label, origin, looks, notes)

    def _ask(self, work: Work, course: Course) -> None:
        """Everything up to the next look."""
        known, wanted = len(course.asked), course.looks[course.look]
        course.look += 1
        course.asked += [("", "")] * (wanted - known)
        course.graded += [None] * (wanted - known)
        course.n_waiting = wanted - known
        self._ready.extend((work, course, place) for place in range(known, wanted))

    def _look(self, work: Work, course: Course) -> None:
        if course.reason is None:
            graded = [trial for trial in course.graded if trial is not None]
            found = score_of(course.score, graded, course.looks)
            narrow = self._plan.precision is not None and precise(found, self._plan.precision)
            if not narrow and course.look < len(course.looks):
                self._ask(work, course)
                return
            course.found = found
        self._close_if_done(work)

    def _close_if_done(self, work: Work) -> None:
        if work.done and not any(course.n_waiting for course in work.courses):
            self._n_open -= 1
            self._done(work)

    def _graded(self, waiting: _Waiting, outcome: Outcome) -> Graded:
        if not isinstance(outcome, Answer):
            return Graded(pairs=None, reason=outcome.reason)
        course = waiting.course
        trial = waiting.trial or self._trials(course.key, course.score, course.origin).trials[waiting.place]
        return judged(trial, outcome.value)

    def _make_trials(self, key: ComponentKey, score: ScoreName, origin: LabelOrigin | None) -> Trials:
        seen = seen_rows(self._split.harvest, key, origin)
        return make_trials(self._split, key, score, self._plan.n_trials, self._plan.seed, seen)


def _row(course: Course, place: int, outcome: Outcome, graded: Graded) -> TrialRow:
    trial, call = course.asked[place]
    answered = outcome if isinstance(outcome, Answer) else None
    return TrialRow(
        trial=trial,
        call=call,
        key=course.key,
        score=course.score,
        judged=course.label.judged,
        state="failed" if graded.pairs is None else "graded",
        answer=answered and answered.value.model_dump_json(),
        graded=graded.pairs,
        model=answered and answered.model,
        usage=answered and answered.usage,
        dollars=outcome.dollars,
        seconds=answered and answered.seconds,
        request_id=answered and answered.request_id,
        time=answered.time if answered else now(),
        reason=graded.reason,
    )
