"""`pretrain`."""

from __future__ import annotations

import argparse
from typing import Any

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json
from spd_tools.cli.spreading import add_slurm_options, slurm_profile
from spd_tools.cli.training_options import add_running, report_queued

_CHOICES = ("out", "device", "threads", "checkpoint_seconds")
"""Options that a request takes as they are; those that were not given keep the request's defaults."""


def add_commands(commands: Subparsers) -> None:
    """Add `pretrain`."""
    pretrain = add_command(commands, "pretrain", _pretrain, "train a small target model on a data set or on stories")
    pretrain.add_argument("config", metavar="CONFIG.yaml|NAME", nargs="?", help="a file, or a name that --list lists")
    pretrain.add_argument("--list", action="store_true", help="names of the configurations that come with spd-tools")
    pretrain.add_argument(
        "--out",
        metavar="FOLDER",
        default=argparse.SUPPRESS,
        help="where the run lies (default: below SPD_OUT_DIR/runs)",
    )
    add_running(pretrain, of="that train together")
    add_slurm_options(pretrain)


def _pretrain(args: argparse.Namespace) -> None:
    from spd_tools.errors import SpdToolsError
    from spd_tools.training.pretrain_config import pretrain_names, read_pretrain_config

    if args.list:
        print_json(pretrain_names()) if args.json else print("\n".join(pretrain_names()))
        return
    if args.config is None:
        raise SpdToolsError("Name a configuration: a YAML file, or one of the names that `pretrain --list` prints.")
    profile = slurm_profile(args)

    from spd_tools.training.pretrain_run import PretrainOutcome, PretrainRequest

    chosen: dict[str, Any] = {name: getattr(args, name) for name in _CHOICES if hasattr(args, name)}
    request = PretrainRequest(config=read_pretrain_config(args.config), **chosen)
    if profile is not None:
        from spd_tools.launch.training import start_pretrain

        allow_dirty = getattr(args, "allow_dirty", False)
        report_queued(args, start_pretrain(request, slurm=profile, n_gpus=args.n_gpus, allow_dirty=allow_dirty))
        return
    from spd_tools.training.ranks import run_ranks

    outcome: PretrainOutcome = run_ranks("pretrain", request, args.n_gpus)
    if args.json:
        print_json(outcome)
        return
    if outcome.finished:
        note(f"Pretraining is finished after {outcome.step:,} steps: {outcome.folder}")
    else:
        note(f"Stopped after {outcome.step:,} steps; the same command goes on from there.")
