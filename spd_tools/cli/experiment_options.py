"""What all commands that experiment share: their options, doing the experiment, showing its result."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Parser, Subparsers, add_command, add_run_options, non_negative_int
from spd_tools.cli.notes import add_author, author_of, option
from spd_tools.cli.output import note, print_json, show
from spd_tools.experiments.guide import GUIDES
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
    parser.long_description = lambda: _guide(parser, command)
    parser.add_argument("key", metavar="KEY", help="component, for example h.0.mlp.c_fc:12")
    add_run_options(parser)
    add_author(parser)
    option(parser, "--seed", type=non_negative_int, metavar="S", help="of every random choice (default 0)")
    return parser


def _guide(parser: Parser, command: str) -> str:
    """What the experiment asks, what its result shows, and a line to type."""
    guide = GUIDES[command.replace("-", "_")]
    options = {action.dest: action.option_strings[0] for action in reversed(parser._actions) if action.option_strings}

    def spelt(name: str) -> str:
        return name.replace("_", "-") if name in GUIDES else options.get(name, name)

    return f"{guide.text(spelt)}\n\nFor example, on a harvest of `planted`:\n\n  {parser.prog} {guide.example}"


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
    investigation = Investigation(harvest)
    with working(f"{args.experiment.replace('_', ' ')}, {args.key}"):
        result = investigation.run(args.experiment, given, author=author)
    remark = investigation.remark(result)
    if remark is not None:
        note(remark)
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
    """Print a result; one that is only a proposal is not stored, so it has no id to be cited by.

    As JSON it names words of its texts that the vocabulary lacks, where there are any, as unknown_words.
    """
    from spd_tools.experiments.generate_and_test import only_proposes
    from spd_tools.experiments.unknown_words import unknown_words

    if args.json:
        document = result.model_dump(mode="json", exclude={"id", "kind"} if only_proposes(result) else None)
        unknown = unknown_words(result.request, harvest.token_texts)
        print_json({**document, "unknown_words": unknown} if unknown else document)
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
