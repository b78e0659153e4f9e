"""The process of a harvest job: ``python -m spd_tools.launch.harvest_job FOLDER``; not meant to be typed."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.state import load_state, shard_folder
from spd_tools.launch.jobs import JobState, read_request, read_state, write_state
from spd_tools.settings import Settings

LOOK_SECONDS = 2.0
"""Between two looks at what the worker has saved."""


class _Reporter:
    """The job's state.json, which the main thread and the one that watches write in turn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._state: JobState = read_state(folder)

    def update(self, **changes: object) -> None:
        """Write the state when it has changed."""
        with self._lock:
            state = self._state.model_copy(update=changes)
            if state != self._state:
                write_state(self._folder, state)
                self._state = state


def main() -> int:
    """Do what the job's folder says; returns the exit code."""
    folder = Path(sys.argv[1])
    reporter = _Reporter(folder)
    reporter.update(status="running", pid=os.getpid(), started=time.time())
    try:
        request = _request(folder)
        with _watched(request, reporter):
            outcome = run_harvest(request, resume=True, progress=False)
    except BaseException as error:
        traceback.print_exc()
        reporter.update(status="failed", ended=time.time(), error=_sentence(error))
        return 1
    reporter.update(
        status="finished",
        ended=time.time(),
        tokens_done=outcome.n_tokens,
        tokens_total=outcome.n_tokens,
        run_id=outcome.run_id,
        harvest_id=outcome.harvest_id,
    )
    return 0


def _request(folder: Path) -> HarvestRequest:
    try:
        return TypeAdapter(HarvestRequest).validate_python(read_request(folder))
    except ValidationError as error:
        raise SpdToolsError(
            f"{folder.name} asks for no harvest ({error.errors()[0]['msg']}); start it again."
        ) from None


def _sentence(error: BaseException) -> str:
    if isinstance(error, SpdToolsError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'Input or output'}: {error.strerror or error}."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory; use a smaller batch size or memory budget."
    return f"It stopped with an unexpected {type(error).__name__}; its log has the details."


@contextmanager
def _watched(request: HarvestRequest, reporter: _Reporter) -> Iterator[None]:
    """Meanwhile, write into state.json how much the worker has saved."""
    decomposition = load_decomposition(request.run)
    run_id, fingerprint = decomposition.run_id, decomposition.fingerprint
    del decomposition
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_SECONDS):
            try:
                plan = _plan(request, run_id, fingerprint)
                if plan is not None:
                    reporter.update(**_saved(plan))
            except SpdToolsError as error:  # a full disk, or a state that is being replaced
                print(error, file=sys.stderr)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def _plan(request: HarvestRequest, run_id: str, fingerprint: str) -> HarvestPlan | None:
    """The plan that was made of the request; None before there is one, or where several could be it."""
    asked = ("batch_size", "precision", "p_min", "n_uniform", "n_top", "window", "seed", "world_size")
    found: list[HarvestPlan] = []
    for path in (Settings.from_environment().harvests_dir / run_id).glob("*/plan.json"):
        try:
            plan = HarvestPlan.load(path.parent)
        except SpdToolsError:  # not ours: ours has just been written, whole
            continue
        config = plan.config
        same = all(getattr(config, name) == getattr(request, name) for name in asked)
        same &= request.n_batches in (None, config.n_batches) and request.seq_len in (None, config.seq_len)
        if same and plan.decomposition.fingerprint == fingerprint:
            found.append(plan)
    return found[0] if len(found) == 1 else None


def _saved(plan: HarvestPlan) -> dict[str, int]:
    config = plan.config
    per_batch = config.batch_size * config.seq_len
    total = {"tokens_total": config.n_batches * per_batch}
    state = load_state(shard_folder(plan.folder, 0, 1))
    return total if state is None else total | {"tokens_done": min(state.next_batch, config.n_batches) * per_batch}


if __name__ == "__main__":
    raise SystemExit(main())
