"""What all commands that experiment share: their options, doing the experiment, showing its result."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Parser, Subparsers, add_command, add_run_options, non_negative_int
from spd_tools.cli.notes import add_author, author_of, option
from spd_tools.cli.output import print_json, show
from spd_tools.files import write_bytes

if TYPE_CHECKING:
    from spd_tools.experiments import Result
    from spd_tools.store.harvest import Harvest


def add_experiment(commands: Subparsers, command: str, summary: str) -> Parser:
    """A command that does an experiment on KEY; its name is the experiment's.

    Options that are called like fields of the experiment's request are passed on where they are given.
    """
    parser = add_command(commands, command, run_experiment, summary)
    parser.set_defaults(experiment=command.replace("-", "_"))
    parser.add_argument("key", metavar="KEY", help="component, for example h.0.mlp.c_fc:12")
    add_run_options(parser)
    add_author(parser)
    option(parser, "--seed", type=non_negative_int, metavar="S", help="of every random choice (default 0)")
    return parser


def add_plot(parser: Parser, what: str) -> None:
    """--plot of the experiments that can be drawn."""
    parser.add_argument("--plot", type=Path, metavar="FILE", help=f"write {what} there, as PNG")


def run_experiment(args: argparse.Namespace) -> None:
    """Do the experiment that the command stands for, keep its result as evidence and show it."""
    from spd_tools.cli.harvest_options import open_chosen
    from spd_tools.experiments import experiment
    from spd_tools.investigate import Investigation

    fields = experiment(args.experiment).request.model_fields.keys() - {"experiment"}
    given = {name: value for name, value in vars(args).items() if name in fields}
    author = author_of(args)
    harvest = open_chosen(args)
    with working(f"{args.experiment.replace('_', ' ')}, {args.key}"):
        result = Investigation(harvest).run(args.experiment, given, author=author)
    if getattr(args, "plot", None) is not None:
        write_bytes(args.plot, _plot(result))
    show_result(args, harvest, result)


def _plot(result: Result) -> bytes:
    from spd_tools.experiments import plots
    from spd_tools.experiments.interact import InteractResult
    from spd_tools.experiments.position import PositionResult
    from spd_tools.experiments.sweep import SweepResult

    match result:
        case InteractResult():
            return plots.interaction_heatmap(result)
        case SweepResult():
            return plots.sweep_bars(result)
        case _:
            assert isinstance(result, PositionResult)
            return plots.position_curve(result)


def show_result(args: argparse.Namespace, harvest: Harvest, result: Result) -> None:
    """Print a result."""
    if args.json:
        print_json(result)
        return
    from spd_tools.render.experiments import result_page

    show(*result_page(result, harvest))


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say on a terminal's stderr what takes so long."""
    from rich.console import Console
    from rich.text import Text

    from spd_tools.render.safe import visible

    console = Console(stderr=True)
    if not console.is_terminal:
        yield
        return
    with console.status(Text(visible(what))):
        yield
