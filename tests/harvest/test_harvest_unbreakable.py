"""Killed anywhere, any number of times, the finished store has the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from harvest.harness import MadeUp, contents, harvest_made_up, plan_of, rows_of
from reference_store import LAYERS, random_input

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.merge import clean_up, merge_shards
from spd_tools.harvest.state import StateFile, SupersededError, load_state, shard_folder
from spd_tools.harvest.worker import StoppedError, work

WORLD_SIZE = 2
MADE_UP = random_input(21, rows=10, seq=8)


def harvest_everything(order: list[int]) -> None:
    """All ranks in this order, each in several segments, and the merge."""
    plan = plan_of(MADE_UP, LAYERS, batch_size=2, world_size=WORLD_SIZE)
    if (plan.folder / "manifest.json").exists():
        return clean_up(plan.folder)  # as run_harvest does
    plan.save()
    rows = rows_of(MADE_UP, plan)
    for rank in order:
        work(plan, rank, rows, MadeUp(MADE_UP, LAYERS), memory_bytes=1)
    merge_shards(plan, rows, memory_bytes=1 << 30)


def in_child(function: Callable[[], None]) -> int:
    """Run in a forked process; returns its pid."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)  # the parent's threads do not exist here
        code = 1
        try:
            function()
            code = 0
        finally:
            os._exit(code)
    return pid


def killed_at(operation: int, function: Callable[[], None]) -> None:
    """Run ``function``; SIGKILL at its n-th write, fsync or rename, before or half-way through it."""
    count = 0

    def counting(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            nonlocal count
            count += 1
            if count == operation:
                if name == "write":
                    fd, data = args
                    real(fd, data[: len(data) // 2])  # pyright: ignore[reportIndexIssue]
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args)

        return call

    for name in ("write", "fsync", "replace"):
        setattr(os, name, counting(name, getattr(os, name)))
    function()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    before = os.environ.get("SPD_OUT_DIR")
    os.environ["SPD_OUT_DIR"] = str(tmp_path_factory.mktemp("undisturbed"))
    try:
        harvest_everything([0, 1])
        folder = plan_of(MADE_UP, LAYERS, 2, WORLD_SIZE).folder
        return contents(folder) | {"manifest.json": json.loads((folder / "manifest.json").read_text())}
    finally:
        if before is not None:
            os.environ["SPD_OUT_DIR"] = before


def finished() -> dict[str, object]:
    folder = plan_of(MADE_UP, LAYERS, 2, WORLD_SIZE).folder
    return contents(folder) | {"manifest.json": json.loads((folder / "manifest.json").read_text())}


@pytest.mark.long
def test_killed_at_every_write_fsync_and_rename(undisturbed, tmp_path, monkeypatch):
    operation = 0
    while True:
        operation += 1
        monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / str(operation)))
        order = [0, 1] if operation % 2 else [1, 0]
        pid = in_child(lambda o=order, n=operation: killed_at(n, lambda: harvest_everything(o)))
        _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        _, status = os.waitpid(in_child(lambda o=order: harvest_everything(o[::-1])), 0)
        assert status == 0
        assert finished() == undisturbed, f"killed at operation {operation}"
    assert operation > 60


@pytest.mark.long
def test_killed_at_twenty_random_moments(undisturbed):
    start = time.monotonic()
    os.waitpid(in_child(lambda: harvest_everything([0, 1])), 0)
    duration = time.monotonic() - start
    plan = plan_of(MADE_UP, LAYERS, 2, WORLD_SIZE)
    generator = random.Random(0)
    kills = 0
    while kills < 20:
        for path in [plan.folder / "manifest.json"] if (plan.folder / "manifest.json").exists() else []:
            path.unlink()  # begin again: a finished harvest cannot be killed
        pid = in_child(lambda: harvest_everything(generator.sample([0, 1], 2)))
        watch = os.pidfd_open(pid)
        ended = select.select([watch], [], [], generator.uniform(0, duration))[0]
        os.close(watch)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        kills += os.WIFSIGNALED(status)
    _, status = os.waitpid(in_child(lambda: harvest_everything([1, 0])), 0)
    assert status == 0
    assert finished() == undisturbed


def test_a_superseded_worker_stops_at_its_next_write():
    plan = plan_of(MADE_UP, LAYERS, 2)
    folder = shard_folder(plan.folder, 0, 1)
    old = StateFile.begin(folder, plan.harvest_id, 0, 1)
    StateFile.begin(folder, plan.harvest_id, 0, 1)
    with pytest.raises(SupersededError, match="taken over"):
        old.advance(next_batch=1, segment=None, finished=True)
    state = load_state(folder)
    assert state is not None
    assert (state.attempt, state.finished) == (2, False)


