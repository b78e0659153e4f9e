"""A made-up harvest and its annotations."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from annotation_results import FINGERPRINT, RUN
from reference_store import random_input, write_reference_store

from spd_tools.annotations import Annotations
from spd_tools.store.harvest import Harvest


@pytest.fixture
def notes() -> Annotations:
    return Annotations.open(RUN, FINGERPRINT)


@pytest.fixture(scope="session")
def harvest(tmp_path_factory) -> Harvest:
    """15 components of all densities; the last one is dead."""
    folder = tmp_path_factory.mktemp("harvest")
    write_reference_store(folder, random_input(), run_id="made-up")
    return Harvest.open(folder)


@pytest.fixture
def stopped_clock(monkeypatch) -> Callable[[float], None]:
    """Leases see a clock that only the test moves forward."""
    state = {"now": 1_000_000.0}
    monkeypatch.setattr("spd_tools.annotations.queue.time.time", lambda: state["now"])

    def forward(seconds: float) -> None:
        state["now"] += seconds

    return forward
