"""`jobs`: harvests that were started in the background."""

from __future__ import annotations

import argparse

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json, show


def add_commands(commands: Subparsers) -> None:
    """Add `jobs [show]`."""
    jobs = add_command(commands, "jobs", _list, "list harvests that were started in the background, newest first")
    one = add_command(jobs.add_subparsers(metavar="[show]"), "show", _show, "how far a job is, and what it printed")
    one.add_argument("id", metavar="ID", help="for example harvest-0123456789ab")


def _list(args: argparse.Namespace) -> None:
    from spd_tools.launch.jobs import list_jobs

    jobs = list_jobs()
    if args.json:
        print_json(jobs)
    elif not jobs:
        note("There is no job; the MCP server's harvest_start starts one.")
    else:
        from spd_tools.render.jobs import jobs_table

        show(jobs_table(jobs))


def _show(args: argparse.Namespace) -> None:
    from spd_tools.launch.jobs import job_status

    job = job_status(args.id)
    if args.json:
        print_json(job)
    else:
        from spd_tools.render.jobs import job_page

        show(job_page(job))
