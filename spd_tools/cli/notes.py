"""What commands that read or write annotations share."""

from __future__ import annotations

import argparse
import getpass
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import Handler, Parser, Subparsers, add_command, add_run_options
from spd_tools.errors import SpdToolsError
from spd_tools.settings import AUTHOR_VARIABLE, author_from_environment

if TYPE_CHECKING:
    from spd_tools.annotations import Annotations
    from spd_tools.store.harvest import Harvest


def add_noting(group: Subparsers, name: str, handler: Handler, summary: str, *, author: bool = False) -> Parser:
    """A command on the annotations of a run."""
    parser = add_command(group, name, handler, summary)
    add_run_options(parser)
    if author:
        add_author(parser)
    return parser


def add_writing(group: Subparsers, name: str, handler: Handler, summary: str) -> Parser:
    """A command that adds to them, once however often it is repeated with one --idempotency-key."""
    parser = add_noting(group, name, handler, summary, author=True)
    parser.add_argument(
        "--idempotency-key", metavar="NAME", help="any name of this write: repeated with it, it is done once"
    )
    return parser


def add_author(parser: Parser) -> None:
    """--author of the commands that write down who did it."""
    parser.add_argument(
        "--author", metavar="NAME", help=f"who does this (default: ${AUTHOR_VARIABLE}, else the user's name)"
    )


def author_of(args: argparse.Namespace) -> str:
    """Who does it: --author, else who the environment says, else the user.

    Raises:
        SpdToolsError: when the user has no name.
    """
    try:
        return args.author or author_from_environment() or getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an entry in the password file
        raise SpdToolsError(f"Your user has no name here; say --author NAME or set {AUTHOR_VARIABLE}.") from None


def option(parser: Any, name: str, **how: Any) -> None:
    """An option without a default here: what it fills in knows its own."""
    parser.add_argument(name, default=argparse.SUPPRESS, **how)


def notes_of(args: argparse.Namespace) -> tuple[Harvest, Annotations]:
    """The chosen harvest and the annotations of its run.

    Raises:
        SpdToolsError: when there is no such harvest, or the annotations are about another decomposition.
    """
    from spd_tools.annotations import Annotations
    from spd_tools.cli.harvest_options import open_chosen

    harvest = open_chosen(args)
    return harvest, Annotations.of(harvest)
