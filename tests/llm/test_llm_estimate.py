"""What calls will cost."""

from __future__ import annotations

import asyncio

import pytest
from llm.asking import call, calls
from llm.stand_in import Say

from spd_tools.errors import SpdToolsError
from spd_tools.llm import estimate


def test_with_a_key_the_api_counts(serve, good):
    api = serve(good)
    found = asyncio.run(estimate(calls(4), 1000))
    assert (api.n_counted, found.counted, found.input_tokens) == (4, True, 6000)
    assert (found.output_tokens, found.dollars) == (None, None)
    assert found.dollars_at_most == pytest.approx((6000 * 100 + 100_000 * 500) / 10**9)
    assert not api.asked


def test_without_a_key_there_is_a_bound(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    found = asyncio.run(estimate(calls(2), 10))
    assert not found.counted
    assert found.input_tokens > 60


def test_earlier_answers_say_how_long_answers_are(serve, answer, ledger, good):
    serve(Say(good.said, output_tokens=30))
    answer(calls(3))
    found = asyncio.run(estimate([call("Another?")], 10, ledger=ledger))
    assert found.output_tokens == 300
    assert found.dollars == pytest.approx((found.input_tokens * 100 + 300 * 500) / 10**9)


def test_a_batch_costs_half(serve, good):
    serve(good)
    whole, half = (asyncio.run(estimate(calls(4), 1000, batch=batch)) for batch in (False, True))
    assert half.dollars_at_most == pytest.approx(whole.dollars_at_most / 2)


def test_nothing_can_be_said_without_a_sample():
    with pytest.raises(SpdToolsError, match="sample"):
        asyncio.run(estimate([], 10))
