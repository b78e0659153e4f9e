"""`install-claude`."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.install_claude import Change, Plan


def add_commands(commands: Subparsers) -> None:
    """Add `install-claude`."""
    summary = "put the MCP server and the skills into a project or into your settings of Claude Code"
    parser = add_command(commands, "install-claude", _install, summary)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--project", metavar="DIR", type=Path, help="this project (default: the current directory)")
    where.add_argument("--user", action="store_true", help="your own settings, for all projects")
    parser.add_argument("--remove", action="store_true", help="undo what this command has put there")
    parser.add_argument("--dry-run", action="store_true", help="show what would change, and stop")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _install(args: argparse.Namespace) -> None:
    from spd_tools.install_claude import Target, carry_out, plan_install, plan_removal, server_entry

    target = Target.user(os.environ) if args.user else Target.project(args.project or Path())
    plan = plan_removal(target) if args.remove else plan_install(target, server_entry())
    _announce(args, plan)
    done = bool(plan.changes) and not args.dry_run
    if done:
        _confirm(args)
        carry_out(plan)
    if args.json:
        print_json({"changes": [_as_json(change) for change in plan.changes], "remarks": plan.remarks, "done": done})
    elif not plan.changes:
        note("Everything is there already; nothing to change.")
    elif done:
        note("Removed." if args.remove else "Done: start Claude Code there and type /investigate KEY.")


def _announce(args: argparse.Namespace, plan: Plan) -> None:
    """On stdout where it is all that is asked for, else beside the question on stderr."""
    from spd_tools.render.safe import visible

    out = sys.stdout if args.dry_run and not args.json else sys.stderr
    for change in plan.changes:
        for line in _lines(change):
            print(visible(line), file=out)
    for remark in plan.remarks:
        print(visible(remark), file=out)


def _lines(change: Change) -> list[str]:
    """A file that changes is a diff; one that appears or goes is a line, with its content if it is settings."""
    from spd_tools.install_claude import RECORD

    if change.before is None or change.after is None:
        sign, content = ("+", change.after) if change.before is None else ("-", change.before)
        assert content is not None, "a change from nothing to nothing"
        is_settings = change.path.suffix == ".json" and change.path.name != RECORD
        shown = content.decode(errors="replace").splitlines() if is_settings else []
        return [f"{sign} {change.path} ({len(content.splitlines())} lines)", *(f"{sign}   {line}" for line in shown)]
    before, after = (text.decode(errors="replace").splitlines() for text in (change.before, change.after))
    name = str(change.path)
    return list(difflib.unified_diff(before, after, name, name, lineterm="", n=1))


def _confirm(args: argparse.Namespace) -> None:
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise SpdToolsError("Nothing was changed: nobody can be asked here, so say --yes.")
    print("Change these files? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise SpdToolsError("Nothing was changed.")


def _as_json(change: Change) -> dict[str, Any]:
    action = "add" if change.before is None else "remove" if change.after is None else "change"
    return {"path": change.path, "action": action, "lines": _lines(change)}
