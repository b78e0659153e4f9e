"""The harvest that --run and --harvest (or RUN) mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spd_tools.cli.output import note
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.store.harvest import Harvest


def open_chosen(args: argparse.Namespace) -> Harvest:
    """Open it; where it is the newest of several and nobody chose it, a remark says so.

    Raises:
        SpdToolsError: when there is none, or several to choose from.
    """
    from spd_tools.settings import Settings
    from spd_tools.store.inventory import find_run
    from spd_tools.store.reader import open_harvest, which_of_several

    harvest = open_harvest(find_run(Settings.from_environment(), args.run), args.harvest)
    if args.harvest is None and (which := which_of_several(harvest)) is not None:
        note(f"{which}: --harvest chooses.")
    return harvest


def harvest_named(run_id: str, harvest_id: str) -> str:
    """Options that name a harvest: it has to be said where another one of the run finished later."""
    from spd_tools.store.reader import open_harvest

    try:
        is_newest = open_harvest(run_id).harvest_id == harvest_id
    except SpdToolsError:  # another one, which cannot be read
        is_newest = False
    return f"--run {run_id}" if is_newest else f"--run {run_id} --harvest {harvest_id}"