def test_a_superseded_worker_cannot_spoil_its_successor(undisturbed):
    """The old process goes on after the new one began; the store is none the worse."""
    plan = plan_of(MADE_UP, LAYERS, 2, WORLD_SIZE)
    plan.save()
    rows = rows_of(MADE_UP, plan)
    folder = shard_folder(plan.folder, 0, WORLD_SIZE)

    class Overtaken(MadeUp):
        def __call__(self, batch, clock):
            if batch.rows[0] > 0:
                StateFile.begin(folder, plan.harvest_id, 0, WORLD_SIZE)
            return super().__call__(batch, clock)

    with pytest.raises(SupersededError):
        work(plan, 0, rows, Overtaken(MADE_UP, LAYERS), memory_bytes=1)
    harvest_everything([0, 1])
    assert finished() == undisturbed


def test_sigterm_saves_and_resumes(undisturbed):
    plan = plan_of(MADE_UP, LAYERS, 2, WORLD_SIZE)
    plan.save()
    seen = []

    def after_first(tokens, index):
        seen.append(index)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(StoppedError, match="--resume"):
        work(plan, 0, rows_of(MADE_UP, plan), MadeUp(MADE_UP, LAYERS), memory_bytes=1 << 30, on_batch=after_first)
    state = load_state(shard_folder(plan.folder, 0, WORLD_SIZE))
    assert state is not None
    assert (state.next_batch, len(state.segments)) == (2, 1)
    harvest_everything([0, 1])
    assert finished() == undisturbed


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def worked_plan(world_size: int = WORLD_SIZE):
    plan = plan_of(MADE_UP, LAYERS, 2, world_size)
    plan.save()
    for rank in range(world_size):
        work(plan, rank, rows_of(MADE_UP, plan), MadeUp(MADE_UP, LAYERS), memory_bytes=1 << 30)
    return plan


def state_file(plan, rank: int) -> Path:
    return next(shard_folder(plan.folder, rank, plan.config.world_size).glob("state-*.json"))


def refused(plan, match: str) -> None:
    with pytest.raises(SpdToolsError, match=match):
        merge_shards(plan, rows_of(MADE_UP, plan), memory_bytes=1 << 30)
    assert not (plan.folder / "manifest.json").exists()


def test_merge_names_missing_ranks():
    plan = worked_plan()
    state_file(plan, 1).unlink()
    refused(plan, r"rank\(s\) 1 of 2 have not finished")


def test_merge_names_doubled_ranks():
    plan = worked_plan()
    shard_folder(plan.folder, 0, WORLD_SIZE).with_name("00003-of-00004").mkdir()
    refused(plan, "rank 3 of 4")


def test_merge_names_ranks_of_another_harvest():
    plan = worked_plan()
    edit(state_file(plan, 0), harvest_id="another")
    refused(plan, "harvest another")


def test_merge_refuses_a_torn_segment():
    plan = worked_plan()
    segment = next(shard_folder(plan.folder, 0, WORLD_SIZE).glob("segment-*"))
    segment.write_bytes(segment.read_bytes()[:-5])
    refused(plan, "missing or torn")


def test_merge_refuses_a_missing_segment():
    plan = worked_plan()
    next(shard_folder(plan.folder, 0, WORLD_SIZE).glob("segment-*")).unlink()
    refused(plan, "missing or torn")


def test_merge_refuses_a_foreign_file_of_the_right_size():
    plan = worked_plan()
    segment = next(shard_folder(plan.folder, 0, WORLD_SIZE).glob("segment-*"))
    segment.write_bytes(b"x" * segment.stat().st_size)
    refused(plan, "no segment of a harvest")


def test_a_future_state_is_refused():
    plan = worked_plan()
    edit(state_file(plan, 0), schema_version=2)
    refused(plan, "schema version 2")


def test_a_full_disk_leaves_nothing_that_is_taken_for_whole(monkeypatch, undisturbed):
    real = os.write
    room = 3000

    def full(fd, data):
        nonlocal room
        room -= len(data)
        if room < 0:
            raise OSError(28, "No space left on device")
        return real(fd, data)

    plan = plan_of(MADE_UP, LAYERS, 2, WORLD_SIZE)
    plan.save()
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SpdToolsError, match="No space left on device; free space"):
        work(plan, 0, rows_of(MADE_UP, plan), MadeUp(MADE_UP, LAYERS), memory_bytes=1)
    monkeypatch.setattr(os, "write", real)
    harvest_everything([0, 1])
    assert finished() == undisturbed


def test_a_disk_that_is_too_small_is_told_before_it_is_full(monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    plan = plan_of(MADE_UP, LAYERS, 2)
    plan.save()
    with pytest.raises(SpdToolsError, match=r"may need .* GB"):
        work(plan, 0, rows_of(MADE_UP, plan), MadeUp(MADE_UP, LAYERS), memory_bytes=1)
    assert not list(plan.folder.rglob("segment-*"))


@pytest.mark.parametrize("kind", ["causal_importance", "component_activation"])
def test_nan_activations_are_refused(kind):
    made_up = random_input(21, rows=10, seq=8)
    row, position, component = 3, 2, 13  # the component that is always on
    assert made_up.counts(row, position)
    made_up.activations[kind][row, position, component] = float("nan")
    with pytest.raises(SpdToolsError, match=r"Layer h\.1\.mlp\.c_fc has an activation that is NaN"):
        harvest_made_up(made_up, LAYERS)
