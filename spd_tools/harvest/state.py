"""A worker's progress on disk: immutable segments, and a small state file per attempt that says which of them count.

shards/<rank>-of-<world size>/state-<attempt>.json. An attempt writes no other attempt's state, so a process that was
given up for dead can never spoil its successor's work: it notices at its next write and stops.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import TEMPORARY_MARK, write_json
from spd_tools.store.schema import SCHEMA_VERSION

_STATE = re.compile(r"state-(\d{6})\.json")


class SegmentInfo(BaseModel):
    """A finished segment."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    bytes: int


class WorkerState(BaseModel):
    """What a worker has done so far."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    harvest_id: str
    rank: int
    world_size: int
    attempt: int
    next_batch: int
    """First global batch of this rank that is in no segment."""
    segments: list[SegmentInfo]
    finished: bool = False


class SupersededError(SpdToolsError):
    """Another process has taken over this rank."""


def shard_folder(harvest: Path, rank: int, world_size: int) -> Path:
    """Folder of one rank's segments."""
    return harvest / "shards" / f"{rank:05d}-of-{world_size:05d}"


def latest_attempt(folder: Path) -> int | None:
    """Highest attempt with a state file."""
    found = [int(match[1]) for path in folder.glob("state-*.json") if (match := _STATE.fullmatch(path.name))]
    return max(found, default=None)


def load_state(folder: Path) -> WorkerState | None:
    """State of the latest attempt, its segments checked for size; None when there is none.

    Raises:
        SpdToolsError: when the state or a segment is torn, missing or foreign.
    """
    attempt = latest_attempt(folder)
    if attempt is None:
        return None
    path = folder / f"state-{attempt:06d}.json"
    try:
        state = WorkerState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise SpdToolsError(
            f"{path} is no readable worker state; remove the harvest with `spd-tools runs remove` and harvest again."
        ) from error
    if state.schema_version != SCHEMA_VERSION:
        raise SpdToolsError(
            f"{path} was written by schema version {state.schema_version}, this is version {SCHEMA_VERSION}; "
            "finish the harvest with the version of spd-tools that began it."
        )
    for segment in state.segments:
        piece = folder / segment.name
        if not piece.is_file() or piece.stat().st_size != segment.bytes:
            raise SpdToolsError(
                f"{piece} is missing or torn; remove the harvest with `spd-tools runs remove` and harvest again."
            )
    return state


class StateFile:
    """The state of this process's attempt."""

    def __init__(self, folder: Path, state: WorkerState) -> None:
        self.folder = folder
        self.state = state

    @classmethod
    def begin(cls, folder: Path, harvest_id: str, rank: int, world_size: int) -> StateFile:
        """Start a new attempt that goes on where the latest one stopped.

        Raises:
            SpdToolsError: when what lies there is damaged or belongs to another harvest.
        """
        folder.mkdir(parents=True, exist_ok=True)
        last = load_state(folder)
        if last is None:
            last = WorkerState(
                harvest_id=harvest_id, rank=rank, world_size=world_size, attempt=0, next_batch=rank, segments=[]
            )
        if (last.harvest_id, last.rank, last.world_size) != (harvest_id, rank, world_size):
            raise SpdToolsError(
                f"{folder} belongs to rank {last.rank} of {last.world_size} of harvest {last.harvest_id}, not to "
                f"rank {rank} of {world_size} of {harvest_id}; remove it and harvest again."
            )
        file = cls(folder, last.model_copy(update={"attempt": last.attempt + 1}))
        file._write()
        file._sweep()
        return file

    def segment_path(self) -> Path:
        """Name of the next segment."""
        return self.folder / f"segment-{self.state.attempt:06d}-{len(self.state.segments):06d}.sections"

    def check_current(self) -> None:
        """Stop when another process has begun a later attempt.

        Raises:
            SupersededError: then.
        """
        if (latest_attempt(self.folder) or 0) > self.state.attempt:
            raise SupersededError(
                f"Rank {self.state.rank} of harvest {self.state.harvest_id} was taken over by a later process; "
                "this one stops."
            )

    def advance(self, *, next_batch: int, segment: Path | None, finished: bool) -> None:
        """Make a segment and the progress that it stands for count."""
        self.check_current()
        segments = list(self.state.segments)
        if segment is not None:
            segments.append(SegmentInfo(name=segment.name, bytes=segment.stat().st_size))
        self.state = self.state.model_copy(
            update={"next_batch": next_batch, "segments": segments, "finished": finished}
        )
        self._write()

    def _write(self) -> None:
        path = self.folder / f"state-{self.state.attempt:06d}.json"
        write_json(path, self.state.model_dump(mode="json"))

    def _sweep(self) -> None:
        """Remove what earlier attempts left and no longer counts."""
        keep = {segment.name for segment in self.state.segments} | {f"state-{self.state.attempt:06d}.json"}
        for path in self.folder.iterdir():
            ours = path.name.startswith(("segment-", "state-")) or TEMPORARY_MARK in path.name
            if ours and path.name not in keep:
                path.unlink(missing_ok=True)
