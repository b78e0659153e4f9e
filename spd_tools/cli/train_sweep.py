"""`train-sweep`: a grid of configurations as trainings of one job, and their table."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Subparsers, add_command, positive_int
from spd_tools.cli.output import note, print_json, show
from spd_tools.cli.spreading import add_slurm_options, slurm_profile
from spd_tools.cli.training_options import add_running, add_wandb, add_what, decompose_request, report_queued
from spd_tools.errors import SpdToolsError
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.launch.status import Job
    from spd_tools.training.sweep import Sweep

_SHOW = "show"
_SUMMARY = "train a decomposition at every point of a grid, as one job"
_DESCRIPTION = f"""{_SUMMARY}; `train-sweep show ID` prints its table

A grid is a YAML file in which `values: [...]` stands wherever a field of a configuration varies:

  global:                            # for every configuration that is swept
    seed: {{values: [0, 1, 2]}}
    steps: 1000                      # the same at all points
    loss_metric_configs:             # entries are known by classname (of module_info: by module_pattern)
      - classname: ImportanceMinimalityLoss
        coeff: {{values: [0.001, 0.01]}}
  tms_5-2:                           # for that one, on top of global
    lr_schedule: {{start_val: 0.01}}

What it does not name stays as the configuration has it; points are all combinations."""


def add_commands(commands: Subparsers) -> None:
    """Add `train-sweep` and `train-sweep show`."""
    parser = add_command(commands, "train-sweep", _sweep, _SUMMARY)
    parser.long_description = lambda: _DESCRIPTION
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="CONFIG.yaml|NAME",
        help="what `decompose` takes, one or several; or: show ID",
    )
    parser.add_argument(
        "--grid",
        type=Path,
        metavar="GRID.yaml",
        help="sections `global` and one per configuration, in which `values: [...]` stands wherever a field varies",
    )
    parser.add_argument("--dry-run", action="store_true", help="only list the points")
    parser.add_argument(
        "--max-points",
        type=positive_int,
        default=argparse.SUPPRESS,
        metavar="N",
        help="most points that are started (default 100)",
    )
    add_what(parser)
    add_running(parser, of="of one point")
    add_wandb(parser)
    parser.add_argument("--max-concurrent", type=positive_int, metavar="N", help="most points at a time")
    parser.add_argument("--detach", action="store_true", help="leave at once; `train-sweep show` shows how far it is")
    add_slurm_options(parser)


def _sweep(args: argparse.Namespace) -> None:
    if args.sources[0] == _SHOW:
        _show(args)
        return
    if args.grid is None:
        raise SpdToolsError("Say with --grid GRID.yaml what varies; `spd-tools decompose` trains a single point.")
    profile = slurm_profile(args)

    from spd_tools.training.sweep import MAX_POINTS, plan_sweep

    request = decompose_request(args, args.sources[0])
    sweep = plan_sweep(args.sources, args.grid, request, max_points=getattr(args, "max_points", MAX_POINTS))
    if args.dry_run:
        _show_plan(args, sweep)
        return
    from spd_tools.launch.sweep import start_sweep

    job = start_sweep(
        sweep,
        n_gpus=args.n_gpus,
        slurm=profile,
        max_concurrent=args.max_concurrent,
        allow_dirty=getattr(args, "allow_dirty", False),
    )
    if profile is not None:
        report_queued(args, job, look="train-sweep show")
    elif args.detach:
        print_json(job) if args.json else note(f"{job.id} is running. Look at it: spd-tools train-sweep show {job.id}")
    else:
        _follow(args, job, len(sweep.points))


def _show_plan(args: argparse.Namespace, sweep: Sweep) -> None:
    if args.json:
        known = enumerate(sweep.points)
        print_json([{"point": place, "name": point.name, "varies": dict(point.varies)} for place, point in known])
        return
    from spd_tools.render.sweep import plan_table

    show(plan_table(sweep.points))


def _follow(args: argparse.Namespace, job: Job, n_points: int) -> None:
    """Watch it, and show its table however it ends."""
    from spd_tools.cli.watching import watch

    if not args.json:
        note(f"{job.id}: {plural(n_points, 'point')}. Ctrl-C cancels; what is saved stays.")
    try:
        watch(job)
    finally:
        _print_table(args, job.id)


def _show(args: argparse.Namespace) -> None:
    if len(args.sources) != 2 or args.grid is not None:
        raise SpdToolsError("Write `spd-tools train-sweep show ID`; `spd-tools jobs` lists the ids.")
    _print_table(args, args.sources[1])


def _print_table(args: argparse.Namespace, job_id: str) -> None:
    from spd_tools.launch.sweep import sweep_table

    found = sweep_table(job_id)
    if args.json:
        print_json(found)
        return
    from spd_tools.render.sweep import sweep_page

    show(sweep_page(found))
