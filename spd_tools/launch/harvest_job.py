"""The process of a harvest job: ``python -m spd_tools.launch.harvest_job FOLDER``; not meant to be typed."""

from __future__ import annotations

import math
import os
import sys
import time
import traceback
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.launch.jobs import JobState, read_request, read_state, write_state

REPORT_SECONDS = 2.0
"""Least time between two reports of progress."""


class _Reporter:
    """The job's state.json."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._state: JobState = read_state(folder)
        self._last_batch = -math.inf
        self.total: int | None = None
        """Batches of the harvest, where one was counted."""

    def update(self, **changes: object) -> None:
        """Write the state with some fields changed."""
        self._state = self._state.model_copy(update=changes)
        write_state(self._folder, self._state)

    def batch(self, done: int, total: int) -> None:
        """Report progress, now and then."""
        self.total = total
        if time.monotonic() - self._last_batch < REPORT_SECONDS:
            return
        self._last_batch = time.monotonic()
        try:
            self.update(batches_done=done, batches_total=total)
        except SpdToolsError as error:  # a full disk: the harvest itself says so when it has to
            print(error, file=sys.stderr)


def main() -> int:
    """Do what the job's folder says; returns the exit code."""
    folder = Path(sys.argv[1])
    reporter = _Reporter(folder)
    reporter.update(status="running", pid=os.getpid(), started=time.time())
    try:
        request = _request(folder)
        outcome = run_harvest(request, resume=True, progress=False, on_batch=reporter.batch)
    except BaseException as error:
        traceback.print_exc()
        reporter.update(status="failed", ended=time.time(), error=_sentence(error))
        return 1
    reporter.update(
        status="finished",
        ended=time.time(),
        batches_done=reporter.total,
        batches_total=reporter.total,
        n_tokens=outcome.n_tokens,
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


if __name__ == "__main__":
    raise SystemExit(main())
