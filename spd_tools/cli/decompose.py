"""`decompose`."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Subparsers, add_command, non_negative_int, positive_float, positive_int
from spd_tools.cli.output import note, print_json, show
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.training.decompose import DecomposeOutcome, DecomposeRequest

_DATA = ("data", "split", "column", "tokenizer")
_CHOICES = ("out", "target", "steps", "seed", "device", "threads", "resume", "checkpoint_seconds", "wandb")
"""Options that a request takes as they are; those that were not given keep the request's defaults."""


def add_commands(commands: Subparsers) -> None:
    """Add `decompose`."""
    parser = add_command(commands, "decompose", _decompose, "train a decomposition (SPD) and write it as a run")
    parser.add_argument(
        "source", nargs="?", metavar="CONFIG.yaml|NAME", help="configuration, folder of a run, or an experiment's name"
    )
    parser.add_argument("--list", action="store_true", help="list the experiments")
    what = parser.add_argument_group("what (default: what the configuration says)")
    for name, how in {
        "--target": {"metavar": "RUN", "help": "the target's run"},
        "--data": {"metavar": "SOURCE", "help": "hub data set, local parquet, jsonl(.gz) or text, or stories[:SEED]"},
        "--split": {"metavar": "S"},
        "--column": {"metavar": "C", "help": "column of the text or of the token ids"},
        "--tokenizer": {"metavar": "NAME|FILE"},
        "--steps": {"metavar": "N", "type": positive_int, "help": "of training"},
        "--seed": {"metavar": "S", "type": non_negative_int},
    }.items():
        what.add_argument(name, default=argparse.SUPPRESS, **how)
    running = parser.add_argument_group("running")
    for name, how in {
        "--out": {"metavar": "DIR", "help": "folder of the run (default: one below SPD_OUT_DIR/decompositions)"},
        "--device": {"metavar": "D", "help": "cpu, cuda or cuda:N (default: CUDA where there is one)"},
        "--threads": {"metavar": "N", "type": positive_int, "help": "of one process on the CPU"},
        "--checkpoint-seconds": {
            "metavar": "S",
            "type": positive_float,
            "help": "least time between checkpoints (default 120)",
        },
    }.items():
        running.add_argument(name, default=argparse.SUPPRESS, **how)
    running.add_argument("--cpu", action="store_const", dest="device", const="cpu", default=argparse.SUPPRESS)
    running.add_argument(
        "--n-gpus", type=positive_int, default=1, metavar="G", help="processes, a GPU each (default 1)"
    )
    for name, what_it_does in (
        ("--resume", "go on from an interrupted training"),
        ("--wandb", "log to W&B too, as wandb_project of the configuration says"),
    ):
        running.add_argument(name, action="store_true", default=argparse.SUPPRESS, help=what_it_does)


def _decompose(args: argparse.Namespace) -> None:
    if args.list:
        _list(args)
        return
    if args.source is None:
        raise SpdToolsError("Name a configuration file or an experiment; `spd-tools decompose --list` lists those.")
    if args.n_gpus > 1 and "WORLD_SIZE" not in os.environ:
        from spd_tools.training.ranks import start_ranks

        report(args, start_ranks(_request(args), args.n_gpus))
        return
    from spd_tools.training.decompose import decompose

    report(args, decompose(_request(args)))


def _request(args: argparse.Namespace) -> DecomposeRequest:
    from spd_tools.training.data_sources import DataChoice
    from spd_tools.training.decompose import DecomposeRequest

    data = DataChoice(**{name: getattr(args, name) for name in _DATA if hasattr(args, name)})
    chosen = {name: getattr(args, name) for name in _CHOICES if hasattr(args, name)}
    return DecomposeRequest(source=args.source, data=data, **chosen)


def _list(args: argparse.Namespace) -> None:
    from spd_tools.training.experiments import EXPERIMENTS

    if args.json:
        print_json({name: {"summary": found.summary, "needs": found.needs} for name, found in EXPERIMENTS.items()})
        return
    width = max(map(len, EXPERIMENTS))
    for name, found in EXPERIMENTS.items():
        needs = f"; needs {found.needs}" if found.needs else ""
        show(f"{name:<{width}}  {found.summary}{needs}")


def report(args: argparse.Namespace, outcome: DecomposeOutcome) -> None:
    """Say what became of a training and what to type next."""
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
