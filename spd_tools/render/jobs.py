"""Jobs for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.render.numbers import date, number
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, facts_table, plain_table, titled

if TYPE_CHECKING:
    from spd_tools.launch.status import Job, StepView, TaskView

_STYLES = {
    "finished": "green",
    "running": "cyan",
    "pending": "dim",
    "failed": "red",
    "lost": "red",
    "cancelled": "yellow",
    "skipped": "dim",
}
_BAR = 16
_WATCHED = 16
"""Ranks of a step that are watched one by one."""


def jobs_table(jobs: Sequence[Job]) -> Table:
    """One line per job."""
    table = plain_table(["job", "of", "on", "state", "at"], right=["done", "started"])
    for job in jobs:
        step = active_step(job)
        add_cells(
            table,
            job.id,
            job.subject,
            job.executor,
            Text(job.status, _STYLES[job.status]),
            "" if step is None else _brief(step),
            step_progress(step),
            date(job.created),
        )
    return table


def job_page(job: Job, log_name: str, log_tail: str) -> RenderableType:
    """Everything about one job: rank by rank, and the end of one log."""
    facts = {
        "state": job.status,
        "of": job.subject,
        "runs on": _place(job),
        "started": date(job.created),
        "ended": "" if job.ended is None else date(job.ended),
        "error": job.error or "",
        "job folder": str(job.folder),
    }
    parts = [titled(job.id, facts_table({name: fact for name, fact in facts.items() if fact})), Text()]
    parts.append(tasks_table([(step, step.tasks) for step in job.steps]))
    for step in job.steps:
        if len(step.tasks) == 1 and (facts := result_facts(step.tasks[0])):
            parts += [Text(), titled(f"Result of {step.name}", facts_table(facts))]
    if log_tail:
        lines = "\n".join(map(visible, log_tail.splitlines()))
        parts += [Text(), titled(f"The end of the log of {log_name}", Text(lines, overflow="fold"))]
    return Group(*parts)


def result_facts(task: TaskView) -> dict[str, str]:
    """What a finished task returned, for people; what is not there is left out."""
    found = task.result or {}
    return {
        name.removeprefix("n_").replace("_", " "): _fact(value)
        for name, value in found.items()
        if value not in (None, {})
    }


def _fact(value: object) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return number(value)
        case dict():
            return "; ".join(f"{name}: {_fact(each)}" for name, each in value.items())
        case _:
            return str(value)


def _place(job: Job) -> str:
    if job.executor == "local":
        return "this machine's processes"
    return "a SLURM cluster" if job.cluster is None else f"SLURM cluster {job.cluster}"


def watch_page(job: Job) -> RenderableType:
    """What a person watches while a job runs: rank by rank, but the finished ones of a large step."""
    rows: list[tuple[StepView, Sequence[TaskView]]] = []
    hidden: list[str] = []
    for step in job.steps:
        shown = step.tasks
        if len(shown) > _WATCHED:
            shown = [task for task in step.tasks if task.status not in ("finished", "pending")][:_WATCHED]
            hidden.append(f"{step.name}: {step_summary(step)}")
        rows.append((step, shown))
    remark = [Text(visible("; ".join(hidden)), "dim")] if hidden else []
    return Group(Text(job.id, "bold cyan"), tasks_table(rows), *remark)


def tasks_table(steps: Sequence[tuple[StepView, Sequence[TaskView]]]) -> Table:
    """A line per task; columns that would be empty are left out."""
    all_tasks = [task for _, tasks in steps for task in tasks]
    attempts = any(task.attempt > 1 for task in all_tasks)
    reasons = any(task.why for task in all_tasks)
    table = plain_table(
        ["step", "rank", "state", ""], right=["done", "per s", "left", *(["attempt"] if attempts else [])]
    )
    if reasons:
        table.add_column(Text("why"), overflow="fold")
    for step, tasks in steps:
        for task in tasks:
            cells: list[str | Text] = [
                step.name,
                str(task.rank) if len(step.tasks) > 1 else "",
                Text(task.status, _STYLES[task.status]),
                _bar(task),
                _done(task),
                "" if task.rate is None else number(task.rate),
                _left(task),
            ]
            cells += [str(task.attempt)] if attempts else []
            cells += [task.why or ""] if reasons else []
            add_cells(table, *cells)
    return table


def active_step(job: Job) -> StepView | None:
    """The step that says most about how far a job is: what went wrong or runs, else the first that has not finished."""
    for wanted in (("running",), ("failed", "lost"), ("pending",), ("cancelled", "skipped")):
        for step in job.steps:
            if step.status in wanted:
                return step
    return None


def _brief(step: StepView) -> str:
    if len(step.tasks) == 1:
        return step.name
    return f"{step.name}: {step.count(step.status)} of {len(step.tasks)}"


def step_summary(step: StepView) -> str:
    """How many of its tasks are in which state."""
    if len(step.tasks) == 1:
        return ""
    counts = [(step.count(status), status) for status in ("finished", "running", "pending", "failed", "lost")]
    counts += [(step.count("cancelled"), "cancelled"), (step.count("skipped"), "skipped")]
    return "(" + ", ".join(f"{n} {status}" for n, status in counts if n) + ")"


def step_progress(step: StepView | None) -> str:
    """Units done of all units, of all tasks together."""
    if step is None:
        return ""
    known = [task for task in step.tasks if task.done is not None]
    if not known:
        return number(None)
    done, total = sum(task.done or 0 for task in known), sum(task.total or 0 for task in known)
    unit = known[0].unit or ""
    whole = len(known) == len(step.tasks) and total > 0
    return f"{done:,} of {total:,} {unit}" if whole else f"{done:,} {unit}"


def _bar(task: TaskView) -> Text:
    if not task.total or task.done is None:
        return Text("")
    full = round(_BAR * min(1.0, task.done / task.total))
    return Text("━" * full, "cyan") + Text("━" * (_BAR - full), "dim")


def _left(task: TaskView) -> str:
    if task.status != "running" or not task.rate or task.total is None or task.done is None:
        return ""
    seconds = int((task.total - task.done) / task.rate)
    hours, rest = divmod(seconds, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _done(task: TaskView) -> str:
    if task.done is None:
        return ""
    total = "" if task.total is None else f" of {task.total:,}"
    return f"{task.done:,}{total} {task.unit or ''}".strip()
