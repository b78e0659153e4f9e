"""What the disk check says beside what real segments and stores take."""

from __future__ import annotations

import numpy as np
import pytest
from harness import MadeUp, plan_of, rows_of
from hypothesis import given
from hypothesis import strategies as st
from reference import Input

from spd_tools.harvest import worker
from spd_tools.harvest.buffer import Sample
from spd_tools.harvest.disk import MOST_OVER, DiskEstimate
from spd_tools.harvest.merge import merge_shards
from spd_tools.harvest.worker import work

KINDS = "causal_importance", "component_activation"
ROWS, SEQ, VOCAB, BATCH = 96, 16, 200, 4


def made_up(density, n_components, *, together=1, **choices):
    """Components of about one density (it varies by a factor of a hundred), which fire ``together`` at a time."""
    rng = np.random.default_rng(1)
    rates = density * 10 ** rng.uniform(-1, 1, n_components // together)
    fires = np.repeat(rng.random((ROWS, SEQ, n_components // together)) < rates, together, axis=2)
    importance = np.where(fires, rng.uniform(0.1, 1, fires.shape), 0).astype(np.float32)
    activation = np.where(fires, rng.normal(0, 2, fires.shape), 0).astype(np.float32)
    probabilities = rng.dirichlet(np.full(VOCAB, 0.02), (ROWS, SEQ)).astype(np.float32)
    tokens = (VOCAB * rng.random((ROWS, SEQ)) ** 3).astype(np.uint16)
    usual = {"log_share": 0.3, "n_uniform": 4, "n_top": 6, "window": 5, "p_min": 0.01, "lengths": [SEQ] * ROWS}
    arguments = usual | {"excluded": None, "gating": KINDS[0], "ranking": KINDS[1]} | choices
    return Input(
        tokens=tokens,
        activations=dict(zip(KINDS, (importance, activation), strict=True)),
        probabilities=probabilities,
        **arguments,
    )


def of_files(paths):
    return sum(path.stat().st_size for path in paths if path.is_file())


def said_and_taken(monkeypatch, source, *, world_size=1, **how):
    """(bytes that the first and second checks of each rank said, bytes of all segments and of the store)"""
    said = []
    check = worker._check_disk
    monkeypatch.setattr(
        worker, "_check_disk", lambda plan, needed, warn: (said.append(needed), check(plan, needed, warn=warn))
    )
    layers = [("layer", source.n_components)]
    plan = plan_of(source, layers, BATCH, world_size)
    plan.save()
    rows = rows_of(source, plan)
    for rank in range(world_size):
        work(plan, rank, rows, MadeUp(source, layers), **how)
    segments = of_files(plan.folder.glob("shards/*/segment-*"))
    merge_shards(plan, rows, memory_bytes=1 << 24)
    return said, segments + of_files(plan.folder.rglob("*"))


DENSITIES = [
    pytest.param(0.05, 60, 1, id="dense"),
    pytest.param(0.004, 500, 1, id="sparse"),
    pytest.param(0.0002, 2000, 1, id="very sparse"),
    pytest.param(0.001, 1000, 20, id="sparse, in groups"),
]


@pytest.mark.parametrize(("density", "n_components", "together"), DENSITIES)
@pytest.mark.parametrize("memory_bytes", [1 << 30, 1 << 17])
def test_nothing_takes_more_than_was_said_and_not_much_less(monkeypatch, density, n_components, together, memory_bytes):
    """With a segment at the end, and with one for every few batches."""
    source = made_up(density, n_components, together=together)
    said, taken = said_and_taken(monkeypatch, source, memory_bytes=memory_bytes)
    assert len(said) == 2
    assert min(said) >= taken
    assert max(said) <= MOST_OVER * taken


@pytest.mark.parametrize("how", [{"checkpoint_seconds": 0.0}, {"world_size": 3}])
def test_checkpoints_and_ranks_have_segments_too(monkeypatch, how):
    source = made_up(0.0002, 1000)
    said, taken = said_and_taken(monkeypatch, source, memory_bytes=1 << 30, **how)
    assert said[1] >= taken  # the second batch says how often a checkpoint is due
    assert max(said) <= MOST_OVER * taken


def test_a_disk_that_may_be_too_small_is_no_reason_to_stop(monkeypatch, caplog):
    """The bound lies above what is taken: whoever has room for less is told, once, and goes on."""
    source = made_up(0.004, 200)
    _, taken = said_and_taken(monkeypatch, source, memory_bytes=1 << 30)
    plan = plan_of(source, [("layer", source.n_components)], BATCH, 2)
    plan.save()
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": taken})())
    work(plan, 0, rows_of(source, plan), MadeUp(source, [("layer", source.n_components)]), memory_bytes=1 << 30)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--resume goes on" in caplog.text


def sample(firing_counts, n_positions=1000, row_counts=None):
    counts = np.asarray(firing_counts)
    return Sample(counts, np.minimum(counts, 1) if row_counts is None else row_counts, n_positions, 0, 0, 0, 64_000)


def estimate(found, *, n_batches=100, world_size=1):
    source = made_up(0.0, len(found.firing_counts))
    plan = plan_of(source, [("layer", source.n_components)], BATCH, world_size)
    plan = plan.model_copy(update={"config": plan.config.model_copy(update={"n_batches": n_batches})})
    return DiskEstimate(plan, n_batches * BATCH, found)


def test_a_segment_is_written_where_memory_is_full_a_checkpoint_due_or_a_rank_done():
    nothing = sample([0] * 10, n_positions=BATCH * SEQ)
    assert estimate(nothing).n_segments(1 << 40, 0, 180) == 1
    assert estimate(nothing, world_size=7).n_segments(1 << 40, 0, 180) == 7
    assert estimate(nothing).n_segments(1 << 40, 18, 180) == 10 + 1
    assert 20 <= estimate(nothing).n_segments(320_000, 0, 180) <= 25  # 6.4 MB, and some examples
    assert estimate(nothing).n_segments(1, 1000, 180) == 100  # never more than batches


def test_what_was_not_seen_counts_for_little_where_all_that_fires_was_seen_often():
    often, once = sample([50] * 10 + [0] * 1000, row_counts=np.asarray([20] * 10 + [0] * 1000)), sample([1] * 1010)
    assert estimate(often).bytes(1) < estimate(once).bytes(1) / 2
    clustered = sample([50] * 10 + [0] * 1000)  # each in one row: there may be as many more of them in every row
    assert estimate(clustered).bytes(1) > estimate(often).bytes(1) * 1.5


@given(st.integers(1, 60), st.integers(1, 60))
def test_more_segments_never_take_less(a, b):
    found = estimate(sample(np.arange(40) % 7, n_positions=500))
    fewer, more = sorted((a, b))
    assert found.bytes(fewer) <= found.bytes(more)
