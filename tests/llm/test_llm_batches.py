"""Batches: half the price, found again after a kill, never created twice."""

from __future__ import annotations

import asyncio

import pytest
from llm.asking import MODEL, QUICK, call, calls
from llm.stand_in import Canceled, Drop, Expired, Refuse, Say

from spd_tools.errors import SpdToolsError
from spd_tools.llm import Answer, BatchSettings, Failure, LanguageModel, NotSent, abandon_batch, adopt_batch
from spd_tools.llm.prices import Prices
from spd_tools.llm.wire import worst_cost


@pytest.fixture
def batch(answer):
    return lambda calls, **settings: answer(calls, how="batches", **settings)


def worst() -> float:
    prices = Prices.load()
    return worst_cost(calls(1)[0], prices, prices.of(MODEL), batch=True) / 10**9


def test_a_batch_costs_half_and_is_stored(serve, answer, batch, ledger, good):
    api = serve(good)
    outcomes = batch(calls(3))
    assert sorted(outcome.tag for outcome in outcomes) == ["h.0:0", "h.0:1", "h.0:2"]
    assert all(isinstance(outcome, Answer) and not outcome.from_ledger for outcome in outcomes)
    single = answer([call("Question 9")])[0]
    assert outcomes[0].dollars == pytest.approx(single.dollars / 2)
    assert all(outcome.from_ledger for outcome in answer(calls(3)))
    assert (len(api.batches), len(api.asked), ledger.spending().n_unknown) == (1, 1, 0)


def test_each_result_finds_its_call(serve, batch):
    serve(lambda asked: Say({"label": asked.prompt, "confidence": 1}))
    assert {o.tag: o.value.label for o in batch(calls(7))} == {f"h.0:{i}": f"Question {i}" for i in range(7)}


def test_many_calls_become_several_batches(serve, batch, good):
    api = serve(good)
    assert len(batch(calls(25))) == 25
    assert [len(made.requests) for made in api.batches] == [10, 10, 5]


def test_the_same_call_twice_is_in_a_batch_once(serve, batch, good):
    api = serve(good)
    outcomes = batch([call(tag="a"), call(tag="b")])
    assert [len(made.requests) for made in api.batches] == [1]
    assert sorted((o.tag, o.from_ledger) for o in outcomes) == [("a", False), ("b", True)]


def test_what_is_known_is_in_no_batch(serve, answer, batch, good):
    api = serve(good)
    answer(calls(2))
    assert len(batch(calls(3))) == 3
    assert [len(made.requests) for made in api.batches] == [1]


BAD_RESULTS = {
    "errored": (Refuse(500, "oops"), "oops", 0),
    "canceled": (Canceled(), "canceled", 0),
    "expired": (Expired(), "expired", 0),
    "refusal": (Say("", stop_reason="refusal"), "refused", 1),
    "malformed": (Say("{"), "does not fit", 1),
    "truncated": (Say("{", stop_reason="max_tokens"), "cut off", 1),
    "out of range": (Say({"label": "x", "confidence": 3}), "confidence", 1),
}


@pytest.mark.parametrize(("reply", "named", "paid"), BAD_RESULTS.values(), ids=BAD_RESULTS)
def test_a_bad_result_costs_its_call_and_nothing_else(serve, batch, ledger, good, reply, named, paid):
    serve(lambda asked: reply if asked.prompt == "Question 1" else good)
    outcomes = {outcome.tag: outcome for outcome in batch(calls(3))}
    bad = outcomes.pop("h.0:1")
    assert isinstance(bad, Failure)
    assert named in bad.reason
    assert (bad.dollars > 0) == bool(paid)
    assert all(isinstance(outcome, Answer) for outcome in outcomes.values())
    record = next(record for record in ledger.calls() if record.tag == "h.0:1")
    assert (record.status, record.answer, record.dollars) == ("failed", None, bad.dollars)


def test_a_failed_call_is_in_the_next_batch_again(serve, batch, good):
    serve(lambda asked: good if asked.times else Expired())
    assert isinstance(batch([call()])[0], Failure)
    assert isinstance(batch([call()])[0], Answer)


def stop_early(ledger, **settings):
    """Create a batch of three and leave while it is under way."""

    async def leave():
        outcomes = LanguageModel(ledger, retries=QUICK).answer_in_batches(calls(3), BatchSettings(poll_seconds=60))
        waiting = asyncio.ensure_future(anext(outcomes))
        while not any(record.status == "sent" for record in ledger.calls()) or not settings["api"].batches:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await outcomes.aclose()

    asyncio.run(leave())


def test_a_batch_is_found_again_by_its_id(serve, batch, ledger, good):
    api = serve(good, polls=3)
    stop_early(ledger, api=api)
    outcomes = batch(calls(3))
    assert all(isinstance(outcome, Answer) for outcome in outcomes)
    assert len(api.batches) == 1
    assert len(api.billed_tokens) == 3


