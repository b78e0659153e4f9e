"""`make bench-scale`: worker and merge on synthetic firings of the size of a real harvest. See benchmarks/README.md."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp

from benchmarks.bench_harvest import compare, dense_lists
from benchmarks.memory import PeakMemory
from benchmarks.reporting import fail, report
from benchmarks.synthetic import BATCH, SEQ, SyntheticFirings, V, synthetic_plan
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.merge import merge_shards
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.rows import HarvestRows
from spd_tools.harvest.worker import work
from spd_tools.store.reader import Harvest
from spd_tools.tokens import cached_rows

MEMORY = 2 * 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[500_000, 2_000_000])
    parser.add_argument("--keep", type=Path, help="where the last store stays, for bench-read")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)  # a process of its own for each size: its own peak
    args = parser.parse_args()
    if args.one:
        print(json.dumps(run(args.one)))
        return
    scratch = args.keep or Path(tempfile.mkdtemp())
    try:
        found = [measure(tokens, scratch, keep=args.keep is not None) for tokens in args.tokens]
    finally:
        if args.keep is None:
            shutil.rmtree(scratch)
    rows = [(name, "   ".join(f"{one[name]:>14,.1f}" for one in found)) for name in found[0]]
    growth = {f"growth_{name}": found[-1][name] / found[0][name] for name in ("worker_s", "merge_s", "peak_mb")}
    rows += [(name, f"{value:.2f} x") for name, value in growth.items()]
    report("scale: C = 40,000, V = 50,000", rows, {"sizes": found} | growth)


def measure(tokens: int, scratch: Path, *, keep: bool) -> dict[str, float]:
    shutil.rmtree(scratch, ignore_errors=True)
    env = os.environ | {"SPD_OUT_DIR": str(scratch)}
    command = [sys.executable, "-m", "benchmarks.bench_scale", "--one", str(tokens)]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    if not keep:
        shutil.rmtree(scratch)
    return json.loads(output.splitlines()[-1])


def rows_for(n_batches: int) -> HarvestRows:
    generator = np.random.default_rng(0)
    ids = (V * generator.random((n_batches * BATCH, SEQ)) ** 3).astype(np.int32)
    dataset = cached_rows(f"synthetic-{n_batches}", SEQ, V, lambda: ids, "synthetic", None)
    return HarvestRows(dataset, 0, None, BATCH)


def build_store(n_batches: int) -> tuple[HarvestPlan, StageClock, float, float]:
    """Plan, stages, seconds of the worker and of the merge."""
    rows = rows_for(n_batches)
    plan = synthetic_plan(n_batches, rows.dataset.fingerprint)
    plan.save()
    clock, firings = StageClock(), SyntheticFirings()
    start = time.perf_counter()
    work(plan, 0, rows, firings, memory_bytes=MEMORY, clock=clock)
    worked = time.perf_counter()
    merge_shards(plan, rows, memory_bytes=MEMORY)
    return plan, clock, worked - start, time.perf_counter() - worked


def run(tokens: int) -> dict[str, float]:
    check_first_batch()
    with PeakMemory() as memory:
        plan, clock, worker_s, merge_s = build_store(tokens // (SEQ * BATCH))
    counts = Harvest.open(plan.folder).manifest.counts
    size = sum(path.stat().st_size for path in plan.folder.rglob("*") if path.is_file())
    return {
        "tokens": counts.n_tokens,
        "firings": counts.n_firings,
        "distinct_pairs": counts.n_pairs,
        "worker_s": worker_s,
        "of_it_generation_cpu_s": clock.seconds["generation"],
        "co_firing_s": clock.seconds["co-firing"],
        "output_tokens_s": clock.seconds["output tokens"],
        "merge_s": merge_s,
        "peak_mb": memory.peak / 1e6,
        "store_mb": size / 1e6,
    }


def check_first_batch() -> None:
    """One batch through worker and merge, against scipy's sparse products."""
    plan, _, _, _ = build_store(1)
    rows = rows_for(1)
    batch = rows.batch(0)
    firings = SyntheticFirings()(batch, StageClock())
    position = np.concatenate([block.positions for block in firings.blocks])
    component = np.concatenate(
        [
            block.start + np.repeat(np.arange(block.stop - block.start), np.diff(block.indptr))
            for block in firings.blocks
        ]
    )
    n = sum(count for _, count in plan.decomposition.layers)
    fires = sp.csr_array((np.ones(len(position), np.int64), (position, component)), shape=(batch.tokens.size, n))
    compare("firing counts", fires.sum(0), Harvest.open(plan.folder).firing_counts)
    some = np.random.default_rng(0).permutation(n)[:300]
    pairs = (fires[:, some].T @ fires).toarray()
    pairs[np.arange(300), some] = 0
    ours = dense_lists(plan.folder / "correlations.arrow", "partner", "count", (n, n), some)
    compare("co-firing", pairs, ours)
    one_hot = sp.csr_array(
        (np.ones(batch.tokens.size), (np.arange(batch.tokens.size), batch.tokens.ravel())), shape=(batch.tokens.size, V)
    )
    stats = plan.folder / "token_stats.arrow"
    compare(
        "input tokens",
        (fires[:, some].T @ one_hot).toarray(),
        dense_lists(stats, "input_token", "input_count", (n, V), some),
    )
    q = firings.next_tokens
    masses = (q.packed & np.uint64((1 << 34) - 1)).astype(np.int64)
    outputs = sp.csr_array(
        (masses, (q.packed >> np.uint64(34)).astype(np.int64), q.indptr), shape=(batch.tokens.size, V)
    )
    ours = dense_lists(stats, "output_token", "output_mass", (n, V), some)
    compare("output mass", (fires[:, some].T @ outputs).toarray(), np.rint(ours * 2.0**33))
    if Harvest.open(plan.folder).n_tokens != batch.tokens.size:
        fail("the number of tokens is wrong")


if __name__ == "__main__":
    main()
