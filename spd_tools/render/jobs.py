"""Background jobs for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.render.numbers import count, date, number
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, facts_table, plain_table, titled

if TYPE_CHECKING:
    from spd_tools.launch.jobs import Job

_STYLES = {"finished": "green", "running": "cyan", "pending": "cyan", "failed": "red", "died": "red"}


def jobs_table(jobs: Sequence[Job]) -> Table:
    """One line per job."""
    table = plain_table(["job", "of", "state"], right=["batches", "of", "started"])
    for job in jobs:
        add_cells(
            table,
            job.state.id,
            _subject(job),
            Text(job.status, _STYLES[job.status]),
            _count(job.state.batches_done),
            _count(job.state.batches_total),
            date(job.state.created),
        )
    return table


def job_page(job: Job) -> RenderableType:
    """Everything about one job."""
    state = job.state
    facts = {
        "state": job.status,
        "of": _subject(job),
        "harvest": "" if state.harvest_id is None else f"{state.harvest_id} of {state.run_id}",
        "batches": f"{_count(state.batches_done)} of {_count(state.batches_total)}",
        "tokens": "" if state.n_tokens is None else count(state.n_tokens),
        "started": date(state.created),
        "ended": "" if state.ended is None else date(state.ended),
        "error": state.error or "",
        "folder": str(job.folder),
    }
    parts = [titled(state.id, facts_table({name: fact for name, fact in facts.items() if fact}))]
    if job.log_tail:
        lines = "\n".join(map(visible, job.log_tail.splitlines()))
        parts += [Text(), titled("The end of its log", Text(lines, overflow="fold"))]
    return Group(*parts)


def _subject(job: Job) -> str:
    return str(job.request.get("run", number(None)))


def _count(n: int | None) -> str:
    return number(None) if n is None else count(n)
