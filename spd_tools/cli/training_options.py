"""Options of the commands that train, and what they say when they have queued a job."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import Parser, non_negative_int, positive_float, positive_int
from spd_tools.cli.output import note, print_json

if TYPE_CHECKING:
    from spd_tools.launch.status import Job
    from spd_tools.training.decompose import DecomposeRequest

_DATA = ("data", "split", "column", "tokenizer")
_CHOICES = ("out", "target", "steps", "seed", "device", "threads", "resume", "checkpoint_seconds", "wandb")
"""Options that a request takes as they are; those that were not given keep the request's defaults."""


def add_what(parser: Parser) -> None:
    """Target and data in place of the configuration's."""
    what = parser.add_argument_group("what (default: what the configuration says)")
    options: dict[str, dict[str, Any]] = {
        "--target": {"metavar": "RUN", "help": "the target's run"},
        "--data": {"metavar": "SOURCE", "help": "hub data set, local parquet, jsonl(.gz) or text, or stories[:SEED]"},
        "--split": {"metavar": "S"},
        "--column": {"metavar": "C", "help": "column of the text or of the token ids"},
        "--tokenizer": {"metavar": "NAME|FILE"},
    }
    for name, how in options.items():
        what.add_argument(name, default=argparse.SUPPRESS, **how)


def add_steps_and_seed(parser: Parser) -> None:
    """In place of the configuration's."""
    parser.add_argument("--steps", metavar="N", type=positive_int, default=argparse.SUPPRESS, help="of training")
    parser.add_argument("--seed", metavar="S", type=non_negative_int, default=argparse.SUPPRESS)


def add_running(parser: Parser, *, of: str) -> None:
    """Device, processes and checkpoints; ``of``: what --n-gpus counts GPUs of."""
    running = parser.add_argument_group("running")
    for name, how in {
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
        "--n-gpus", type=positive_int, default=1, metavar="G", help=f"processes {of}, a GPU each (default 1)"
    )


def add_wandb(parser: Parser) -> None:
    """--wandb."""
    what = "log to W&B too, as wandb_project of the configuration says"
    parser.add_argument("--wandb", action="store_true", default=argparse.SUPPRESS, help=what)


def decompose_request(args: argparse.Namespace, source: str) -> DecomposeRequest:
    """What the options ask for."""
    from spd_tools.training.data_sources import DataChoice
    from spd_tools.training.decompose import DecomposeRequest

    data = DataChoice(**{name: getattr(args, name) for name in _DATA if hasattr(args, name)})
    chosen: dict[str, Any] = {name: getattr(args, name) for name in _CHOICES if hasattr(args, name)}
    return DecomposeRequest(source=source, data=data, **chosen)


def report_queued(args: argparse.Namespace, job: Job, look: str = "jobs show") -> None:
    """Wait until a cluster has all of a job, and say how to look at it.

    Raises:
        SpdToolsError: when it does not take it.
    """
    from spd_tools.cli.watching import is_queued, watch

    job = watch(job, is_queued)
    if args.json:
        print_json(job)
    else:
        note(f"{job.id} is queued. Look at it: spd-tools {look} {job.id}")
