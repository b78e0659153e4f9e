"""`doctor` and `demo`."""

from __future__ import annotations

import argparse

from spd_tools.cli.arguments import Subparsers, add_command
from spd_tools.cli.output import note, print_json, show
from spd_tools.errors import SpdToolsError


def add_commands(commands: Subparsers) -> None:
    """Add `doctor` and `demo`."""
    add_command(commands, "doctor", _doctor, "check Python, packages, devices, disk, extras and credentials")
    add_command(commands, "demo", _demo, "harvest the bundled demo and look at one of its components")


def _doctor(args: argparse.Namespace) -> None:
    from spd_tools.doctor import examine
    from spd_tools.settings import Settings

    checks = examine(Settings.from_environment())
    if args.json:
        print_json(checks)
    else:
        from spd_tools.render.inventory import checks_table

        show(checks_table(checks))
    problems = [check.name for check in checks if check.verdict == "problem"]
    if problems:
        raise SpdToolsError(f"Something needs mending: {', '.join(problems)}.")


def _demo(args: argparse.Namespace) -> None:
    from spd_tools.analysis.overview import overview
    from spd_tools.demo import COMPONENT, harvest_demo

    harvest = harvest_demo()
    found = overview(harvest, COMPONENT)
    if args.json:
        print_json(found)
        return
    from spd_tools.render.overview import overview_page

    show(*overview_page(found, harvest.token_texts))
    note("Other components: spd-tools search --run demo; all commands: spd-tools --help")
