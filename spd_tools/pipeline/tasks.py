"""The steps of a pipeline that ask a language model, as tasks.

They go on from the ledger and from what is stored, however often they are run: nothing is paid for twice. A step has
failed when something was not asked, or when so many calls failed that it is not for their texts; what comes after it
would else be made from half of the labels.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from spd_tools.annotations import Annotations
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.plan import EvaluationSettings, settings_of
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.runner import Evaluation
from spd_tools.evaluate.trials import ScoreName
from spd_tools.interpret import InterpretRequest, interpret, plan
from spd_tools.launch.kinds import Kind, TaskContext
from spd_tools.llm import BatchSettings, LanguageModel, Ledger, Tally
from spd_tools.pipeline.config import EvalSection, JudgeSection
from spd_tools.pipeline.graph import HarvestName
from spd_tools.store.harvest import Harvest
from spd_tools.store.reader import open_harvest
from spd_tools.store.records import Record
from spd_tools.wording import by_number, plural

MOST_FAILED = 0.1
"""Share of calls without an answer above which a step has failed: single texts are refused, not every tenth."""


class InterpretArguments(Record):
    """Of ``INTERPRET``."""

    harvest: HarvestName | None
    """None: the one that the step ``merge`` has made."""
    request: InterpretRequest


class EvaluateArguments(Record):
    """Of ``EVALUATE``."""

    harvest: HarvestName | None
    score: ScoreName
    section: EvalSection


class _Reported:
    """Progress of calls as that of a task."""

    def __init__(self, context: TaskContext, total: int | None) -> None:
        self._context = context
        self._total = total

    def show(self, tally: Tally) -> None:
        """See ``CallProgress``."""
        self._context.report(tally.done, self._total, "calls")


def evaluation_settings(harvest: Harvest, score: ScoreName, section: JudgeSection) -> EvaluationSettings:
    """Settings of one score's evaluation.

    Raises:
        SpdToolsError: for unknown components.
    """
    chosen = section.model_dump(exclude={"max_concurrent", "budget", "batch"})
    return settings_of(harvest, scores=[score], **chosen)


def _opened(name: HarvestName | None, context: TaskContext) -> Harvest:
    if name is not None:
        return open_harvest(name.run_id, name.harvest_id)
    [merged] = context.results("merge")
    return open_harvest(merged["run_id"], merged["harvest_id"])


def _interpret(arguments: InterpretArguments, context: TaskContext) -> dict[str, Any]:
    harvest, request = _opened(arguments.harvest, context), arguments.request
    planned = plan(harvest, Annotations.of(harvest), request)
    model = _model(harvest, planned.job, request, context, len(planned.todo))
    report = asyncio.run(interpret(planned, model)) if len(planned.todo) else planned.report
    for failure in report.failures:
        print(f"{failure.key} has no label: {failure.reason}", file=sys.stderr)
    _refuse_unsent(context, model, request.budget, report.n_not_sent, report.n_chosen, report.not_sent)
    _refuse_failed(model, report.failures[0].reason if report.failures else "")
    kept = report.model_dump(mode="json", exclude={"failures", "n_not_sent", "not_sent"})
    return kept | {"n_failed": len(report.failures)}


def _evaluate(arguments: EvaluateArguments, context: TaskContext) -> dict[str, Any]:
    harvest, section = _opened(arguments.harvest, context), arguments.section
    settings = evaluation_settings(harvest, arguments.score, section)
    evaluation = Evaluation(harvest, Annotations.of(harvest), settings)
    total = None if settings.precision else evaluation.most_calls
    model = _model(harvest, settings.id, section, context, total)
    summary = asyncio.run(evaluation.run(model, BatchSettings() if section.batch else None))
    for reason, n in summary.unscored.items():
        print(f"{n:,} without a score: {reason}", file=sys.stderr)
    _refuse_unsent(context, model, section.budget, summary.n_left, summary.n_components, summary.not_sent)
    _refuse_failed(model, next(iter(ResultStore.of(harvest).failures(settings.id)), ""))
    return summary.model_dump(mode="json", exclude={"n_left", "not_sent", "budget_exhausted"})


def _model(
    harvest: Harvest, job: str, how: InterpretRequest | JudgeSection, context: TaskContext, total: int | None
) -> LanguageModel:
    return LanguageModel(
        Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint),
        job=job,
        max_concurrent=how.max_concurrent,
        budget=how.budget,
        progress=_Reported(context, total),
    )


def _refuse_unsent(
    context: TaskContext, model: LanguageModel, budget: float | None, n: int, total: int, reason: str | None
) -> None:
    if not n:
        return
    if model.budget_exhausted:
        reason = (
            f"another request might have crossed the budget of ${budget:,.4g}; start the pipeline again with a larger "
            f"one (--budget {context.step}=USD), which goes on from here"
        )
    why = (reason or "").removeprefix("Not sent: ").rstrip(".")
    raise SpdToolsError(f"{n:,} of {plural(total, 'component')} {by_number(n, 'was', 'were')} not finished: {why}.")


def _refuse_failed(model: LanguageModel, reason: str) -> None:
    tally = model.tally
    if tally.failed > MOST_FAILED * tally.done and (tally.failed > 1 or tally.failed == tally.done):
        raise SpdToolsError(
            f"{tally.failed:,} of {plural(tally.done, 'call')} failed ({reason.rstrip('.')}); the answers that came "
            "are kept, and a retry asks only for the others."
        )


INTERPRET = Kind(InterpretArguments, _interpret)
"""Label components; returns an ``InterpretReport``, its failures as a number."""
EVALUATE = Kind(EvaluateArguments, _evaluate)
"""Make one score; returns an ``EvaluationSummary``."""
