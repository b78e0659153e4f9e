"""Uniform examples are a uniform sample without replacement, also after merging unequal shards."""

from __future__ import annotations

import numpy as np
import pytest
from harvest.harness import plan_of
from reference_store import random_input
from scipy import stats

from spd_tools.harvest.examples import ExampleSketch
from spd_tools.harvest.firings import FiringBlock
from spd_tools.harvest.merge_examples import _examples
from spd_tools.harvest.shards import Segments
from spd_tools.store.schema import examples_schema

K, SEQ = 400, 50
SHARD_ROWS = [10 * size for size in range(1, 9)]  # 8 unequal shards, 18,000 firings
SHARD_OF_ROW = np.repeat(np.arange(8), SHARD_ROWS)
SEEDS = 500


class OneShard:
    """A segment in memory: one component's uniform examples."""

    def __init__(self, seed: int, rows: np.ndarray) -> None:
        n = len(rows) * SEQ
        block = FiringBlock(
            start=0,
            stop=1,
            indptr=np.asarray([0, n]),
            positions=np.arange(n, dtype=np.int32),
            values=np.ones((1, n), np.float32),
            windows=None,  # pyright: ignore[reportArgumentType]
            row_totals={},
        )
        sketch = ExampleSketch("uniform", 0, 1, K, seed, 1, 0)
        sketch.offer(block, rows, SEQ)
        records = sketch.drain()
        self._sections = {"uniform/indptr": np.asarray([0, len(records.key)])}
        for field in ("rank", "key", "row", "position", "windows"):
            self._sections[f"uniform/{field}"] = getattr(records, field).reshape(-1)

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        return self._sections[name][start:stop]


def shards(seed: int) -> list[OneShard]:
    rows = np.arange(len(SHARD_OF_ROW))
    return [OneShard(seed, rows[shard == SHARD_OF_ROW]) for shard in range(8)]


def merged_rows(parts: list[OneShard]) -> np.ndarray:
    """Rows of the examples that the product's merge keeps."""
    made_up = random_input(0, n_uniform=K, window=0, gating="causal_importance", ranking="causal_importance")
    plan = plan_of(made_up, [("layer", 1)], 1)
    lengths = np.full(len(SHARD_OF_ROW), SEQ, np.int32)
    schema = examples_schema(["causal_importance"])
    found = _examples(Segments(parts), "uniform", plan, lengths, schema, 0, 1)  # pyright: ignore[reportArgumentType]
    return np.asarray([example["row"] for example in found.to_pylist()[0]])


def weighted_rows(parts: list[OneShard]) -> np.ndarray:
    """What a merge that draws from each shard in proportion to its size would keep."""
    rows = [
        part.read("uniform/row")[: round(K * size / sum(SHARD_ROWS))]
        for part, size in zip(parts, SHARD_ROWS, strict=True)
    ]
    return np.concatenate(rows)


def p_values(merge) -> np.ndarray:
    """Per seed: do the sample's shares of the shards vary as draws without replacement do (chi-square, 7 df)?"""
    n = len(SHARD_OF_ROW) * SEQ
    expected = K * np.asarray(SHARD_ROWS) / sum(SHARD_ROWS)
    found = []
    for seed in range(SEEDS):
        counts = np.bincount(SHARD_OF_ROW[merge(shards(seed))], minlength=8)
        # Covariance of the multivariate hypergeometric distribution: multinomial times (n - K) / (n - 1).
        statistic = ((counts - expected) ** 2 / expected).sum() * (n - 1) / (n - K)
        found.append(stats.chi2.sf(statistic, 7))
    return np.asarray(found)


def test_merged_samples_are_uniform_over_500_seeds():
    # 0.004 for these seeds; 0.37 over the 2,500 seeds after them.
    assert stats.kstest(p_values(merged_rows), "uniform").pvalue > 0.001


def test_the_same_test_finds_a_merge_that_weights_by_shard_size():
    assert stats.kstest(p_values(weighted_rows), "uniform").pvalue < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_merged_examples_are_those_of_one_pass(seed):
    everything = OneShard(seed, np.arange(len(SHARD_OF_ROW)))
    np.testing.assert_array_equal(merged_rows(shards(seed)), everything.read("uniform/row"))
