"""Prices, their arithmetic and what a user puts over them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm.asking import MODEL, call
from llm.stand_in import count_tokens

from spd_tools.errors import SpdToolsError
from spd_tools.llm.call import Usage
from spd_tools.llm.prices import Prices
from spd_tools.llm.wire import input_bound, request_body, worst_cost

COUNT = st.integers(0, 10**7)


def usage(**counts):
    return Usage(**({"input": 0, "output": 0, "cache_read": 0, "cache_write": 0} | counts))


def test_a_million_tokens_cost_what_the_file_says():
    prices = Prices.load()
    price = prices.of(MODEL)
    million = 10**6
    assert prices.cost(price, usage(input=million), batch=False) == 0.1 * 10**9
    assert prices.cost(price, usage(output=million), batch=False) == 0.5 * 10**9
    assert prices.cost(price, usage(cache_read=million), batch=False) == 0.01 * 10**9
    assert prices.cost(price, usage(cache_write=million), batch=False) == 0.125 * 10**9
    assert prices.cost(price, usage(input=million, output=million), batch=True) == 0.3 * 10**9


@given(COUNT, COUNT, COUNT, COUNT)
def test_no_request_costs_more_than_it_was_feared_to(read, written, fresh, output):
    prices = Prices.load()
    long = call(system="s" * 5000, prompt="p" * 5000)
    bound = input_bound(long)
    total = max(1, read + written + fresh)
    scaled = {"cache_read": read, "cache_write": written, "input": fresh}
    parts = {name: count * bound // total for name, count in scaled.items()}
    made = usage(**parts, output=min(output, long.max_tokens))
    price = prices.of(MODEL)
    assert prices.cost(price, made, batch=False) <= worst_cost(long, prices, price, batch=False)


@given(st.text(min_size=1).filter(str.strip))
def test_there_are_no_more_tokens_than_the_bound(text):
    made = call(prompt=text)
    assert count_tokens(request_body(made, Prices.load().of(MODEL))) <= input_bound(made)


def test_a_dated_model_costs_what_the_undated_does():
    assert Prices.load().of(f"{MODEL}-20261001") == Prices.load().of(MODEL)


def test_an_unknown_model_has_no_price():
    with pytest.raises(SpdToolsError, match="SPD_TOOLS_PRICES"):
        Prices.load().of("claude-unheard-of")


def test_the_user_s_prices_lie_over_ours(tmp_path, monkeypatch):
    theirs = {"date": "2027-01-01", "batch_factor": 1, "cache_read_factor": 1, "cache_write_factor": 1}
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(theirs | {"models": {MODEL: {"input": 7, "output": 8}}}))
    monkeypatch.setenv("SPD_TOOLS_PRICES", str(file))
    prices = Prices.load()
    assert (prices.date, prices.of(MODEL).input, prices.of("claude-opus-5-5").input) == ("2027-01-01", 7, 4)


@pytest.mark.parametrize("text", ["", "[]", '{"date": 1}', '{"models": {"m": {"input": -1, "output": 1}}}'])
def test_a_file_that_is_none_is_named(tmp_path, monkeypatch, text):
    file = tmp_path / "prices.json"
    file.write_text(text)
    monkeypatch.setenv("SPD_TOOLS_PRICES", str(file))
    with pytest.raises(SpdToolsError, match=r"prices\.json"):
        Prices.load()


def test_a_missing_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("SPD_TOOLS_PRICES", str(tmp_path / "none.json"))
    with pytest.raises(SpdToolsError, match="No such file"):
        Prices.load()
