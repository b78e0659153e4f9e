"""Planted harvests with a live model behind them, and how experiments are tried on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from spd_tools.decompositions.planted import PlantedDecomposition
from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.experiments import Result, Subject, make_request, run
from spd_tools.harvest import HarvestRequest, pipeline, run_harvest
from spd_tools.store.harvest import Harvest

SEEDS = (0, 1, 2)
ROWS = 512
RANDOM = ("random", "random-rare", "late-random")
"""Rules of components that no token moves on average: nulls with spread, as those that never respond have none."""
NULL_TRIES = 200
MOST_FALSE_POSITIVES = 18
"""At nominal 0.05, 10 are expected in 200; more than 18 come up in 0.5 % of cases."""
DENSE = Path(__file__).parents[1] / "golden" / "spd" / "llama_simple_mlp_layerwise_vector_mlp"


def harvest_planted(patch, folder, seq_len: int) -> dict[int, Subject]:
    """Seed -> subject: 512 rows, all of them logged."""
    patch.setenv("SPD_OUT_DIR", str(folder))
    patch.setattr(pipeline, "PLANTED_ROWS", ROWS)
    found: dict[int, Subject] = {}
    for seed in SEEDS:
        request = HarvestRequest(run=f"planted:{seed}", n_batches=None, batch_size=128, seq_len=seq_len)
        found[seed] = Subject(Harvest.open(run_harvest(request, progress=False).folder))
    return found


def harvest_dense(patch, folder, rows: int = 64, seq_len: int = 16, **choices: Any) -> Subject:
    """A golden SPD run on random tokens of very uneven frequency; ``choices``: of the harvest."""
    rng = np.random.default_rng(0)
    frequency = 1 / np.arange(4, 100)
    ids = rng.choice(rng.permutation(96), (rows, seq_len), p=frequency / frequency.sum())
    pq.write_table(pa.table({"text": pa.array(ids.tolist(), pa.list_(pa.int64()))}), folder / "data.parquet")
    patch.setenv("SPD_OUT_DIR", str(folder))
    data = str(folder / "data.parquet")
    request = HarvestRequest(run=str(DENSE), n_batches=None, batch_size=16, data=data, **choices)
    return Subject(Harvest.open(run_harvest(request, progress=False).folder), load_decomposition(DENSE))


def dense_nulls(
    subject: Subject,
    experiment: str,
    parameters: Callable[[np.random.Generator], dict[str, Any]],
) -> list[Result]:
    """200 seeded tries on components drawn at random from those that fire; parameters name tokens drawn at random."""
    harvest = subject.harvest
    alive = np.flatnonzero(harvest.firing_counts)
    results: list[Result] = []
    for seed in range(NULL_TRIES):
        rng = np.random.default_rng(seed)
        key = harvest.keys.key(int(rng.choice(alive)))
        request = make_request(experiment, {"key": key, "seed": seed, **parameters(rng)})
        results.append(run(subject, request))
    return results


def seen_tokens(subject: Subject, rng: np.random.Generator, n: int) -> list[int]:
    """n different tokens of the harvest."""
    return rng.choice(np.flatnonzero(subject.harvest.vocabulary("input")), n, replace=False).tolist()


def planted(subject: Subject) -> PlantedDecomposition:
    """The subject's decomposition, with its rules."""
    decomposition = subject.decomposition
    assert isinstance(decomposition, PlantedDecomposition)
    return decomposition


def key_of(subject: Subject, name: str) -> str:
    """Key of the component with a planted rule."""
    return planted(subject).rule(name).key


def token_of(subject: Subject, word: str) -> int:
    """Token id of a word."""
    return planted(subject).words.index(word)


def any_words(subject: Subject, rng: np.random.Generator, n: int) -> list[int]:
    """n different tokens, <unk> not among them."""
    return rng.choice(np.arange(1, planted(subject).vocab_size), n, replace=False).tolist()


def do(subject: Subject, experiment: str, rule: str, **parameters: Any) -> Any:
    """The result of an experiment on the component with a planted rule."""
    return run(subject, make_request(experiment, {"key": key_of(subject, rule), **parameters}))


def null_results(
    subjects: Mapping[int, Subject],
    experiment: str,
    parameters: Callable[[Subject, np.random.Generator], dict[str, Any]],
) -> list[Result]:
    """200 seeded tries on components that fire at random."""
    results: list[Result] = []
    for seed in range(NULL_TRIES):
        subject, rule = subjects[seed % len(SEEDS)], RANDOM[seed // len(SEEDS) % len(RANDOM)]
        chosen = parameters(subject, np.random.default_rng(seed))
        results.append(do(subject, experiment, rule, seed=seed, **chosen))
    return results


def assert_calibrated(results: list[Result]) -> None:
    """At most 18 of 200 are false positives, by p-value and by interval, and the tries could have been some."""
    p_values = [result.p_value for result in results]
    assert len(p_values) == NULL_TRIES
    assert sum(p is not None and p <= 0.05 for p in p_values) <= MOST_FALSE_POSITIVES
    assert sum(bool(result.excludes_control) for result in results) <= MOST_FALSE_POSITIVES
    assert sum(p is not None and p < 1 for p in p_values) >= NULL_TRIES // 4


def assert_detected(found: Iterable[tuple[object, bool]]) -> None:
    """At least 95 % of planted effects are found; names those that are not."""
    tries = list(found)
    missed = [name for name, hit in tries if not hit]
    assert len(missed) <= 0.05 * len(tries), missed