def test_calls_in_an_open_batch_are_not_sent_one_by_one(serve, answer, batch, ledger, good):
    api = serve(good, polls=3)
    stop_early(ledger, api=api)
    (outcome, *_) = answer(calls(3))
    assert isinstance(outcome, NotSent)
    assert "--batch" in outcome.reason
    assert not api.asked
    assert len(batch(calls(3))) == 3


def uncertain(batch, api, *, created: bool) -> str:
    """Lose the connection while a batch is being created; the sentence."""
    api.on_batch = lambda n: Drop() if n == 0 else None
    api.create_before_failing = created
    with pytest.raises(SpdToolsError) as error:
        batch(calls(3))
    return str(error.value)


def name_in(sentence: str) -> str:
    return sentence.split("batch ")[1].split(" ")[0]


def test_an_intention_without_a_batch_is_reported_with_candidates(serve, batch, ledger, good):
    api = serve(good, polls=100)
    first = uncertain(batch, api, created=True)
    with pytest.raises(SpdToolsError) as again:
        batch(calls(3))
    for sentence in (first, str(again.value)):
        assert "msgbatch_0000" in sentence
        assert "--adopt-batch" in sentence
    assert (len(api.batches), api.n_batch_attempts) == (1, 1)
    assert ledger.spending().unknown_dollars == pytest.approx(3 * worst())


def test_batches_of_others_are_no_candidates(serve, batch, good):
    api = serve(good, polls=1)
    batch(calls(30)[20:23])
    sentence = uncertain_after(batch, api)
    assert "msgbatch_0000" not in sentence
    assert "none" in sentence


def uncertain_after(batch, api) -> str:
    api.on_batch = lambda n: Drop()
    with pytest.raises(SpdToolsError) as error:
        batch(calls(3))
    return str(error.value)


def test_a_batch_that_has_ended_is_recognised_by_its_requests(serve, batch, good):
    api = serve(good, polls=100)
    uncertain(batch, api, created=True)
    api.end(api.batches[0])
    assert all(isinstance(outcome, Answer) for outcome in batch(calls(3)))
    assert (len(api.batches), len(api.billed_tokens)) == (1, 3)


def test_a_user_can_say_which_batch_it_is(serve, batch, ledger, good):
    api = serve(good, polls=3)
    name = name_in(uncertain(batch, api, created=True))
    adopt_batch(ledger, name, "msgbatch_0000")
    assert len(batch(calls(3))) == 3
    assert (len(api.batches), ledger.spending().n_unknown) == (1, 0)


def test_a_user_can_say_that_there_is_none(serve, batch, ledger, good):
    api = serve(good)
    name = name_in(uncertain(batch, api, created=False))
    abandon_batch(ledger, name)
    assert all(isinstance(outcome, Answer) for outcome in batch(calls(3)))
    assert len(api.batches) == 1
    assert ledger.spending().n_unknown == 3
    assert {record.repeats for record in ledger.calls()} == {1}


@pytest.mark.parametrize(
    "act", [lambda ledger: adopt_batch(ledger, "b-1", "x"), lambda ledger: abandon_batch(ledger, "b-1")]
)
def test_an_unknown_intention_is_refused(ledger, act):
    with pytest.raises(SpdToolsError, match="'b-1'"):
        act(ledger)


def test_a_batch_that_was_refused_is_not_uncertain(serve, batch, ledger, good):
    api = serve(good)
    api.on_batch = lambda n: Refuse(400, "bad batch") if n == 0 else None
    with pytest.raises(SpdToolsError, match="bad batch"):
        batch(calls(3))
    assert ledger.spending().unknown_dollars == 0
    assert len(batch(calls(3))) == 3


def test_an_overloaded_server_is_asked_again(serve, batch, good):
    api = serve(good)
    api.on_batch = lambda n: Refuse(529) if n == 0 else None
    assert len(batch(calls(3))) == 3
    assert (len(api.batches), api.n_batch_attempts) == (1, 2)


def test_a_server_error_leaves_it_uncertain(serve, batch, good):
    api = serve(good)
    api.on_batch = lambda n: Refuse(500)
    with pytest.raises(SpdToolsError, match="Nobody knows"):
        batch(calls(3))
    assert api.n_batch_attempts == 1


def test_the_budget_holds_for_batches(serve, batch, ledger, good):
    serve(Say(good.said, output_tokens=100))
    budget = 4.5 * worst()
    outcomes = batch(calls(40), budget=budget)
    left = [outcome for outcome in outcomes if isinstance(outcome, NotSent)]
    assert (len(outcomes), 0 < len(left) < 40) == (40, True)
    assert ledger.spending().dollars <= budget


def test_batches_that_cost_less_than_feared_make_room_for_others(serve, batch, good):
    api = serve(Say(good.said, output_tokens=1))
    assert all(isinstance(outcome, Answer) for outcome in batch(calls(12), budget=5 * worst()))
    assert len(api.batches) > 1
