"""A limit that is never crossed, whatever the calls under way turn out to cost."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llm.asking import call, calls
from llm.stand_in import Drop, Refuse, Say

from spd_tools.errors import SpdToolsError
from spd_tools.llm import Answer, Budget, Ledger, NotSent
from spd_tools.llm.prices import Prices
from spd_tools.llm.wire import worst_cost


def worst() -> float:
    """Dollars of a call at its worst."""
    prices = Prices.load()
    asked = calls(1)[0]
    return worst_cost(asked, prices, prices.of(asked.model), batch=False) / 10**9


def counts(outcomes):
    return sum(isinstance(o, Answer) for o in outcomes), sum(isinstance(o, NotSent) for o in outcomes)


def test_the_rest_is_left_and_said_so(serve, answer, ledger, good):
    api = serve(Say(good.said, output_tokens=100))
    budget = 3 * worst()
    outcomes = answer(calls(40), budget=budget)
    answered, left = counts(outcomes)
    assert (answered + left, len(api.asked)) == (40, answered)
    assert left > 0
    assert ledger.spending().dollars <= budget
    assert ledger.spending().dollars + worst() > budget - worst()
    reason = next(o.reason for o in outcomes if isinstance(o, NotSent))
    assert "budget" in reason
    assert "$" in reason


def test_calls_that_cost_less_than_feared_make_room_for_others(serve, answer, good):
    """Eight at once do not fit at their worst, and still all are answered, for they cost a fraction of it."""
    serve(Say(good.said, output_tokens=1))
    assert counts(answer(calls(20), budget=2.5 * worst())) == (20, 0)


def test_a_budget_of_nothing_sends_nothing(serve, answer, good):
    api = serve(good)
    assert counts(answer(calls(3), budget=0)) == (0, 3)
    assert not api.asked


def test_known_answers_need_no_budget(serve, answer, good):
    serve(good)
    answer(calls(5))
    assert counts(answer(calls(5), budget=0)) == (5, 0)


def test_earlier_sittings_of_the_job_count(serve, answer, ledger, good):
    serve(Say(good.said, output_tokens=100))
    budget = 4 * worst()
    answer(calls(30), budget=budget, job="a")
    assert counts(answer(calls(60)[30:], budget=budget, job="a")) == (0, 30)
    assert counts(answer(calls(61)[60:], budget=budget, job="b")) == (1, 0)
    assert ledger.spending("a").dollars <= budget


def test_requests_of_unknown_outcome_count_at_their_worst(serve, answer, ledger):
    serve(Drop())
    budget = 2.5 * worst()
    (outcome, *_) = answer(calls(1), budget=budget)
    assert isinstance(outcome, NotSent)
    assert outcome.unknown_dollars == pytest.approx(2 * worst())
    assert ledger.spending().unknown_dollars <= budget


def test_refused_requests_cost_nothing(serve, answer, good):
    serve(lambda asked: good if asked.times else Refuse(429))
    assert counts(answer(calls(3), budget=1.3 * worst(), max_concurrent=1)) == (3, 0)


@pytest.mark.parametrize("dollars", [-1, float("nan"), float("inf")])
def test_impossible_budgets_are_refused(dollars):
    with pytest.raises(SpdToolsError, match="budget"):
        Budget(dollars)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 100), st.floats(0, 12), st.integers(1, 12), st.integers(0, 10**9))
def test_no_budget_is_ever_crossed(serve, answer, out_dir, output_tokens, share, max_concurrent, run):
    serve(Say({"label": "x", "confidence": 1}, output_tokens=output_tokens))
    budget = share * worst()
    job = f"{run} {output_tokens} {share} {max_concurrent}"
    asked = [call(f"{job} {i}") for i in range(20)]
    outcomes = answer(asked, budget=budget, max_concurrent=max_concurrent, job=job)
    assert len(outcomes) == 20
    assert Ledger.open("run", "f" * 64).spending(job).dollars <= budget
