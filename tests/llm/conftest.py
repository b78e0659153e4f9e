"""A ledger, a stand-in of the API, and calls to it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import Any

import pytest
from llm.asking import ask
from llm.stand_in import KEY, Rule, Say, StandIn

from spd_tools.llm import Ledger


@pytest.fixture
def ledger():
    return Ledger.open("run", "f" * 64)


@pytest.fixture
def serve(monkeypatch):
    """Start a stand-in that answers by a rule, or always with the same."""
    with ExitStack() as stack:

        def start(rule: Rule | Any, **settings: Any) -> StandIn:
            api = StandIn(rule if callable(rule) else lambda asked: rule, **settings)
            stack.enter_context(api)
            monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
            return api

        yield start


@pytest.fixture
def answer(ledger):
    """Outcomes of calls, by a model of its own."""
    return lambda calls, **settings: asyncio.run(ask(ledger, calls, **settings))


@pytest.fixture
def good() -> Say:
    return Say({"label": "commas", "confidence": 0.5})
