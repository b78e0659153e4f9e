"""`jobs`: work that goes on by itself, on this machine or a cluster."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Parser, Subparsers, add_command, non_negative_int
from spd_tools.cli.output import note, print_json, show
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.launch.status import Job


def add_commands(commands: Subparsers) -> None:
    """Add `jobs [show|logs|cancel|retry]`."""
    jobs = add_command(commands, "jobs", _list, "list jobs, newest first")
    of_jobs = jobs.add_subparsers(metavar="[show|logs|cancel|retry]")
    _add_id(add_command(of_jobs, "show", _show, "how far a job is, rank by rank, and the end of a log"))
    logs = add_command(of_jobs, "logs", _logs, "what a task printed: by default the one that went wrong, or wrote last")
    _add_id(logs)
    logs.add_argument("--step", metavar="NAME")
    logs.add_argument("--rank", type=non_negative_int, metavar="R")
    logs.add_argument("--follow", action="store_true", help="go on until the task has ended")
    _add_id(add_command(of_jobs, "cancel", _cancel, "end a job; what its workers have saved stays"))
    _add_id(add_command(of_jobs, "retry", _retry, "do again what failed or was lost, and what comes after it"))


def _add_id(parser: Parser) -> None:
    parser.add_argument("id", metavar="ID", help="for example harvest-0123456789ab")


def _list(args: argparse.Namespace) -> None:
    from spd_tools.launch.status import list_jobs

    jobs = list_jobs()
    if args.json:
        print_json(jobs)
    elif not jobs:
        note("There is no job; `spd-tools harvest RUN --n-gpus G` starts one.")
    else:
        from spd_tools.render.jobs import jobs_table

        show(jobs_table(jobs))


def _show(args: argparse.Namespace) -> None:
    from spd_tools.launch.logs import log_path, log_tail, newest_log
    from spd_tools.launch.status import job_status

    job = job_status(args.id)
    if args.json:
        print_json(job)
        return
    from spd_tools.render.jobs import job_page

    newest = newest_log(job)
    tail = "" if newest is None else log_tail(log_path(job, *newest))
    show(job_page(job, "" if newest is None else f"{newest[0]}, rank {newest[1]}", tail))


def _logs(args: argparse.Namespace) -> None:
    from spd_tools.cli.output import console
    from spd_tools.launch.logs import follow_log, log_path, newest_log, read_log
    from spd_tools.launch.status import ACTIVE, job_status
    from spd_tools.render.safe import visible

    job = job_status(args.id)
    newest = newest_log(job)
    if args.step is None and newest is None and not (args.follow and job.status in ACTIVE):
        raise SpdToolsError(f"{job.id} has printed nothing yet; it is {job.status}.")
    step = args.step or (newest[0] if newest else job.steps[0].name)  # which will be the first to print something
    same = newest is not None and newest[0] == step
    rank = args.rank if args.rank is not None else (newest[1] if newest is not None and same else 0)
    path = log_path(job, step, rank) if not args.follow else None
    lines = follow_log(job.id, step, rank) if path is None else read_log(path)
    if args.json:
        print_json({"job": job.id, "step": step, "rank": rank, "lines": list(lines)})
        return
    note(f"{job.id}, {step}, rank {rank}:")
    target = console()
    for line in lines:
        target.print(visible(line), soft_wrap=True)


def _cancel(args: argparse.Namespace) -> None:
    from spd_tools.launch.control import cancel_job

    job = cancel_job(args.id)
    _report(args, job, f"{job.id} is {'being stopped' if job.status == 'running' else job.status}.")
    if not args.json:
        note(f"What its workers have saved stays; go on with: spd-tools jobs retry {job.id}")


def _retry(args: argparse.Namespace) -> None:
    from spd_tools.launch.control import retry_job

    job = retry_job(args.id)
    again = [
        f"{step.name} ({', '.join(str(task.rank) for task in step.tasks if task.status in ('pending', 'running'))})"
        for step in job.steps
        if step.status in ("pending", "running")
    ]
    _report(args, job, f"{job.id} goes on: {', '.join(again)}. Look at it: spd-tools jobs show {job.id}")


def _report(args: argparse.Namespace, job: Job, text: str) -> None:
    if args.json:
        print_json(job)
    else:
        note(text)
