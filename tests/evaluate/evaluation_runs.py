"""Fixtures of evaluations: true labels of some planted components, a stand-in of the API, and a way to run."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
from judging import PlantedJudge
from llm.asking import QUICK
from llm.stand_in import KEY, StandIn

from spd_tools.annotations import Annotations, LabelDraft
from spd_tools.evaluate.plan import settings_of
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.runner import evaluate
from spd_tools.llm import LanguageModel, Ledger

RULES = ("weekday", "after-number", "gate-colour")


@pytest.fixture
def keys(planted) -> list[str]:
    return [planted.decomposition.rule(name).key for name in RULES]


@pytest.fixture
def notes(planted, keys) -> Annotations:
    """Some components have their true labels."""
    notes = Annotations.of(planted.split.harvest)
    for key in keys:
        notes.set_label(key, LabelDraft(input_view=planted.decomposition.rules[key].description), author="truth")
    return notes


@pytest.fixture
def store(planted, notes) -> ResultStore:
    return ResultStore.of(planted.split.harvest)


@pytest.fixture
def ledger(planted, notes) -> Ledger:
    harvest = planted.split.harvest
    return Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)


@pytest.fixture
def serve(monkeypatch):
    """Start a stand-in that answers by a rule."""
    with ExitStack() as stack:

        def start(rule: Any, **settings: Any) -> StandIn:
            api = StandIn(rule, **settings)
            stack.enter_context(api)
            monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
            return api

        yield start


@pytest.fixture(scope="session")
def honest(planted) -> PlantedJudge:
    """A judge that knows the planted rules."""
    return PlantedJudge(planted.decomposition)


@pytest.fixture
def run(planted, notes, ledger):
    """Evaluate; returns (settings, summary)."""

    def run(*, batches=None, budget=None, max_concurrent=8, **wanted):
        harvest = planted.split.harvest
        settings = settings_of(harvest, **wanted)
        model = LanguageModel(ledger, job=settings.id, max_concurrent=max_concurrent, budget=budget, retries=QUICK)
        return settings, asyncio.run(evaluate(harvest, notes, model, settings, batches=batches))

    return run
