"""`make bench`: what a harvest costs beside the model's own forward pass. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from benchmarks import naive
from benchmarks.bench_model import HEADS, N_LAYER, SEQ, build, random_tokens
from benchmarks.reporting import fail, peak_rss_mb, report
from spd_tools.decompositions.spd.decomposition import SpdDecomposition
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.firings import MASS_UNIT_BITS, Firings
from spd_tools.harvest.live import run_batch
from spd_tools.harvest.merge import merge_shards
from spd_tools.harvest.parallel import for_each, n_threads, one_thread_each
from spd_tools.harvest.plan import HarvestPlan, make_plan
from spd_tools.harvest.rows import Batch, HarvestRows
from spd_tools.harvest.worker import SLICE_TOKENS, work
from spd_tools.store.reader import Harvest
from spd_tools.store.schema import DataInfo, HarvestConfig
from spd_tools.tokens import cached_rows

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--batches", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    scratch = Path(tempfile.mkdtemp())
    os.environ["SPD_OUT_DIR"] = str(scratch / "out")
    try:
        bench(scratch, args.vocab, args.batches, args.rounds)
    finally:
        shutil.rmtree(scratch)


def bench(scratch: Path, vocab: int, n_batches: int, rounds: int) -> None:
    tokens = random_tokens(n_batches * BATCH, vocab)
    decomposition = build(scratch / "run", vocab, random_tokens(64, vocab, seed=1))
    dataset = cached_rows(f"bench-{vocab}-{n_batches}", SEQ, vocab, lambda: tokens, "random", None)
    check_first_batch(decomposition, HarvestRows(dataset, 0, 1, BATCH))

    batch = HarvestRows(dataset, 0, 1, BATCH).batch(0)
    ids = torch.from_numpy(batch.tokens).long()
    weights, ci = naive.weights_of(decomposition)
    seconds: dict[str, list[float]] = {name: [] for name in ("naive", "floor", "forward", "harvest")}
    stages: dict[str, list[float]] = {}
    with torch.inference_mode():
        for _ in range(rounds):  # interleaved: a slow moment of the machine hits all of them
            seconds["naive"].append(timed(lambda: naive.forward(ids, weights, ci, N_LAYER, HEADS)))
            seconds["floor"].append(timed(lambda: own_forward(decomposition, batch, gates=True)))
            seconds["forward"].append(timed(lambda: own_forward(decomposition, batch, gates=False)))
            clock = StageClock()
            plan, rows = plan_of(decomposition, dataset.fingerprint, HarvestRows(dataset, 0, None, BATCH))
            seconds["harvest"].append(harvest(decomposition, plan, rows, clock) / rows.n_batches)
            for stage, spent in clock.seconds.items():
                stages.setdefault(stage, []).append(spent / rows.n_batches / threads_of(stage))
    print_report(seconds, stages, vocab, n_batches, statistics.mean(batch_firings(decomposition, batch)))


def threads_of(stage: str) -> int:
    """Stages inside slices run in all threads at once; those of a segment are timed from outside."""
    return n_threads() if stage in ("forward", "gating", "firings", "softmax") else 1


def timed(function: Callable[[], object], repeats: int = 5) -> float:
    function()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def own_forward(decomposition: SpdDecomposition, batch: Batch, *, gates: bool) -> None:
    """Our own forward pass (and causal importances), run as a harvest runs them but with nothing counted."""

    def run(rows: Batch) -> None:
        with torch.inference_mode():
            _, layers = decomposition.parts(torch.from_numpy(rows.tokens).long())
            if gates:
                for part in layers:
                    part.gating.clamp_(part.low, part.high)

    with one_thread_each():
        for_each(run, batch.slices(SLICE_TOKENS // SEQ))


def plan_of(decomposition: SpdDecomposition, fingerprint: str, rows: HarvestRows) -> tuple[HarvestPlan, HarvestRows]:
    config = HarvestConfig(n_batches=rows.n_batches, batch_size=BATCH, seq_len=SEQ, log_share=1.0)
    return make_plan(decomposition, DataInfo(source="random", fingerprint=fingerprint, tokenizer=None), config), rows


def harvest(decomposition: SpdDecomposition, plan: HarvestPlan, rows: HarvestRows, clock: StageClock) -> float:
    """Seconds for everything a worker does: reading to the checkpoint at the end."""
    shutil.rmtree(plan.folder, ignore_errors=True)
    plan.save()

    def run(batch: Batch, clock: StageClock) -> Firings:
        return run_batch(decomposition, batch.rows, batch.tokens, batch.included, plan.config, clock)

    start = time.perf_counter()
    work(plan, 0, rows, run, memory_bytes=2 * 10**9, clock=clock)
    return time.perf_counter() - start


def batch_firings(decomposition: SpdDecomposition, batch: Batch) -> list[float]:
    out = decomposition(torch.from_numpy(batch.tokens).long())
    fires = sum(int((layer > 0).sum()) for layer in out.activations["causal_importance"].values())
    return [fires / batch.tokens.size]


def check_first_batch(decomposition: SpdDecomposition, rows: HarvestRows) -> None:
    """Harvest and merge one batch, and compare every count with a dense one."""
    plan, rows = plan_of(decomposition, rows.dataset.fingerprint, rows)
    harvest(decomposition, plan, rows, StageClock())
    merge_shards(plan, rows, memory_bytes=2 * 10**9)
    found = Harvest.open(plan.folder)
    batch = rows.batch(0)
    pieces, probabilities = [], []
    with one_thread_each():  # the same operators in the same shapes: equal bits
        for piece in batch.slices(SLICE_TOKENS // SEQ):
            out = decomposition(torch.from_numpy(piece.tokens).long())
            dense = torch.cat([*out.activations["causal_importance"].values()], -1)
            pieces.append((dense > 0).flatten(0, 1))
            # In float64: over 50,000 entries a float32 softmax is off by some 1e-6.
            probabilities.append(out.logits.double().softmax(-1).float().flatten(0, 1))
    fires = torch.cat(pieces).float()
    compare("firing counts", fires.sum(0).numpy(), found.firing_counts)
    pairs = (fires.T @ fires).numpy()
    np.fill_diagonal(pairs, 0)
    compare("co-firing", pairs, dense_lists(plan.folder / "correlations.arrow", "partner", "count", pairs.shape))
    del pairs
    one_hot = torch.nn.functional.one_hot(
        torch.from_numpy(batch.tokens).long().flatten(), plan.decomposition.vocab_size
    )
    # A thousand components: all of them times a large vocabulary do not fit into memory.
    some = np.random.default_rng(0).permutation(fires.shape[1])[:1000]
    fires = fires[:, torch.from_numpy(some)]
    inputs = (fires.T @ one_hot.float()).numpy()
    shape = (plan.n_components, plan.decomposition.vocab_size)
    stats = plan.folder / "token_stats.arrow"
    compare("input tokens", inputs, dense_lists(stats, "input_token", "input_count", shape, some))
    # Rounded in units of 2**-33; a probability on the verge of p_min may fall on either side.
    q = torch.cat(probabilities)
    p_min = plan.config.p_min
    on_verge = ((q / p_min - 1).abs() < 1e-5).sum(1)
    q = torch.where(q >= p_min, q, 0.0).double()
    outputs = (fires.T.double() @ q).numpy()
    ours = dense_lists(stats, "output_token", "output_mass", shape, some)
    tolerance = 1e-5 * outputs + 2.0 ** -(MASS_UNIT_BITS - 12) + 2 * p_min
    if (np.abs(ours - outputs) > tolerance).any():
        fail("the output mass differs from the dense product")
    slack = float((on_verge * fires.sum(1)).sum()) * p_min
    if abs(ours.sum() - outputs.sum()) > 1e-6 * outputs.sum() + slack:
        fail("the total output mass differs from the dense product")


def dense_lists(
    path: Path, column: str, value: str, shape: tuple[int, int], some: np.ndarray | None = None
) -> np.ndarray:
    """Rows (all, or some) of list columns as a dense matrix."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    some = np.arange(shape[0]) if some is None else some
    columns, values = table[column].take(pa.array(some)), table[value].take(pa.array(some))
    dense = np.zeros((len(some), shape[1]))
    lengths = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in columns.chunks])
    rows = np.repeat(np.arange(len(some)), lengths)
    dense[rows, np.concatenate([c.flatten().to_numpy() for c in columns.chunks])] = np.concatenate(
        [c.flatten().to_numpy() for c in values.chunks]
    )
    return dense


