"""Which harvest a tool looks at, opened once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

from mcp_server.answers import add_remark
from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK
from spd_tools.settings import Settings
from spd_tools.store.harvest import Harvest
from spd_tools.store.inventory import HOW_TO_HARVEST, find_run
from spd_tools.store.manifest import MANIFEST
from spd_tools.store.reader import open_harvest, which_of_several

KEPT_OPEN = 8
"""Harvests: each is a handful of mapped files, counts and a tokenizer."""
_LISTED = 12

_State = tuple[tuple[str, int], ...]


class Runs:
    """Harvests below SPD_OUT_DIR by the names that callers use. Many threads may ask at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: OrderedDict[tuple[Path, str], tuple[_State, Harvest, str | None]] = OrderedDict()

    def harvest(self, run: str, harvest_id: str = "") -> Harvest:
        """The harvest asked for; without a run the only one's, without an id the newest finished one.

        Where that was one of several, the answer that is being made says so.

        Raises:
            SpdToolsError: when there is none of that name, several to choose from, or it cannot be read.
        """
        settings = Settings.from_environment()
        run_id = _run_id(settings, run)
        place = (settings.harvests_dir / run_id, harvest_id)
        with self._lock:
            state = tuple(sorted(_finished(place[0])))
            known = self._open.get(place)
            if known is None or known[0] != state:
                opened = open_harvest(run_id, harvest_id or None)
                known = (state, opened, None if harvest_id else which_of_several(opened))
                self._open[place] = known
            self._open.move_to_end(place)
            while len(self._open) > KEPT_OPEN:
                self._open.popitem(last=False)
        _, found, which = known
        if which is not None:
            add_remark(f"{which}: the parameter harvest chooses.")
        return found


def _run_id(settings: Settings, run: str) -> str:
    known = sorted(_folders(settings.harvests_dir))
    if not known:
        raise SpdToolsError(f"There is no harvest in {settings.harvests_dir}; call harvest_start, or {HOW_TO_HARVEST}.")
    if run in known:
        return run
    if not run:
        if len(known) == 1:
            return known[0]
        names = ", ".join(known[:_LISTED]) + (f" and {len(known) - _LISTED} more" if len(known) > _LISTED else "")
        raise SpdToolsError(f"There are several runs ({names}); name one in the parameter run.")
    try:
        return find_run(settings, run)
    except SpdToolsError:
        raise
    except (OSError, RuntimeError, ValueError):
        # What is no run's name is looked at as a path, and not every text is one.
        raise SpdToolsError(f"No run {run!r} has been harvested; the tool runs lists those that were.") from None


def _folders(folder: Path) -> Iterator[str]:
    if folder.is_dir():
        yield from (path.name for path in folder.iterdir() if path.is_dir() and TEMPORARY_MARK not in path.name)


def _finished(folder: Path) -> Iterator[tuple[str, int]]:
    """Name of each finished harvest of a run, and when its manifest was written."""
    for name in _folders(folder):
        manifest = folder / name / MANIFEST
        if manifest.is_file():
            yield name, manifest.stat().st_mtime_ns
