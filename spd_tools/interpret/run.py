"""Labelling the components of a harvest: what is asked, what is stored, what is reported."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spd_tools.annotations import Annotations
from spd_tools.evaluate.splits import Split
from spd_tools.interpret.labeller import PURPOSE, Interpretation, Labeller
from spd_tools.interpret.provenance import provenance_of
from spd_tools.interpret.records import InterpretReport, InterpretRequest, Unlabelled
from spd_tools.interpret.results import ResultsFile
from spd_tools.interpret.selection import Earlier, choose
from spd_tools.interpret.top_tokens import AUTHOR, top_tokens_label
from spd_tools.keys import ComponentKey
from spd_tools.llm import (
    Answer,
    Call,
    CallBar,
    CallProgress,
    Estimate,
    Failure,
    LanguageModel,
    Ledger,
    NotSent,
    Outcome,
    Prices,
    estimate,
)
from spd_tools.llm.alone import alone
from spd_tools.settings import Settings
from spd_tools.store.harvest import Harvest

_N_SAMPLED = 20
"""Calls that an estimate is made from."""


@dataclass
class Plan:
    """Components to label, and all that is needed for it."""

    request: InterpretRequest
    labeller: Labeller
    notes: Annotations
    earlier: Earlier
    results: ResultsFile
    todo: NDArray[np.int64]
    """Flat indices."""
    report: InterpretReport
    """As it stands before anything is asked."""
    without_texts: list[ComponentKey] = field(default_factory=list)
    """Components that turned out to have no example for labelling."""

    @property
    def harvest(self) -> Harvest:
        """Whose components."""
        return self.labeller.split.harvest

    @property
    def job(self) -> str:
        """What the budget is for."""
        return f"interpret {self.request.model} {self.request.prompt}"

    @property
    def work(self) -> str:
        """What only one process at a time does about a run: other models and prompts are asked other questions."""
        return f"labels ({self.request.prompt}) by {self.request.model}"

    def calls(self, flat: NDArray[np.int64]) -> Iterator[Call]:
        """Questions about components, each made when it is asked for."""
        for number in flat.tolist():
            key = self.harvest.keys.key(number)
            call = self.labeller.call(key, self.earlier.label_of)
            if call is None:
                self.without_texts.append(key)
            else:
                yield call


def results_path(run_id: str) -> Path:
    """results.jsonl of a run."""
    return Settings.from_environment().interpret_results(run_id)


def plan(harvest: Harvest, notes: Annotations, request: InterpretRequest) -> Plan:
    """Decide which components to ask about. Nothing is asked, and nothing but missing lines of the results is written.

    Raises:
        SpdToolsError: for unknown components or layers, an unknown price, or a file of results that is not ours.
    """
    Prices.load().of(request.model)
    found = choose(harvest, keys=request.keys, layer=request.layer, order=request.order, limit=request.limit)
    earlier = Earlier(notes, request.model, request.prompt)
    results = ResultsFile(results_path(harvest.run_id))
    todo: list[int] = []
    n_known = n_supported = 0
    for flat in found.tolist():
        history = notes.label_history(harvest.keys.key(flat))
        own = earlier.own(history)
        for label, origin in own:
            results.add(label, origin)  # it is missing when somebody was killed between the label and its line
        if own and not request.again:
            n_known += 1
        elif history and history[-1].status == "supported":
            n_supported += 1
        else:
            todo.append(flat)
    report = InterpretReport(
        run_id=harvest.run_id,
        harvest_id=harvest.harvest_id,
        labeller=request.model,
        prompt=request.prompt,
        n_chosen=len(found),
        n_known=n_known,
        n_supported=n_supported,
        results=results.path,
    )
    labeller = Labeller(Split(harvest), request.model, request.prompt)
    return Plan(request, labeller, notes, earlier, results, np.array(todo, np.int64), report)


async def interpret(planned: Plan, model: LanguageModel) -> InterpretReport:
    """Ask, and store every answer as a draft as soon as it is there.

    While another process does the same about the run, this one waits, and then asks for what that has left.

    Raises:
        SpdToolsError: for what every other call would share, see ``LanguageModel.answer``; what was stored stays.
    """
    async with alone(planned.harvest.run_id, [planned.work]) as waited:
        if waited:
            planned = await asyncio.to_thread(plan, planned.harvest, planned.notes, planned.request)
        return await _interpret(planned, model)


async def _interpret(planned: Plan, model: LanguageModel) -> InterpretReport:
    calls = planned.calls(planned.todo)
    outcomes = model.answer_in_batches(calls) if planned.request.batch else model.answer(calls)
    counted = _Counted(planned.report)
    async with aclosing(outcomes):
        async for outcome in outcomes:
            if isinstance(outcome, Answer):
                await asyncio.to_thread(_store, planned, outcome)
            counted.add(outcome)
    return counted.report(planned.without_texts)


def _store(planned: Plan, answer: Answer) -> None:
    """Write a label and its line; writing the same answer again changes nothing."""
    draft = planned.labeller.draft(answer)
    decision = planned.notes.set_label(answer.tag, draft, author=answer.model, idempotency_key=answer.call_hash)
    origin = provenance_of(decision.label)
    assert origin is not None
    planned.results.add(decision.label, origin)


class _Counted:
    """Outcomes so far."""

    def __init__(self, before: InterpretReport) -> None:
        self._before = before
        self._labelled = self._unclear = self._from_ledger = self._not_sent = 0
        self._why_not_sent: str | None = None
        self._failures: list[Unlabelled] = []
        self._dollars = self._unknown = 0.0

    def add(self, outcome: Outcome) -> None:
        match outcome:
            case Answer():
                self._labelled += 1
                self._from_ledger += outcome.from_ledger
                self._unclear += isinstance(outcome.value, Interpretation) and outcome.value.verdict == "unclear"
                self._dollars += 0.0 if outcome.from_ledger else outcome.dollars
            case NotSent():
                self._not_sent += 1
                self._why_not_sent = self._why_not_sent or outcome.reason
            case Failure():
                key = ComponentKey.parse(outcome.tag)
                self._failures.append(Unlabelled(key=key, reason=outcome.reason, dollars=outcome.dollars))
        if isinstance(outcome, Failure):
            self._dollars += outcome.dollars
            self._unknown += outcome.unknown_dollars

    def report(self, without_texts: list[ComponentKey]) -> InterpretReport:
        reason = "None of its firings lies in the labelling split, as far as examples and log go."
        untold = [Unlabelled(key=key, reason=reason, dollars=0.0) for key in without_texts]
        return self._before.model_copy(
            update={
                "n_labelled": self._labelled,
                "n_unclear": self._unclear,
                "n_from_ledger": self._from_ledger,
                "failures": self._failures + untold,
                "n_not_sent": self._not_sent,
                "not_sent": self._why_not_sent,
                "dollars": self._dollars,
                "unknown_dollars": self._unknown,
            }
        )


def run_interpretation(harvest: Harvest, request: InterpretRequest, *, progress: bool = True) -> InterpretReport:
    """Label components with a language model; safe to interrupt and to repeat.

    Raises:
        SpdToolsError: for a request that does not fit, no key, or whatever every call would share.
    """
    planned = plan(harvest, Annotations.of(harvest), request)
    if not len(planned.todo):
        return planned.report
    with CallBar(f"Labelling with {request.model}", len(planned.todo), enabled=progress) as bar:
        return asyncio.run(interpret(planned, _model(planned, bar)))


def _model(planned: Plan, progress: CallProgress) -> LanguageModel:
    harvest, request = planned.harvest, planned.request
    return LanguageModel(
        Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint),
        job=planned.job,
        max_concurrent=request.max_concurrent,
        budget=request.budget,
        progress=progress,
    )


def estimate_interpretation(harvest: Harvest, request: InterpretRequest) -> Estimate | None:
    """What ``run_interpretation`` would cost; None when it would send nothing.

    It counts exactly the calls that would be sent: not those about components without a text to label by, nor those
    whose answers are in the ledger.

    Raises:
        SpdToolsError: as ``run_interpretation``; a key is not needed.
    """
    planned = plan(harvest, Annotations.of(harvest), request)
    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    to_send = np.fromiter(_to_send(planned, ledger), np.int64)
    n = len(to_send)
    if not n:
        return None
    sampled = to_send[np.unique(np.linspace(0, n - 1, min(n, _N_SAMPLED)).astype(np.int64))]
    return asyncio.run(estimate(list(planned.calls(sampled)), n, ledger=ledger, batch=request.batch))


def _to_send(planned: Plan, ledger: Ledger) -> Iterator[int]:
    """Flat indices of components about which something would be sent. A question is made only where one was before."""
    labeller, keys = planned.labeller, planned.harvest.keys
    asked_before = ledger.held_tags(PURPOSE, planned.request.model)
    for flat in planned.todo.tolist():
        key = keys.key(flat)
        if str(key) in asked_before:
            call = labeller.call(key, planned.earlier.label_of)
            if call is not None and not ledger.holds(call.hash):
                yield flat
        elif labeller.split.has_labelling_example(key):
            yield flat


def label_by_top_tokens(harvest: Harvest, request: InterpretRequest) -> InterpretReport:
    """Label components without a language model, as a baseline: those that have no label at all.

    A draft of this kind never stands in front of somebody's label.

    Raises:
        SpdToolsError: for unknown components or layers.
    """
    found = choose(harvest, keys=request.keys, layer=request.layer, order=request.order, limit=request.limit)
    notes = Annotations.of(harvest)
    n_labelled = 0
    for flat in found.tolist():
        key = harvest.keys.key(flat)
        if notes.label(key) is not None:
            continue
        draft = top_tokens_label(harvest, key)
        assert draft is not None, "only components that fired are chosen"
        notes.set_label(key, draft, author=AUTHOR)
        n_labelled += 1
    return InterpretReport(
        run_id=harvest.run_id,
        harvest_id=harvest.harvest_id,
        labeller=AUTHOR,
        prompt=None,
        n_chosen=len(found),
        n_known=len(found) - n_labelled,
        n_supported=0,
        n_labelled=n_labelled,
    )
