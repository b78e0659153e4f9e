"""Open a run's harvest below SPD_OUT_DIR."""

from __future__ import annotations

from pathlib import Path

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK
from spd_tools.settings import Settings
from spd_tools.store.columns import unreadable
from spd_tools.store.harvest import Harvest
from spd_tools.store.inventory import HOW_TO_HARVEST
from spd_tools.store.manifest import MANIFEST, read_manifest
from spd_tools.wording import plural

__all__ = ["Harvest", "open_harvest", "which_of_several"]


def open_harvest(run_id: str, harvest_id: str | None = None) -> Harvest:
    """Open a finished harvest of a run: the one named, or the one finished last.

    Raises:
        SpdToolsError: for an unknown run or harvest (naming those that exist), or one that cannot be read.
    """
    root = Settings.from_environment().harvests_dir
    # Names are looked up among the folders that exist, so none leads elsewhere.
    runs = _folders(root)
    if run_id not in runs:
        known = f"harvested runs: {', '.join(runs)}" if runs else "nothing has been harvested yet"
        raise SpdToolsError(f"No run {run_id!r} has been harvested ({known}); {HOW_TO_HARVEST}.")
    harvests = _folders(root / run_id)
    finished = [name for name in harvests if (root / run_id / name / MANIFEST).is_file()]
    if harvest_id is None:
        if not finished:
            raise SpdToolsError(
                f"Run {run_id} has no finished harvest, only unfinished ones ({', '.join(harvests) or 'none left'}); "
                "let one finish, or merge it."
            )
        harvest_id = max(finished, key=lambda name: ((root / run_id / name / MANIFEST).stat().st_mtime_ns, name))
    elif harvest_id not in finished:
        state = "is unfinished" if harvest_id in harvests else "does not exist"
        raise SpdToolsError(
            f"Harvest {harvest_id!r} of run {run_id} {state}; the finished ones are: {', '.join(finished) or 'none'}."
        )
    harvest = Harvest.open(root / run_id / harvest_id)
    if (harvest.run_id, harvest.harvest_id) != (run_id, harvest_id):
        raise unreadable(
            harvest.folder / MANIFEST, f"it belongs to harvest {harvest.harvest_id} of run {harvest.run_id}"
        )
    return harvest


def which_of_several(harvest: Harvest) -> str | None:
    """What to say where nobody named a harvest and this one was taken, as the newest; None where it is the only one.

    A run that was harvested once more, on less, would otherwise be looked at with fewer tokens without a word. Harvests
    that cannot be read are not counted.
    """
    others: list[int] = []
    for name in _folders(harvest.folder.parent):
        folder = harvest.folder.parent / name
        if name == harvest.harvest_id or not (folder / MANIFEST).is_file():
            continue
        try:
            others.append(read_manifest(folder).counts.n_tokens)
        except SpdToolsError:
            continue
    if not others:
        return None
    theirs = f"the other has {others[0]:,}" if len(others) == 1 else f"the largest of the others has {max(others):,}"
    return (
        f"{len(others) + 1} harvests of {harvest.run_id}; this is {harvest.harvest_id}, the newest "
        f"({plural(harvest.n_tokens, 'token')}; {theirs})"
    )


def _folders(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and TEMPORARY_MARK not in path.name)
