"""Killed at any moment, nothing is paid twice but what was under way."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
from llm.asking import calls
from llm.sittings import BATCH_FAULT, FAULT, Sittings
from llm.stand_in import Say

from spd_tools.errors import SpdToolsError
from spd_tools.llm import Answer, Ledger
from spd_tools.llm.prices import Prices
from spd_tools.llm.wire import worst_cost

N_CALLS = 400
MAX_CONCURRENT = 6
N_KILLS = 20


@pytest.fixture
def sittings(serve):
    """With a stand-in whose answers follow from the questions."""
    api = serve(lambda asked: Say({"label": asked.prompt[::-1], "confidence": 0.5}), seconds=0.01)
    with Sittings() as sittings:
        yield api, sittings


def stored(ledger: Ledger) -> dict[str, str | None]:
    """prompt -> answer"""
    prompts = {call.hash: call.prompt for call in calls(N_CALLS)}
    return {prompts[record.hash]: record.answer for record in ledger.calls() if record.status == "answered"}


def wait_for(api, n_asked: int, seconds: float) -> None:
    """Until so many have been asked, and then some."""
    patience = time.monotonic() + 60
    while len(api.asked) < n_asked:
        assert time.monotonic() < patience, "nothing is asked any more"
        time.sleep(0.001)
    time.sleep(seconds)


def test_killed_twenty_times_the_results_are_those_of_an_undisturbed_run(sittings, answer, ledger):
    api, processes = sittings
    choose = random.Random(0)
    known: dict[str, str | None] = {}
    under_way: set[str] = set()
    for kill in range(N_KILLS):
        n_before = len(api.asked)
        fault = FAULT if kill == N_KILLS // 2 else None
        process = processes.begin(n_calls=N_CALLS, max_concurrent=MAX_CONCURRENT, fault=fault, after=5)
        if fault is None:
            wait_for(api, n_before + choose.randrange(2), choose.uniform(0, 0.08))
            os.kill(process, signal.SIGKILL)
        assert processes.end() == signal.SIGKILL
        time.sleep(0.02)  # what has left the dead arrives
        asked = api.prompts[n_before:]
        assert not known.keys() & set(asked), "a stored answer was asked for again"
        assert len(set(asked)) == len(asked)
        repeated = [prompt for prompt in asked if prompt in api.prompts[:n_before]]
        assert set(repeated) <= under_way
        known = stored(ledger)
        lost = set(asked) - known.keys()
        assert len(lost) <= MAX_CONCURRENT, "more than was under way has to be repeated"
        under_way |= lost
    assert 0 < len(known) < N_CALLS, "the kills came while there was something to do"
    assert under_way
    n_before = len(api.asked)
    outcomes = answer(calls(N_CALLS), max_concurrent=32)
    assert not known.keys() & set(api.prompts[n_before:])
    assert {outcome.tag: outcome.value.label for outcome in outcomes} == undisturbed()
    check_accounts(api, ledger)


def undisturbed() -> dict[str, str]:
    return {call.tag: call.prompt[::-1] for call in calls(N_CALLS)}


def check_accounts(api, ledger: Ledger) -> None:
    """What was billed lies between what is known and what is feared; unknown are only requests that were cut off."""
    prices = Prices.load()
    price = prices.of(calls(1)[0].model)
    billed = sum(tokens * 100 + output * 500 for _, tokens, output in api.billed_tokens) / 10**9
    spending = ledger.spending()
    assert spending.dollars <= billed + 1e-12
    assert billed <= spending.dollars + spending.unknown_dollars
    assert 0 < spending.n_unknown <= N_KILLS * MAX_CONCURRENT
    most = spending.n_unknown * max(worst_cost(call, prices, price, batch=False) for call in calls(N_CALLS)) / 10**9
    assert spending.unknown_dollars <= most + 1e-12
    assert sum(record.repeats for record in ledger.calls()) > 0


def test_killed_between_answer_and_commit_one_group_is_repeated(sittings, answer, ledger):
    api, processes = sittings
    processes.begin(n_calls=10, max_concurrent=1, fault=FAULT, after=3)
    assert processes.end() == signal.SIGKILL
    assert (len(api.billed_tokens), len(stored(ledger)), ledger.spending().n_unknown) == (4, 3, 1)
    answer(calls(10), max_concurrent=1)
    assert len(api.asked) == 11
    assert api.prompts.count("Question 3") == 2


def test_killed_between_a_batch_and_its_id_nothing_is_created_again(sittings, answer, ledger):
    api, processes = sittings
    processes.begin(n_calls=3, max_concurrent=1, fault=BATCH_FAULT)
    assert processes.end() == signal.SIGKILL
    with pytest.raises(SpdToolsError, match="msgbatch_0000"):
        answer(calls(3), how="batches")
    assert (len(api.batches), ledger.spending().n_unknown) == (1, 3)
    api.end(api.batches[0])
    assert all(isinstance(outcome, Answer) for outcome in answer(calls(3), how="batches"))
    assert (len(api.batches), ledger.spending().n_unknown) == (1, 0)
