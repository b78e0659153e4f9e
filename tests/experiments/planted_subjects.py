"""Planted harvests with a live model behind them, and how experiments are tried on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from spd_tools.decompositions.planted import PlantedDecomposition
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


def harvest_planted(patch, folder, seq_len: int) -> dict[int, Subject]:
    """Seed -> subject: 512 rows, all of them logged."""
    patch.setenv("SPD_OUT_DIR", str(folder))
    patch.setattr(pipeline, "PLANTED_ROWS", ROWS)
    found: dict[int, Subject] = {}
    for seed in SEEDS:
        request = HarvestRequest(run=f"planted:{seed}", n_batches=None, batch_size=128, seq_len=seq_len)
        found[seed] = Subject(Harvest.open(run_harvest(request, progress=False).folder))
    return found


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
