"""Memory of `interpret` and `evaluate` as wholes, over few and over many components: part of `make bench-llm`.

A synthetic harvest through our own worker and merge: components in groups of 25 that fire together, each on some 24
tokens, in rows of 16. Everything is real but the language model (a stand-in inside the process takes a hundred calls at
a time and answers them at once) and the disk, which is not waited for: memory is measured, not time. Each run is a
process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.memory import PeakMemory
from benchmarks.reporting import fail

GROUP, PER_LAYER, V, SEQ, BATCH, FIRINGS = 25, 4_000, 5_000, 16, 256, 24
AT_ONCE = 100
FEW = 1_000
ANSWER = {
    "reasoning": "All marked tokens are alike. " * 3,
    "input_view": "The component fires on a few tokens that have nothing else in common, wherever they stand.",
    "output_view": "",
    "label": "a few tokens",
    "verdict": "clear",
    "confidence": 0.5,
}


class Instant:
    """Stands in for ``LanguageModel``: a hundred calls exist at once, and all are answered."""

    budget_exhausted = False

    def __init__(self) -> None:
        from spd_tools.llm.progress import Tally

        self.tally = Tally()

    async def answer(self, calls: Iterable[Any]) -> AsyncGenerator[Any]:
        from spd_tools.llm import Answer, Usage

        supply, usage = iter(calls), Usage(input=1_000, output=100, cache_read=0, cache_write=0)
        while under_way := list(islice(supply, AT_ONCE)):
            for call in under_way:
                said = ANSWER if call.purpose == "label" else {"active": [{"token": 1, "level": 5}]}
                outcome = Answer(
                    call_hash=call.hash,
                    tag=call.tag,
                    value=call.schema.model_validate(said),
                    model=call.model,
                    usage=usage,
                    dollars=0.0002,
                    seconds=0.0,
                    request_id="req",
                    time="2026-11-20T00:00:00+00:00",
                    from_ledger=False,
                )
                self.tally.count(outcome)
                yield outcome


def measured(folder: Path, n_planned: int, n_done: int) -> dict[str, Any]:
    """How much higher peaks are over many components than over a thousand, each in a process of its own.

    Args:
        folder: for the harvest, as an SPD_OUT_DIR.
        n_planned: components of the harvest, all of which are planned and estimated.
        n_done: components that are labelled and judged, which takes some 20 ms each.
    """
    environment = os.environ | {"SPD_OUT_DIR": str(folder), "OMP_NUM_THREADS": "1"}

    def run(*what: object) -> dict[str, Any]:
        command = [sys.executable, "-m", "benchmarks.many_components", *map(str, what)]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
        return json.loads(output.splitlines()[-1])

    figures: dict[str, Any] = {"planned": n_planned, "done": n_done, **run("store", n_planned)}
    for what, n in (("estimate", n_planned), ("interpret", n_done), ("evaluate", n_done)):
        few, many = run(what, FEW), run(what, n)
        if (few["done"], many["done"]) != (FEW, n):
            fail(f"{what} did {few['done']:,} and {many['done']:,} components")
        growth = many["peak_mb"] - few["peak_mb"]
        figures |= {f"{what}_peak_mb": many["peak_mb"], f"{what}_growth_mb": growth, f"{what}_s": many["seconds"]}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("store", "estimate", "interpret", "evaluate"))
    parser.add_argument("n", type=int)
    args = parser.parse_args()
    _wait_for_no_disk()
    start = time.perf_counter()
    with PeakMemory() as memory:
        done = {"store": write_store, "estimate": estimated, "interpret": interpreted, "evaluate": evaluated}[
            args.what
        ](args.n)
    figures = {"done": done, "peak_mb": memory.peak / 1e6, "seconds": time.perf_counter() - start}
    print(json.dumps({"store_seconds": figures["seconds"]} if args.what == "store" else figures))


def _wait_for_no_disk() -> None:
    """A hundred thousand labels are as many transactions, each of which would be made durable."""
    from spd_tools.annotations import database

    assert "synchronous = FULL" in database._SETTINGS
    database._SETTINGS = database._SETTINGS.replace("synchronous = FULL", "synchronous = OFF")
    os.fsync = lambda fd: None


# --- what is measured -------------------------------------------------------------------------------------------------


def estimated(n: int) -> int:
    """What `interpret --estimate` and `evaluate --score intruder --estimate` do; how many components they count."""
    from spd_tools.annotations import Annotations
    from spd_tools.evaluate.plan import settings_of
    from spd_tools.evaluate.runner import Evaluation
    from spd_tools.interpret import InterpretRequest, estimate_interpretation
    from spd_tools.store.reader import open_harvest

    harvest = open_harvest("many")
    found = estimate_interpretation(harvest, InterpretRequest(limit=n))
    evaluation = Evaluation(harvest, Annotations.of(harvest), settings_of(harvest, scores=("intruder",), limit=n))
    evaluation.sample()
    n_calls = 0 if found is None else found.n_calls
    if n_calls != evaluation.n_components:
        fail(f"the estimates are of {n_calls:,} and {evaluation.n_components:,} components")
    return n_calls


def interpreted(n: int) -> int:
    """Plan and label; how many components have labels then."""
    from spd_tools.annotations import Annotations
    from spd_tools.interpret import InterpretRequest, interpret, plan
    from spd_tools.store.reader import open_harvest

    harvest = open_harvest("many")
    planned = plan(harvest, Annotations.of(harvest), InterpretRequest(limit=n))
    report = asyncio.run(interpret(planned, Instant()))  # pyright: ignore[reportArgumentType]
    return report.n_labelled + report.n_known


def evaluated(n: int) -> int:
    """Judge labels and report; how many components were looked at."""
    from spd_tools.annotations import Annotations
    from spd_tools.evaluate.plan import settings_of
    from spd_tools.evaluate.report import make_report
    from spd_tools.evaluate.report_html import report_html
    from spd_tools.evaluate.runner import evaluate
    from spd_tools.store.reader import open_harvest

    harvest = open_harvest("many")
    settings = settings_of(harvest, scores=("simulation",), limit=n, n_trials=5, baselines=False)
    summary = asyncio.run(evaluate(harvest, Annotations.of(harvest), Instant(), settings))  # pyright: ignore[reportArgumentType]
    report_html(make_report(harvest, settings))
    if summary.n_scored < 0.9 * n:
        fail(f"only {summary.n_scored:,} of {n:,} components have a score: {summary.unscored}")
    return summary.n_scored + summary.n_unscored


# --- the harvest ------------------------------------------------------------------------------------------------------


def write_store(n_components: int) -> int:
    """Harvest made-up firings."""
    from spd_tools.harvest.clock import StageClock
    from spd_tools.harvest.merge import merge_shards
    from spd_tools.harvest.plan import HarvestPlan
    from spd_tools.harvest.rows import HarvestRows
    from spd_tools.harvest.worker import work
    from spd_tools.store.schema import DataInfo, DecompositionInfo, HarvestConfig
    from spd_tools.tokens import cached_rows

    n_groups = n_components // GROUP
    n_batches = -(-n_groups * FIRINGS // (SEQ * BATCH))
    tokens = np.random.default_rng(0).integers(0, V, (n_batches * BATCH, SEQ)).astype(np.int32)
    dataset = cached_rows(f"many-{n_components}", SEQ, V, lambda: tokens, "synthetic", None)
    rows = HarvestRows(dataset, 0, None, BATCH)
    kinds = ["causal_importance", "component_activation"]
    sizes = [min(PER_LAYER, n_components - at) for at in range(0, n_components, PER_LAYER)]
    plan = HarvestPlan(
        decomposition=DecompositionInfo(
            run_id="many",
            reference="many",
            fingerprint="many",
            layers=[(f"h.{at}.mlp", size) for at, size in enumerate(sizes)],
            vocab_size=V,
            gating_kind=kinds[0],
            ranking_kind=kinds[1],
            kinds=kinds,
        ),
        data=DataInfo(source="synthetic", fingerprint=dataset.fingerprint, tokenizer=None),
        config=HarvestConfig(
            n_batches=n_batches, batch_size=BATCH, seq_len=SEQ, log_share=1.0, n_uniform=4, n_top=2, window=4
        ),
    )
    plan.save()
    work(plan, 0, rows, GroupedFirings(sizes, n_groups), memory_bytes=2 * 10**9, clock=StageClock())
    merge_shards(plan, rows, memory_bytes=2 * 10**9)
    return n_components


class GroupedFirings:
    """At every token one group of components fires, by a hash of row and position."""

    def __init__(self, sizes: list[int], n_groups: int) -> None:
        self._sizes = sizes
        self._n_groups = n_groups

    def __call__(self, batch: Any, clock: Any) -> Any:
        from spd_tools.harvest.firings import Firings, NextTokens

        at = (np.asarray(batch.rows)[:, None] * SEQ + np.arange(SEQ)).ravel()
        group = np.random.default_rng(1).permutation(self._n_groups)[at % self._n_groups]
        order = np.lexsort((np.arange(len(group)), group))
        # [firings] by component: all positions of its group, ascending.
        bounds = np.searchsorted(group[order], np.arange(self._n_groups + 1))
        counts = np.repeat(np.diff(bounds), GROUP)
        indptr = np.append(0, np.cumsum(counts))
        inside = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
        positions = order[np.repeat(np.repeat(bounds[:-1], GROUP), counts) + inside].astype(np.int32)
        blocks = list(self._blocks(indptr.astype(np.int64), positions, len(batch.rows)))
        following = NextTokens.pack(np.asarray(batch.tokens).ravel() % V, np.full(len(at), 1 << 32))
        return Firings(
            batch.rows,
            batch.tokens,
            batch.included,
            NextTokens(np.arange(len(at) + 1, dtype=np.int64), following),
            blocks,
        )

    def _blocks(self, indptr: NDArray[np.int64], positions: NDArray[np.int32], n_rows: int) -> Iterable[Any]:
        from benchmarks.synthetic import OwnValueWindows
        from spd_tools.harvest.firings import FiringBlock, RowTotals

        start = 0
        for size in self._sizes:
            part = slice(int(indptr[start]), int(indptr[start + size]))
            values = (positions[part].astype(np.int64) * 2654435761 % 65536).astype(np.float32) / 65536
            yield FiringBlock(
                start=start,
                stop=start + size,
                indptr=indptr[start : start + size + 1] - indptr[start],
                positions=positions[part],
                values=np.stack([values * 0.5 + 0.5, values * 8 - 4]).astype(np.float32),
                windows=OwnValueWindows(),
                row_totals={1: RowTotals(np.full((n_rows, size), 0.125))},
            )
            start += size


if __name__ == "__main__":
    main()
