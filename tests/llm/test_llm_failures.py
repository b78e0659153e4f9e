"""Everything that can go wrong with a call: what is stored, and what is paid."""

from __future__ import annotations

import pytest
from llm.asking import MODEL, QUICK, call, calls
from llm.stand_in import Drop, Raw, Refuse, Say

from spd_tools.errors import SpdToolsError
from spd_tools.llm import Answer, Failure, Retries, Spending

PRICE_OF_ONE = (6 * 100 + 20 * 500) / 10**9
"""Dollars of the call "What is it?" (with system: 6 tokens) and an answer of 20."""


def only(ledger):
    (record,) = ledger.calls()
    return record


BAD_ANSWERS = {
    "refusal": (Say("", stop_reason="refusal"), "refused"),
    "truncated": (Say('{"label": "com', stop_reason="max_tokens"), "cut off"),
    "malformed": (Say('{"label": "com'), "does not fit the schema"),
    "prose": (Say("It is commas."), "does not fit the schema"),
    "missing field": (Say({"label": "commas"}), "confidence"),
    "out of range": (Say({"label": "commas", "confidence": 7}), "less than or equal to 1"),
    "not a number": (Say('{"label": "commas", "confidence": NaN}'), "confidence"),
    "half a character": (Say('{"label": "\\ud800", "confidence": 0.5}'), "does not fit the schema"),
    "stopped": (Say("", stop_reason="model_context_window_exceeded"), "stopped"),
}


@pytest.mark.parametrize(("reply", "named"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_a_bad_answer_costs_its_call_and_nothing_else(serve, answer, ledger, good, reply, named):
    serve(lambda asked: reply if asked.prompt == "What is it?" else good)
    outcomes = {outcome.call_hash: outcome for outcome in answer([call(), call("Another?")])}
    bad, other = (outcomes[asked.hash] for asked in (call(), call("Another?")))
    assert isinstance(other, Answer)
    assert isinstance(bad, Failure)
    assert named in bad.reason
    assert bad.dollars == pytest.approx(PRICE_OF_ONE)
    record = next(record for record in ledger.calls() if record.hash == call().hash)
    assert (record.status, record.answer, record.attempts) == ("failed", None, 1)
    assert record.dollars == pytest.approx(PRICE_OF_ONE)
    assert record.reason == bad.reason


def test_a_failed_call_is_tried_again_in_the_next_sitting(serve, answer, ledger, good):
    serve(lambda asked: good if asked.times else Say("{"))
    assert isinstance(answer([call()])[0], Failure)
    assert isinstance(answer([call()])[0], Answer)
    record = only(ledger)
    assert (record.status, record.attempts) == ("answered", 2)
    assert record.dollars == pytest.approx(2 * PRICE_OF_ONE)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504, 529])
def test_what_may_pass_is_tried_again(serve, answer, ledger, good, status):
    api = serve(lambda asked: good if asked.times == 2 else Refuse(status))
    (outcome,) = answer([call()])
    assert isinstance(outcome, Answer)
    assert len(api.asked) == 3
    assert (only(ledger).attempts, only(ledger).dollars) == (3, pytest.approx(PRICE_OF_ONE))


def test_patience_ends(serve, answer, ledger):
    api = serve(Refuse(529, "overloaded"))
    (outcome,) = answer([call()])
    assert isinstance(outcome, Failure)
    assert "529" in outcome.reason
    assert "overloaded" in outcome.reason
    assert (len(api.asked), outcome.dollars, only(ledger).dollars) == (3, 0, 0)


def test_the_server_s_pause_is_kept(serve, answer, good):
    api = serve(lambda asked: good if asked.times else Refuse(429, headers={"retry-after-ms": "30"}))
    (outcome,) = answer([call()], retries=Retries(first_seconds=1000, longest_seconds=1000))
    assert isinstance(outcome, Answer)
    assert len(api.asked) == 2


def test_a_pause_that_is_too_long_ends_the_call(serve, answer):
    api = serve(Refuse(429, headers={"retry-after": "90000"}))
    (outcome,) = answer([call()])
    assert isinstance(outcome, Failure)
    assert len(api.asked) == 1


