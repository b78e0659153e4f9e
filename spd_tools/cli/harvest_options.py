"""The harvest that --run and --harvest (or RUN) mean."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spd_tools.store.harvest import Harvest


def open_chosen(args: argparse.Namespace) -> Harvest:
    """Open it.

    Raises:
        SpdToolsError: when there is none, or several to choose from.
    """
    from spd_tools.settings import Settings
    from spd_tools.store.inventory import find_run
    from spd_tools.store.reader import open_harvest

    return open_harvest(find_run(Settings.from_environment(), args.run), args.harvest)
