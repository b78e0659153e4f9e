"""`pretrain`."""

from __future__ import annotations

import argparse

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json


def add_commands(commands: Subparsers) -> None:
    """Add `pretrain`."""
    pretrain = add_command(commands, "pretrain", _pretrain, "train a small target model on a data set or on stories")
    pretrain.add_argument("config", metavar="CONFIG.yaml|NAME", nargs="?", help="a file, or a name that --list lists")
    pretrain.add_argument("--list", action="store_true", help="names of the configurations that come with spd-tools")
    pretrain.add_argument("--out", metavar="FOLDER", help="where the run lies (default: below SPD_OUT_DIR/runs)")
    pretrain.add_argument("--cpu", action="store_true", help="on the CPU, even where there is CUDA")


def _pretrain(args: argparse.Namespace) -> None:
    from spd_tools.errors import SpdToolsError
    from spd_tools.training.pretrain_config import pretrain_names, read_pretrain_config

    if args.list:
        print_json(pretrain_names()) if args.json else print("\n".join(pretrain_names()))
        return
    if args.config is None:
        raise SpdToolsError("Name a configuration: a YAML file, or one of the names that `pretrain --list` prints.")

    from pathlib import Path

    import torch

    from spd_tools.training.pretrain_run import run_pretraining

    outcome = run_pretraining(
        read_pretrain_config(args.config),
        folder=Path(args.out).expanduser() if args.out else None,
        device=torch.device("cpu") if args.cpu else None,
        say=note,
    )
    if args.json:
        print_json(outcome)
        return
    if outcome.finished:
        note(f"Pretraining is finished after {outcome.step:,} steps: {outcome.folder}")
    else:
        note(f"Stopped after {outcome.step:,} steps; the same command goes on from there.")
