"""Paid once: what is stored is found again, and stored before it is used."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from llm.asking import Label, ask, call, calls, model
from llm.stand_in import Say
from pydantic import BaseModel, Field, field_validator

from spd_tools.errors import SpdToolsError
from spd_tools.llm import Answer, Failure, Ledger
from spd_tools.settings import Settings


def file_of(run: str) -> Path:
    return Settings.from_environment().annotations(run)


def test_an_answer_says_what_was_paid_and_who_served(serve, answer, ledger, good):
    serve(Say(good.said, cache_read=2, cache_write=1, output_tokens=7))
    (outcome,) = answer([call(tag="h.0:3")])
    assert outcome.value == Label(label="commas", confidence=0.5)
    assert outcome.usage.model_dump() == {"input": 3, "output": 7, "cache_read": 2, "cache_write": 1}
    assert outcome.dollars == pytest.approx((3 * 100 + 2 * 10 + 1 * 125 + 7 * 500) / 10**9)
    (record,) = ledger.calls()
    assert (record.status, record.tag, record.purpose, record.attempts) == ("answered", "h.0:3", "label", 1)
    assert (record.usage, record.dollars, record.request_id) == (outcome.usage, outcome.dollars, outcome.request_id)
    assert record.request_id is not None
    assert Label.model_validate_json(record.answer or "") == outcome.value


def test_nothing_that_is_stored_is_sent_again(serve, answer, good):
    api = serve(good)
    first = answer(calls(20))
    again = answer(calls(20))
    assert len(api.asked) == 20
    assert all(outcome.from_ledger for outcome in again)
    assert not any(outcome.from_ledger for outcome in first)
    assert by_tag(first) == by_tag(again)


def test_what_is_stored_needs_no_key(serve, answer, good, monkeypatch):
    serve(good)
    answer(calls(3))
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert all(outcome.from_ledger for outcome in answer(calls(3)))


def by_tag(outcomes):
    return {outcome.tag: outcome.model_copy(update={"from_ledger": None}) for outcome in outcomes}


def test_an_answer_is_found_by_another_purpose(serve, answer, good):
    api = serve(good)
    answer([call(purpose="label", tag="a")])
    (outcome,) = answer([call(purpose="other", tag="b")])
    assert (outcome.tag, outcome.from_ledger, len(api.asked)) == ("b", True, 1)


def test_the_same_call_twice_is_sent_once(serve, answer, good):
    api = serve(good, seconds=0.02)
    outcomes = answer([call(tag=str(i)) for i in range(6)])
    assert len(api.asked) == 1
    assert sorted(outcome.tag for outcome in outcomes) == list("012345")
    assert sum(not outcome.from_ledger for outcome in outcomes) == 1


def test_the_same_failing_call_twice_is_sent_and_paid_once(serve, answer, ledger):
    api = serve(Say("{"))
    outcomes = answer([call(tag=str(i)) for i in range(6)])
    assert len(api.asked) == 1
    assert sum(outcome.dollars for outcome in outcomes) == pytest.approx(ledger.spending().dollars)


def test_an_answer_is_on_disk_before_it_is_used(serve, ledger, good):
    serve(good)

    async def check():
        async for outcome in model(ledger).answer(calls(20)):
            stored = {record.hash for record in Ledger.open("run", "f" * 64).calls() if record.status == "answered"}
            assert outcome.call_hash in stored

    asyncio.run(check())


def test_a_request_is_on_disk_before_it_leaves(serve, answer, ledger, good):
    unknown = []

    def rule(asked):
        known = {record.hash: record.status for record in Ledger.open("run", "f" * 64).calls()}
        if known.get(call(asked.prompt).hash) != "sent":
            unknown.append(asked.prompt)
        return good

    serve(rule)
    assert len(answer(calls(10))) == 10
    assert not unknown


def test_calls_are_built_when_there_is_room(serve, ledger, good):
    serve(good)
    built = 0

    def supply():
        nonlocal built
        for one in calls(200):
            built += 1
            yield one

    async def check():
        used = 0
        async for _ in model(ledger, max_concurrent=4).answer(supply()):
            used += 1
            assert built - used <= 2 * (4 + 8) + 1
        assert used == 200

    asyncio.run(check())


def test_who_stops_early_leaves_no_request_behind(serve, ledger, good):
    api = serve(good)

    async def first():
        outcomes = model(ledger).answer(calls(100))
        async for outcome in outcomes:
            await outcomes.aclose()
            return outcome

    assert isinstance(asyncio.run(first()), Answer)
    assert len(api.asked) < 50
    assert api.under_way == 0


class Even(BaseModel):
    """The same schema as before, and a rule that the schema does not show."""

    label: str
    confidence: float = Field(ge=0, le=1)

    @field_validator("label")
    @classmethod
    def _has_even_length(cls, label: str) -> str:
        if len(label) % 2:
            raise ValueError("it is odd")
        return label


Even.__name__ = Even.__qualname__ = "Label"


def test_a_stored_answer_that_does_not_fit_any_more_is_asked_for_in_the_next_sitting(serve, answer):
    api = serve(
        lambda asked: Say({"label": "ab", "confidence": 1}) if asked.times else Say({"label": "a", "confidence": 1})
    )
    stricter = call(schema=type("Label", (Even,), {"__doc__": None}))
    assert stricter.hash == call().hash
    assert isinstance(answer([call()])[0], Answer)
    (refused,) = answer([stricter])
    assert isinstance(refused, Failure)
    assert (refused.dollars, len(api.asked)) == (0, 1)
    assert answer([stricter])[0].value.label == "ab"


def test_a_ledger_of_another_version_is_refused(serve, answer, ledger, good):
    serve(good)
    answer([call()])
    with sqlite3.connect(file_of("run")) as connection:
        connection.execute("UPDATE meta SET value = '99' WHERE name = 'llm_version'")
    with pytest.raises(SpdToolsError, match="version 99"):
        Ledger.open("run", "f" * 64)


def test_the_ledger_of_another_decomposition_is_refused(serve, answer, good):
    serve(good)
    answer([call()])
    with pytest.raises(SpdToolsError, match="fingerprint"):
        Ledger.open("run", "0" * 64)


def test_an_unwritten_ledger_is_empty(ledger):
    assert ledger.calls() == []
    assert ledger.spending().dollars == 0
    assert not file_of("run").exists()


def test_a_ledger_that_cannot_be_written_ends_everything(serve, ledger, good, monkeypatch):
    api = serve(good)

    def full(operations):
        raise SpdToolsError("The disk is full; free space.")

    monkeypatch.setattr(ledger, "transaction", full)
    with pytest.raises(SpdToolsError, match="disk is full"):
        asyncio.run(ask(ledger, calls(5)))
    assert not api.asked


def test_two_processes_agree_on_one_answer(serve, ledger, good):
    """Both ask at once; the ledger keeps one answer, and both rows of what was paid."""
    api = serve(good, seconds=0.05)

    async def both():
        return await asyncio.gather(ask(ledger, [call()]), ask(Ledger.open("run", "f" * 64), [call()]))

    (one,), (other,) = asyncio.run(both())
    assert one.value == other.value
    (record,) = ledger.calls()
    assert record.attempts == len(api.asked) == len(api.billed_tokens)
