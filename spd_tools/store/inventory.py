"""Which harvests lie below SPD_OUT_DIR: to list, to find by name and to remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK
from spd_tools.settings import Settings
from spd_tools.store.folders import remove_folder
from spd_tools.store.manifest import MANIFEST, read_manifest
from spd_tools.store.schema import DecompositionInfo, Manifest
from spd_tools.suggest import did_you_mean

HOW_TO_HARVEST = (
    "make one with `spd-tools harvest RUN --n-batches N --batch-size B`, or the demo's with `spd-tools demo`"
)
PLAN = "plan.json"
"""What an unfinished harvest is going to be."""

State = Literal["finished", "unfinished", "unreadable"]


@dataclass(frozen=True)
class StoredHarvest:
    """A harvest's folder."""

    run_id: str
    harvest_id: str
    folder: Path
    state: State
    """unreadable: the manifest is damaged or of another schema version."""
    problem: str | None
    """Why it is unreadable."""
    bytes: int
    modified: float
    """When the manifest (of an unfinished harvest: the newest file) was written: seconds since the epoch."""
    manifest: Manifest | None
    """None unless finished."""


def stored_harvests(settings: Settings) -> list[StoredHarvest]:
    """All harvests, by run id, newest first."""
    found = [_stored(run.name, folder) for run in _folders(settings.harvests_dir) for folder in _folders(run)]
    return sorted(found, key=lambda harvest: (harvest.run_id, -harvest.modified, harvest.harvest_id))


def find_run(settings: Settings, name: str | None) -> str:
    """Run id of what the user calls a run: its id, or the reference it was harvested from; None: the only one.

    Raises:
        SpdToolsError: when no harvested run or more than one goes by the name.
    """
    root = settings.harvests_dir
    known = [run.name for run in _folders(root)]
    if not known:
        raise SpdToolsError(f"There is no harvest in {root}; {HOW_TO_HARVEST}.")
    if name is None:
        if len(known) > 1:
            raise SpdToolsError(f"There are several runs ({', '.join(known)}); choose one with --run.")
        return known[0]
    if name in known:
        return name
    named = sorted({run.name for run in _folders(root) for folder in _folders(run) if _goes_by(folder, name)})
    if not named:
        raise SpdToolsError(f"No run {name!r} has been harvested; {did_you_mean(name, known, 'harvested runs')}")
    if len(named) > 1:
        raise SpdToolsError(f"{name!r} was harvested as several runs; name one of {', '.join(named)}.")
    return named[0]


def harvests_of(settings: Settings, run: str, harvest_id: str | None = None) -> list[StoredHarvest]:
    """One run's harvests, finished or not, newest first; only the one with that id when it is given.

    Raises:
        SpdToolsError: when there is none.
    """
    run_id = find_run(settings, run)
    of_run = [harvest for harvest in stored_harvests(settings) if harvest.run_id == run_id]
    chosen = [harvest for harvest in of_run if harvest_id in (None, harvest.harvest_id)]
    if not chosen:
        others = ", ".join(harvest.harvest_id for harvest in of_run) or "none"
        asked = "a harvest" if harvest_id is None else f"harvest {harvest_id!r}"
        raise SpdToolsError(f"Run {run_id} does not have {asked}; its harvests: {others}.")
    return chosen


def unfinished_harvest(settings: Settings, run: str, harvest_id: str | None = None) -> Path:
    """Folder of the run's only unfinished harvest, or of the one with that id.

    Args:
        settings: where to look.
        run: run id or reference.
        harvest_id: chooses among several.

    Raises:
        SpdToolsError: when there is none or more than one (naming them).
    """
    unfinished = [harvest for harvest in harvests_of(settings, run) if harvest.state == "unfinished"]
    found = [harvest for harvest in unfinished if harvest_id in (None, harvest.harvest_id)]
    names = ", ".join(harvest.harvest_id for harvest in unfinished) or "none"
    if not found:
        which = "harvest" if harvest_id is None else f"harvest {harvest_id!r} (unfinished ones: {names})"
        raise SpdToolsError(f"{run} has no unfinished {which}; `spd-tools runs` lists what there is.")
    if len(found) > 1:
        raise SpdToolsError(f"{run} has {len(found)} unfinished harvests: {names}; choose one with --harvest.")
    return found[0].folder


def remove_harvests(harvests: list[StoredHarvest], settings: Settings) -> None:
    """Remove harvests, and their run's folder with its last one.

    Raises:
        SpdToolsError: when one cannot be removed.
    """
    for harvest in harvests:
        remove_folder(harvest.folder, settings.out_dir)
        if not any(harvest.folder.parent.iterdir()):
            harvest.folder.parent.rmdir()


def _stored(run_id: str, folder: Path) -> StoredHarvest:
    files = list(_files(folder))
    modified = max((when for _, when in files), default=folder.stat().st_mtime)
    manifest: Manifest | None = None
    state: State = "unfinished"
    problem: str | None = None
    if (folder / MANIFEST).is_file():
        modified = (folder / MANIFEST).stat().st_mtime
        try:
            manifest = read_manifest(folder)
            state = "finished"
        except SpdToolsError as error:
            state, problem = "unreadable", str(error)
    n_bytes = sum(size for size, _ in files)
    return StoredHarvest(run_id, folder.name, folder, state, problem, n_bytes, modified, manifest)


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and TEMPORARY_MARK not in path.name)


def _files(folder: Path) -> Iterator[tuple[int, float]]:
    """(size, time of change) of every file below a folder; a running harvest renames and removes files meanwhile."""
    for path in folder.rglob("*"):
        try:
            status = path.lstat()
        except FileNotFoundError:
            continue
        if not path.is_dir():
            yield status.st_size, status.st_mtime


def _goes_by(folder: Path, name: str) -> bool:
    reference = _reference(folder)
    path = Path(name).expanduser()
    return reference is not None and (reference == name or (path.exists() and str(path.resolve()) == reference))


def _reference(folder: Path) -> str | None:
    """What a harvest was made from; None when its manifest (unfinished: its plan) is missing or damaged."""
    # A damaged harvest must not hide the others.
    if (folder / MANIFEST).is_file():
        try:
            return read_manifest(folder).decomposition.reference
        except SpdToolsError:
            return None
    try:
        plan = json.loads((folder / PLAN).read_bytes())
        return DecompositionInfo.model_validate(plan["decomposition"]).reference
    except (OSError, ValueError, KeyError, TypeError):
        return None