def compare(name: str, expected: np.ndarray, ours: np.ndarray) -> None:
    if not np.array_equal(expected, ours):
        fail(f"{name}: {int((expected != ours).sum())} of {expected.size} differ from the brute-force count")


def print_report(
    seconds: dict[str, list[float]], stages: dict[str, list[float]], vocab: int, n_batches: int, fires: float
) -> None:
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    per_stage = {name: statistics.median(found) for name, found in stages.items()}
    figures = {
        "vocab": vocab,
        "batches": n_batches,
        "firings_per_token": round(fires, 1),
        "forward_s": middle["forward"],
        "floor_s": middle["floor"],
        "floor_naive_s": middle["naive"],
        "harvest_s": middle["harvest"],
        "harvest_over_floor": middle["harvest"] / middle["floor"],
        "harvest_over_naive": middle["harvest"] / middle["naive"],
        "tokens_per_s": BATCH * SEQ / middle["harvest"],
        "peak_rss_mb": peak_rss_mb(),
        "seconds_per_statistic": per_stage,
        "rounds": seconds,
    }
    rows = [(name, f"{figures[name]:,.3f}") for name in list(figures)[3:11]]
    rows += [(f"  {name}", f"{spent * 1000:.1f} ms") for name, spent in sorted(per_stage.items(), key=lambda x: -x[1])]
    report(f"harvest, {vocab:,} tokens in the vocabulary, {n_batches} batches of {BATCH * SEQ:,}", rows, figures)


if __name__ == "__main__":
    main()
