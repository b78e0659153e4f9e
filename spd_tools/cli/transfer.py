"""`pack`, `unpack` and `export`: harvests that travel."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.store.archive import Packed


def add_commands(commands: Subparsers) -> None:
    """Add `pack`, `unpack` and `export`."""
    pack = add_command(commands, "pack", _pack, "write a harvest to one self-contained file")
    pack.add_argument("run", metavar="RUN")
    pack.add_argument("file", metavar="FILE", type=Path)
    pack.add_argument("--harvest", metavar="ID", help="harvest id (default: the newest finished one)")
    unpack = add_command(commands, "unpack", _unpack, "take in a harvest that `pack` wrote")
    unpack.add_argument("file", metavar="FILE", type=Path)
    export = add_command(commands, "export", _export, "write a harvest in the layout of SPD's own tools")
    export.add_argument("run", metavar="RUN")
    export.add_argument("--to", metavar="DIR", type=Path, required=True, help="folder to make")
    export.add_argument("--harvest", metavar="ID", help="harvest id (default: the newest finished one)")


def _pack(args: argparse.Namespace) -> None:
    from spd_tools.cli.harvest_options import open_chosen
    from spd_tools.store.archive import pack

    _report(args, "Packed", pack(open_chosen(args).folder, args.file))


def _unpack(args: argparse.Namespace) -> None:
    from spd_tools.settings import Settings
    from spd_tools.store.archive import unpack

    _report(args, "Unpacked", unpack(args.file, Settings.from_environment()))


def _report(args: argparse.Namespace, done: str, packed: Packed) -> None:
    from spd_tools.render.numbers import size

    if args.json:
        print_json(packed)
    else:
        note(f"{done} harvest {packed.harvest_id} of {packed.run_id} ({size(packed.bytes)}): {packed.path}")


def _export(args: argparse.Namespace) -> None:
    from spd_tools.cli.harvest_options import open_chosen
    from spd_tools.store.export import export

    harvest = open_chosen(args)
    with _progress() as advance:
        export(harvest, args.to, advance)
    if args.json:
        print_json({"run_id": harvest.run_id, "harvest_id": harvest.harvest_id, "folder": str(args.to)})
    else:
        note(f"Exported {plural(len(harvest.keys), 'component')} of {harvest.run_id}: {args.to}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr; yields what is called with (done, all)."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("components")
        yield lambda done, total: bar.update(task, completed=done, total=total)
