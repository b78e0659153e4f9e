"""`make bench-read`: how long a look at one component takes, on the store of `make bench-scale`, page cache warm."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.reporting import fail, report

STORE = Path(__file__).parent.parent / ".bench" / "scale"
HEAVY = "h.0:0"
"""The synthetic component that fires on a third of the tokens."""


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    os.environ["SPD_OUT_DIR"] = str(STORE)
    from spd_tools.analysis.overview import overview
    from spd_tools.store.reader import open_harvest

    if not list(STORE.glob("harvest/synthetic/*/manifest.json")):
        subprocess.run([sys.executable, "-m", "benchmarks.bench_scale", "--keep", str(STORE)], check=True)
    harvest = open_harvest("synthetic")
    check(harvest)
    counts = harvest.manifest.counts
    typical = str(harvest.keys.key(int(np.argsort(harvest.firing_counts)[int(0.9 * len(harvest.keys))])))
    seconds = {
        "open_ms": timed(lambda: open_harvest("synthetic"), 20),
        "overview_heavy_ms": timed(lambda: overview(harvest, HEAVY), 30),
        "overview_typical_ms": timed(lambda: overview(harvest, typical), 30),
        "co_firing_heavy_ms": timed(lambda: harvest.correlated(HEAVY, "pmi", 20), 30),
        "co_firing_weakest_ms": timed(lambda: harvest.correlated(HEAVY, "pmi", 20, weakest=True), 30),
        "activations_500k_ms": timed(lambda: sum_activations(harvest), 30),
    }
    figures = {name: 1000 * statistics.median(found) for name, found in seconds.items()}
    worst = {f"{name}_max": 1000 * max(found) for name, found in seconds.items()}
    sizes = {
        "tokens": counts.n_tokens,
        "firings": counts.n_firings,
        "logged_of_heavy": len(harvest.activations(HEAVY).token),
    }
    rows = [(name, f"{value:.2f} ms   (slowest {worst[name + '_max']:.2f})") for name, value in figures.items()]
    report(f"reading: {counts.n_firings:,} firings, {counts.n_pairs:,} pairs", rows, sizes | figures | worst)


def sum_activations(harvest) -> float:  # noqa: ANN001
    """Read and sum 500,000 logged activations and their positions."""
    found = harvest.activations(HEAVY)
    return float(found.values[harvest.ranking_kind][:500_000].sum()) + int(found.token[:500_000].sum())


def check(harvest) -> None:  # noqa: ANN001
    """What is read is what was written: the log agrees with the exact counts."""
    found = harvest.activations(HEAVY)
    if len(found.token) != harvest.component(HEAVY).firing_count or len(found.token) < 500_000:
        fail("the log of the heavy component does not hold all of its firings")


def timed(function: Callable[[], object], repeats: int) -> list[float]:
    function()
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        found.append(time.perf_counter() - start)
    return found


if __name__ == "__main__":
    main()
