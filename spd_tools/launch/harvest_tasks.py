"""The tasks of a harvest: what ``spd_tools.launch.harvest`` puts into a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spd_tools.harvest.pipeline import HarvestRequest, merge_harvest, prepare_ranks, run_harvest
from spd_tools.harvest.worker import StoppedError
from spd_tools.launch.kinds import Kind, TaskContext, TaskStoppedError
from spd_tools.settings import Settings
from spd_tools.store.manifest import MANIFEST, read_manifest
from spd_tools.store.records import Record


class HarvestArguments(Record):
    """Of all three."""

    request: HarvestRequest
    """Its world size is the number of workers."""


def _prepare(arguments: HarvestArguments, _context: TaskContext) -> dict[str, Any]:
    plan = prepare_ranks(arguments.request)
    done = (plan.folder / MANIFEST).exists()
    return {"run_id": plan.decomposition.run_id, "harvest_id": plan.harvest_id, "already_finished": done}


def _work(arguments: HarvestArguments, context: TaskContext) -> dict[str, Any]:
    def report(done: int, total: int) -> None:
        context.report(done, total, "batches")

    try:
        run_harvest(arguments.request, rank=context.rank, resume=True, progress=False, on_batch=report)
    except StoppedError as error:
        raise TaskStoppedError(str(error)) from None
    return {}


def _merge(arguments: HarvestArguments, context: TaskContext) -> dict[str, Any]:
    [prepared] = context.results("prepare")
    run_id, harvest_id = prepared["run_id"], prepared["harvest_id"]
    folder = Settings.from_environment().harvest(run_id, harvest_id)
    if not (folder / MANIFEST).exists():
        _merge_unless_done(folder, run_id, harvest_id, arguments.request.memory_gb)
    n_tokens = read_manifest(folder).counts.n_tokens
    return {"run_id": run_id, "harvest_id": harvest_id, "folder": str(folder), "n_tokens": n_tokens}


def _merge_unless_done(folder: Path, run_id: str, harvest_id: str, memory_gb: float) -> None:
    try:
        merge_harvest(run_id, harvest_id, memory_gb=memory_gb, progress=False)
    except Exception:
        # The process of an earlier attempt may have been alive, and have finished under this one.
        if not (folder / MANIFEST).exists():
            raise


PREPARE = Kind(HarvestArguments, _prepare)
"""Download, tokenise, write the plan; returns run_id, harvest_id and already_finished."""
WORK = Kind(HarvestArguments, _work)
"""One rank of the harvest, going on from what any earlier process of that rank has saved."""
MERGE = Kind(HarvestArguments, _merge)
"""All ranks -> the store; returns run_id, harvest_id, folder and n_tokens."""
