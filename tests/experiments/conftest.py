"""Planted harvests with a live model behind them, made once for all tests of this folder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from planted_subjects import harvest_dense, harvest_planted, key_of, planted, token_of
from threads import one_thread_each

from spd_tools.experiments import Subject

__all__ = ["key_of", "planted", "token_of"]  # other tests take them from here


one_thread = pytest.fixture(scope="module", autouse=True)(one_thread_each)


@pytest.fixture(scope="session")
def subjects(tmp_path_factory) -> dict[int, Subject]:
    """Seed (0, 1, 2) -> subject: 512 rows of 64 tokens, all of them logged."""
    with pytest.MonkeyPatch.context() as patch:
        return harvest_planted(patch, tmp_path_factory.mktemp("experiments"), seq_len=64)


@pytest.fixture(scope="session")
def short_subjects(tmp_path_factory) -> dict[int, Subject]:
    """The same with rows of 24 tokens, for what is done hundreds of times."""
    with pytest.MonkeyPatch.context() as patch:
        return harvest_planted(patch, tmp_path_factory.mktemp("short"), seq_len=24)


@pytest.fixture(scope="session")
def subject(subjects) -> Subject:
    """Seed 0: the one whose words the tests may name."""
    return subjects[0]


@pytest.fixture(scope="session")
def dense(tmp_path_factory) -> Subject:
    """An SPD run in which every token moves every component, harvested: 96 tokens, 44 components of an MLP and an
    attention block, 64 rows of 16 tokens. For null tests (``dense_nulls``) of sweep, position, interact and ablate:
    planted components mostly answer with 0, so that a test that takes any difference for a finding passes on them."""
    with pytest.MonkeyPatch.context() as patch:
        return harvest_dense(patch, tmp_path_factory.mktemp("dense"))


@pytest.fixture(scope="session")
def dense_with(tmp_path_factory) -> Callable[..., Subject]:
    """The same run, harvested with other choices."""

    def made(**choices: Any) -> Subject:
        with pytest.MonkeyPatch.context() as patch:
            return harvest_dense(patch, tmp_path_factory.mktemp("dense-with"), **choices)

    return made
