"""The finished segments of all ranks, checked to be complete and to belong together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.sections import SectionReader
from spd_tools.harvest.state import load_state, shard_folder

_SHARD = re.compile(r"(\d{5,})-of-(\d{5,})")


@dataclass(frozen=True)
class Gathered:
    """One sparse quantity of some components, from all segments, not yet added up."""

    starts: NDArray[np.int64]
    """[segments, components + 1] into the arrays below."""
    arrays: list[NDArray[Any]]


class Segments:
    """All segments of a harvest."""

    def __init__(self, readers: list[SectionReader]) -> None:
        self.readers = readers

    def total(self, name: str) -> NDArray[np.int64]:
        """Element-wise sum of a section over all segments."""
        total = np.zeros(0, np.int64)
        for reader in self.readers:
            piece = reader.read(name)
            total = piece.astype(np.int64) if not len(total) else total + piece
        return total

    def joined(self, name: str) -> NDArray[Any]:
        """A section of all segments, one after the other."""
        return np.concatenate([reader.read(name) for reader in self.readers])

    def lengths(self, name: str, n_components: int) -> NDArray[np.int64]:
        """[C] entries of a sparse quantity in all segments."""
        total = np.zeros(n_components, np.int64)
        for reader in self.readers:
            total += np.diff(reader.read(f"{name}/indptr"))
        return total

    def gather(self, name: str, fields: list[str], c0: int, c1: int, width: int = 1) -> Gathered:
        """Entries of components c0..c1-1; ``width`` numbers of the last field belong to one entry."""
        starts = np.empty((len(self.readers), c1 - c0 + 1), np.int64)
        pieces: list[list[NDArray[Any]]] = [[] for _ in fields]
        base = 0
        for i, reader in enumerate(self.readers):
            indptr = reader.read(f"{name}/indptr", c0, c1 + 1)
            starts[i] = indptr - indptr[0] + base
            base = int(starts[i, -1])
            for field, found in zip(fields, pieces, strict=True):
                scale = width if field == fields[-1] else 1
                found.append(reader.read(f"{name}/{field}", int(indptr[0]) * scale, int(indptr[-1]) * scale))
        return Gathered(starts, [np.concatenate(found) for found in pieces])


def open_segments(folder: Path, plan: HarvestPlan) -> Segments:
    """Open the segments of every rank.

    Raises:
        SpdToolsError: naming the ranks, when some are missing, unfinished, doubled or of another harvest, or when a
            segment is torn.
    """
    world_size = plan.config.world_size
    found = {
        tuple(map(int, match.groups())) for path in folder.glob("shards/*") if (match := _SHARD.fullmatch(path.name))
    }
    foreign = sorted(pair for pair in found if pair[1] != world_size or pair[0] >= world_size)
    if foreign:
        names = ", ".join(f"rank {rank} of {size}" for rank, size in foreign)
        raise SpdToolsError(
            f"{folder}/shards holds {names}, but this harvest has ranks 0 to {world_size - 1} of {world_size}; "
            "remove what does not belong there."
        )
    readers: list[SectionReader] = []
    missing: list[int] = []
    for rank in range(world_size):
        shard = shard_folder(folder, rank, world_size)
        state = load_state(shard)
        if state is None or not state.finished:
            missing.append(rank)
            continue
        if (state.harvest_id, state.rank, state.world_size) != (plan.harvest_id, rank, world_size):
            raise SpdToolsError(
                f"{shard} says that it is rank {state.rank} of {state.world_size} of harvest {state.harvest_id}, not "
                f"rank {rank} of {world_size} of {plan.harvest_id}; remove it and run that rank again."
            )
        readers += [SectionReader(shard / segment.name) for segment in state.segments]
    if missing:
        names = ", ".join(map(str, missing))
        raise SpdToolsError(
            f"Harvest {plan.harvest_id} of {plan.decomposition.run_id} is unfinished: rank(s) {names} of {world_size} "
            "have not finished; run them with --resume, then merge."
        )
    return Segments(readers)
