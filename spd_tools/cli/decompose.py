"""`decompose`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json, show
from spd_tools.cli.spreading import add_slurm_options, slurm_profile
from spd_tools.cli.training_options import (
    add_running,
    add_steps_and_seed,
    add_wandb,
    add_what,
    decompose_request,
    report_queued,
)
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.training.decompose import DecomposeOutcome


def add_commands(commands: Subparsers) -> None:
    """Add `decompose`."""
    parser = add_command(commands, "decompose", _decompose, "train a decomposition (SPD) and write it as a run")
    parser.add_argument(
        "source", nargs="?", metavar="CONFIG.yaml|NAME", help="configuration, folder of a run, or an experiment's name"
    )
    parser.add_argument("--list", action="store_true", help="list the experiments")
    parser.add_argument(
        "--out",
        metavar="DIR",
        default=argparse.SUPPRESS,
        help="folder of the run (default: one below SPD_OUT_DIR/decompositions)",
    )
    add_steps_and_seed(parser)
    add_what(parser)
    add_running(parser, of="that train together")
    parser.add_argument(
        "--resume", action="store_true", default=argparse.SUPPRESS, help="go on from an interrupted training"
    )
    add_wandb(parser)
    add_slurm_options(parser)


def _decompose(args: argparse.Namespace) -> None:
    if args.list:
        _list(args)
        return
    if args.source is None:
        raise SpdToolsError("Name a configuration file or an experiment; `spd-tools decompose --list` lists those.")
    profile = slurm_profile(args)
    request = decompose_request(args, args.source)
    if profile is not None:
        from spd_tools.launch.training import start_decompose

        allow_dirty = getattr(args, "allow_dirty", False)
        report_queued(args, start_decompose(request, slurm=profile, n_gpus=args.n_gpus, allow_dirty=allow_dirty))
        return
    from spd_tools.training.ranks import run_ranks

    _report(args, run_ranks("decompose", request, args.n_gpus))


def _list(args: argparse.Namespace) -> None:
    from spd_tools.training.experiments import EXPERIMENTS

    if args.json:
        print_json({name: {"summary": found.summary, "needs": found.needs} for name, found in EXPERIMENTS.items()})
        return
    width = max(map(len, EXPERIMENTS))
    for name, found in EXPERIMENTS.items():
        needs = f"; needs {found.needs}" if found.needs else ""
        show(f"{name:<{width}}  {found.summary}{needs}")


def _report(args: argparse.Namespace, outcome: DecomposeOutcome) -> None:
    if args.json:
        print_json(outcome)
        return
    if outcome.state == "stopped":
        note(f"Stopped after {outcome.steps_done} steps; the same command with --resume goes on.")
        return
    how = "was trained earlier" if outcome.state == "already finished" else "is finished"
    note(f"The run {how}: {outcome.steps_done} steps, in {outcome.folder}")
    if outcome.reads_tokens:
        note(f"Count what its components do: spd-tools harvest {outcome.folder} --n-batches 100 --batch-size 32")
