"""What tasks can run: a name in a graph -> arguments and a function. Nothing else is ever run for a graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.store.records import Record

Arguments = TypeVar("Arguments", bound=Record)

KINDS: dict[str, str] = {
    "harvest-prepare": "spd_tools.launch.harvest_tasks:PREPARE",
    "harvest-work": "spd_tools.launch.harvest_tasks:WORK",
    "harvest-merge": "spd_tools.launch.harvest_tasks:MERGE",
    "interpret": "spd_tools.pipeline.tasks:INTERPRET",
    "evaluate": "spd_tools.pipeline.tasks:EVALUATE",
    "decompose-prepare": "spd_tools.launch.training_tasks:PREPARE_DECOMPOSITION",
    "decompose": "spd_tools.launch.training_tasks:DECOMPOSE",
    "pretrain-prepare": "spd_tools.launch.training_tasks:PREPARE_PRETRAINING",
    "pretrain": "spd_tools.launch.training_tasks:PRETRAIN",
    "sweep-prepare": "spd_tools.launch.training_tasks:PREPARE_SWEEP",
    "sweep-point": "spd_tools.launch.training_tasks:SWEEP_POINT",
}
"""Name -> module and constant; the module is imported in the task's process only."""


class TaskStoppedError(SpdToolsError):
    """The task was asked to stop by SIGTERM, and has saved what it had."""


@dataclass(frozen=True)
class TaskContext:
    """What a task is told, and how it says how far it is."""

    job_id: str
    step: str
    rank: int
    n_tasks: int
    report: Callable[[int, int | None, str], None]
    """Called with units done (those of earlier attempts included), all of them, and their name ("batches")."""
    results: Callable[[str], list[dict[str, Any]]]
    """What the tasks of a finished step returned, by rank."""


@dataclass(frozen=True)
class Kind(Generic[Arguments]):
    """One thing that tasks can do.

    ``run`` may be killed at any moment and called again with the same arguments, in another process that may even begin
    while the first one still lives: it goes on from what it saved. It answers SIGTERM with TaskStoppedError once its
    work is saved, if it has anything to save; else it is simply ended. What it returns is kept in the task's state.
    """

    arguments: type[Arguments]
    run: Callable[[Arguments, TaskContext], dict[str, Any]]

    def __call__(self, arguments: dict[str, Any], context: TaskContext) -> dict[str, Any]:
        """Check the arguments and run.

        Raises:
            SpdToolsError: when they do not fit, and whatever ``run`` raises.
        """
        try:
            checked = self.arguments.model_validate(arguments)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise SpdToolsError(
                f"Step {context.step} of {context.job_id} has unusable arguments ({place}: {first['msg']}); start the "
                "job again."
            ) from None
        return self.run(checked, context)


def find_kind(name: str) -> Kind[Any]:
    """The kind of that name.

    Raises:
        SpdToolsError: when there is none.
    """
    if name not in KINDS:
        raise SpdToolsError(f"No task kind is called {name!r}; the job was made by another version of spd-tools.")
    module, constant = KINDS[name].split(":")
    kind = getattr(import_module(module), constant)
    assert isinstance(kind, Kind)
    return kind
