"""Argument types and options that several commands share."""

from __future__ import annotations

import argparse
import math
import shutil
import textwrap
from collections.abc import Callable
from typing import Any

Handler = Callable[[argparse.Namespace], None]
Subparsers = Any
"""What ``ArgumentParser.add_subparsers`` returns; argparse keeps the class private."""
_WIDEST_HELP = 110
"""Columns."""


class _Paragraphs(argparse.HelpFormatter):
    """Keeps paragraphs apart, leaves indented ones as they are, and is no wider than is good to read."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=min(shutil.get_terminal_size().columns - 2, _WIDEST_HELP))

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        # Names of options and commands have hyphens: lines break at none of them.
        wrap = textwrap.TextWrapper(width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
        return "\n\n".join(part if part.startswith(" ") else wrap.fill(part) for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """No abbreviations: a script that works today must not break when an option is added.

    What is wrong with a subcommand's arguments is said with the usage of that subcommand.
    """

    long_description: Callable[[], str] | None = None
    """Makes the beginning of --help, in the place of the summary."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=False, formatter_class=_Paragraphs, **kwargs)

    def parse_args(self, *args: Any, **kwargs: Any) -> Any:
        """As argparse does it, but what nobody knows is refused by the subcommand whose arguments it stood among."""
        found, unknown = self.parse_known_args(*args, **kwargs)
        if unknown:
            chosen = getattr(found, "parser", self)
            chosen.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def format_help(self) -> str:
        """The whole help."""
        if self.long_description is not None:
            self.description = self.long_description()
        return super().format_help()


def add_command(group: Subparsers, name: str, handler: Handler, summary: str) -> Parser:
    """A command with --json, whose help begins with ``summary``."""
    parser: Parser = group.add_parser(name, help=summary, description=summary)
    # Suppressed: a subcommand's default must not overwrite what stood before it (`runs --json show R`).
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON document")
    parser.set_defaults(handler=handler, parser=parser)
    return parser


def add_run_options(parser: Parser) -> None:
    """--run and --harvest of the commands that look at a harvest."""
    parser.add_argument(
        "--run", metavar="RUN", help="run id, or what it was harvested from; may be left out if only one"
    )
    parser.add_argument("--harvest", metavar="ID", help="harvest id (default: the newest finished one)")


def positive_int(text: str) -> int:
    """1, 2, 3, ..."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def non_negative_int(text: str) -> int:
    """0, 1, 2, ..."""
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is below zero")
    return value


def finite_float(text: str) -> float:
    """A number, neither infinite nor NaN."""
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not finite")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    value = finite_float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def positive_float(text: str) -> float:
    """A number above 0."""
    value = finite_float(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return value


def batches(text: str) -> int | None:
    """A number of batches, or "all" (None)."""
    return None if text == "all" else positive_int(text)


for _type, _name in (
    (positive_int, "positive integer"),
    (non_negative_int, "non-negative integer"),
    (finite_float, "number"),
    (share, "share"),
    (positive_float, "positive number"),
    (batches, "N|all"),
):
    _type.__name__ = _name  # argparse says "invalid <name> value: 'x'"