def test_a_bad_request_is_not_repeated(serve, answer, ledger):
    api = serve(Refuse(400, "prompt is too\x1b[2J long"))
    (outcome,) = answer([call()])
    assert isinstance(outcome, Failure)
    assert "prompt is too [2J long" in outcome.reason
    assert (len(api.asked), only(ledger).dollars) == (1, 0)


@pytest.mark.parametrize("status", [401, 402, 403, 404])
def test_what_every_call_would_share_ends_everything(serve, answer, ledger, status):
    api = serve(Refuse(status))
    with pytest.raises(SpdToolsError, match=f"status {status}"):
        answer(calls(50), max_concurrent=1)
    assert len(api.asked) == 1
    assert ledger.spending() == Spending(dollars=0, unknown_dollars=0, n_unknown=0)


def test_a_lost_connection_is_counted_at_its_worst_and_tried_again(serve, answer, ledger, good):
    serve(lambda asked: good if asked.times else Drop())
    (outcome,) = answer([call()])
    assert isinstance(outcome, Answer)
    record = only(ledger)
    assert (record.attempts, record.repeats) == (2, 1)
    assert record.dollars == pytest.approx(PRICE_OF_ONE)
    assert record.unknown_dollars > 100 * 500 / 10**9


LOST = {
    "no answer": Drop(),
    "half an answer": Raw(b'{"id": "msg', claimed=1000),
    "no message": Raw(b'{"hello": "there"}'),
    "no JSON": Raw(b"<html>"),
    "half a character": Say('{"label": "\ud800", "confidence": 0.5}'),
}


@pytest.mark.parametrize("reply", LOST.values(), ids=LOST)
def test_nobody_claims_to_know_what_a_lost_reply_has_cost(serve, answer, ledger, reply):
    serve(reply)
    (outcome,) = answer([call()])
    assert isinstance(outcome, Failure)
    assert outcome.dollars == 0
    assert outcome.unknown_dollars == pytest.approx(only(ledger).unknown_dollars)
    assert (only(ledger).status, only(ledger).attempts) == ("sent", QUICK.attempts)
    assert ledger.spending().n_unknown == QUICK.attempts


def test_a_very_slow_answer_is_not_waited_for(serve, answer, ledger, good):
    slow = Say(good.said, seconds=5)
    serve(lambda asked: good if asked.times else slow)
    (outcome,) = answer([call()], timeout_seconds=0.2)
    assert isinstance(outcome, Answer)
    assert only(ledger).unknown_dollars > 0


def test_no_connection_ends_everything_and_costs_nothing(serve, answer, ledger, good, monkeypatch):
    api = serve(good)
    api.__exit__()
    monkeypatch.setattr(api, "__exit__", lambda *error: None)
    with pytest.raises(SpdToolsError, match="no connection"):
        answer([call()])
    assert ledger.spending().unknown_dollars == 0
    api.__enter__()


def test_another_model_that_serves_is_recorded_and_priced(serve, answer, ledger):
    serve(Say({"label": "x", "confidence": 1}, model="claude-opus-5-5"))
    (outcome,) = answer([call()])
    assert outcome.model == only(ledger).served == "claude-opus-5-5"
    assert only(ledger).model == MODEL
    assert outcome.dollars == pytest.approx(PRICE_OF_ONE * 40)


@pytest.mark.parametrize("key", [None, "", "two words", "schlüssel"])
def test_without_a_key_nothing_is_sent(serve, answer, good, monkeypatch, key):
    api = serve(good)
    monkeypatch.delenv("ANTHROPIC_API_KEY") if key is None else monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    with pytest.raises(SpdToolsError, match="ANTHROPIC_API_KEY"):
        answer([call()])
    assert not api.asked


def test_an_unknown_price_stops_before_anything_is_sent(serve, answer, good):
    api = serve(good)
    with pytest.raises(SpdToolsError, match="price of model"):
        answer([call(model="claude-unheard-of")])
    assert not api.asked


def test_a_prompt_that_the_price_does_not_cover_is_not_sent(serve, answer, good):
    api = serve(good)
    (outcome,) = answer([call("word " * 30_000)])
    assert "Not sent" in outcome.reason
    assert not api.asked


def test_what_builds_the_calls_may_fail(serve, answer, good):
    serve(good)

    def broken():
        yield call()
        raise SpdToolsError("The harvest is gone; bring it back.")

    with pytest.raises(SpdToolsError, match="harvest is gone"):
        answer(broken())
