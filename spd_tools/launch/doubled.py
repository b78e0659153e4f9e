"""Two jobs that make the same harvest: their workers would take the ranks over from each other."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.launch.folder import JobFolder, plain
from spd_tools.launch.graph import Step
from spd_tools.launch.status import ACTIVE, Job

_MAKING = ("harvest-work", "harvest-merge")
"""Kinds of steps that write a harvest."""
_PATHS = ("run", "data", "tokenizer")
"""Fields of a request that may be paths."""
_FREE = ("device", "memory_gb")
"""Fields that do not decide which harvest it is."""


def refuse_doubled(steps: Iterable[Step], cwd: str, jobs: Sequence[Job], own_id: str | None = None) -> None:
    """Refuse steps that would make a harvest which another job is making.

    Args:
        steps: that are to be submitted.
        cwd: where their relative paths start.
        jobs: all there are; nobody else may start one meanwhile.
        own_id: the job that the steps belong to, if there is one yet.

    Raises:
        SpdToolsError: naming the other job.
    """
    wanted = _harvests(steps, cwd)
    if not wanted:
        return
    for job in jobs:
        if job.id == own_id or job.status not in ACTIVE:
            continue
        folder = JobFolder(job.folder)
        at_work = [step for step in folder.graph().steps if job.step(step.name).status in ACTIVE]
        if any(harvest in wanted for harvest in _harvests(at_work, folder.request().cwd)):
            raise SpdToolsError(
                f"{job.id} is making this harvest now; start this when it has finished, which will be found, or cancel "
                "that one."
            )


def _harvests(steps: Iterable[Step], cwd: str) -> list[dict[str, Any]]:
    """What is asked for, with whole paths."""
    requests = [plain(step.arguments.get("request")) for step in steps if step.kind in _MAKING]
    return [_resolved(request, cwd) for request in requests if request]


def _resolved(request: dict[str, Any], cwd: str) -> dict[str, Any]:
    known = {name: value for name, value in request.items() if name not in _FREE}
    paths = {name: os.path.join(cwd, known[name]) for name in _PATHS if known.get(name)}
    return known | {name: os.path.realpath(path) for name, path in paths.items() if os.path.exists(path)}
