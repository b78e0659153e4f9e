"""The tasks of trainings: what ``spd_tools.launch.training`` and ``sweep`` put into graphs."""

from __future__ import annotations

import dataclasses
from typing import Any

from spd_tools.launch.kinds import Kind, TaskContext, TaskStoppedError
from spd_tools.store.records import Record
from spd_tools.training.decompose import DecomposeOutcome, DecomposeRequest, prepare_decomposition
from spd_tools.training.pretrain_run import PretrainOutcome, PretrainRequest, load_data
from spd_tools.training.ranks import RanksStoppedError, run_ranks
from spd_tools.training.reporting import main_metrics
from spd_tools.training.sweep import Sweep, prepare_sweep


class DecomposeArguments(Record):
    """Of ``PREPARE_DECOMPOSITION`` and ``DECOMPOSE``."""

    request: DecomposeRequest
    n_gpus: int
    """Processes that train together."""


class PretrainArguments(Record):
    """Of ``PREPARE_PRETRAINING`` and ``PRETRAIN``."""

    request: PretrainRequest
    n_gpus: int
    """Processes that train together."""


class SweepArguments(Record):
    """Of ``PREPARE_SWEEP`` and ``SWEEP_POINT``."""

    sweep: Sweep
    n_gpus: int
    """Processes that train one point together."""


def _prepare_decomposition(arguments: DecomposeArguments, _context: TaskContext) -> dict[str, Any]:
    return {"run": str(prepare_decomposition(arguments.request))}


def _decompose(arguments: DecomposeArguments, context: TaskContext) -> dict[str, Any]:
    return _train_decomposition(arguments.request, arguments.n_gpus, context)


def _sweep_point(arguments: SweepArguments, context: TaskContext) -> dict[str, Any]:
    return _train_decomposition(arguments.sweep.request_of(context.rank), arguments.n_gpus, context)


def _train_decomposition(request: DecomposeRequest, n_gpus: int, context: TaskContext) -> dict[str, Any]:
    going_on = dataclasses.replace(request, resume=True, wait=True)
    outcome: DecomposeOutcome = _run("decompose", going_on, n_gpus, context)
    if outcome.state == "stopped":
        raise _stopped(outcome.steps_done)
    return {"run": str(outcome.folder), "steps": outcome.steps_done} | main_metrics(outcome.metrics)


def _prepare_pretraining(arguments: PretrainArguments, _context: TaskContext) -> dict[str, Any]:
    load_data(arguments.request.config)
    return {}


def _pretrain(arguments: PretrainArguments, context: TaskContext) -> dict[str, Any]:
    going_on = dataclasses.replace(arguments.request, wait=True)
    outcome: PretrainOutcome = _run("pretrain", going_on, arguments.n_gpus, context)
    if not outcome.finished:
        raise _stopped(outcome.step)
    rounded = {name: float(f"{value:.6g}") for name, value in outcome.held_out.items()}
    return {"run": str(outcome.folder), "steps": outcome.step} | rounded


def _run(work: str, request: Any, n_gpus: int, context: TaskContext) -> Any:
    def report(done: int, total: int) -> None:
        context.report(done, total, "steps")

    try:
        return run_ranks(work, request, n_gpus, on_step=report)
    except RanksStoppedError as error:
        raise TaskStoppedError(str(error)) from None


def _stopped(steps: int) -> TaskStoppedError:
    return TaskStoppedError(f"Stopped after {steps:,} steps, which are saved.")


def _prepare_sweep(arguments: SweepArguments, _context: TaskContext) -> dict[str, Any]:
    prepare_sweep(arguments.sweep)
    return {}


PREPARE_DECOMPOSITION = Kind(DecomposeArguments, _prepare_decomposition)
"""Download, train a toy target, tokenise, check; returns run, the folder that it will have."""
DECOMPOSE = Kind(DecomposeArguments, _decompose)
"""Train, going on from the checkpoint; returns run, steps and the main metrics of the last evaluation."""
PREPARE_PRETRAINING = Kind(PretrainArguments, _prepare_pretraining)
"""Download and tokenise."""
PRETRAIN = Kind(PretrainArguments, _pretrain)
"""Train, going on from the checkpoint; returns run, steps and the held-out losses."""
PREPARE_SWEEP = Kind(SweepArguments, _prepare_sweep)
"""Download, train toy targets, tokenise and check for all points."""
SWEEP_POINT = Kind(SweepArguments, _sweep_point)
"""Train the point of the task's rank; returns what DECOMPOSE does."""
