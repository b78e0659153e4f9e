"""From replies and stored answers to outcomes."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pydantic import BaseModel

from spd_tools.llm import requests
from spd_tools.llm.call import Answer, Asked, Call, Failure, NotSent, Outcome, Usage
from spd_tools.llm.prices import NANO, Price, Prices
from spd_tools.llm.wire import Reply, plain, read_answer, why_no_answer

Commit = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]


def outcome_of(
    reply: Reply, schema: type[BaseModel] | None, prices: Prices, price: Price, *, batch: bool
) -> tuple[requests.Outcome, BaseModel | None]:
    """What a reply is worth, for the ledger, and its validated answer.

    Without a schema the text is taken for an answer, and checked when somebody asks for it.
    """
    reason = why_no_answer(reply)
    value: BaseModel | None = None
    if reason is None and schema is not None:
        read = read_answer(reply.text, schema)
        value, reason = (None, read) if isinstance(read, str) else (read, None)
    cost = prices.cost(prices.find(reply.model) or price, reply.usage, batch=batch)
    served = plain(reply.model)
    if reason is not None:
        return requests.Outcome(state="failed", usage=reply.usage, cost=cost, served=served, reason=reason), None
    return requests.Outcome(state="answered", usage=reply.usage, cost=cost, served=served, answer=reply.text), value


class _Paid(Protocol):
    @property
    def usage(self) -> Usage: ...
    @property
    def cost(self) -> int: ...
    @property
    def seconds(self) -> float | None: ...
    @property
    def request_id(self) -> str | None: ...


def answer_of(call: Call | Asked, outcome: requests.Outcome, value: BaseModel, ended: str) -> Answer:
    """An answer that has just been paid."""
    assert outcome.served is not None
    return _answer(call, outcome, value, model=outcome.served, time=ended, from_ledger=False)


async def stored_answer(call: Call | Asked, stored: requests.Stored, commit: Commit, *, from_ledger: bool) -> Outcome:
    """An answer that is in the ledger; a failure when it does not fit the schema, and then it is there no more."""
    value = read_answer(stored.text, call.schema)
    if isinstance(value, str):
        reason = value
        await commit(lambda connection: requests.reject_answer(connection, stored, reason))
        return failure(call, reason, 0 if from_ledger else stored.cost)
    return _answer(call, stored, value, model=stored.model, time=stored.time, from_ledger=from_ledger)


def _answer(call: Call | Asked, paid: _Paid, value: BaseModel, *, model: str, time: str, from_ledger: bool) -> Answer:
    return Answer(
        call_hash=call.hash,
        tag=call.tag,
        value=value,
        model=model,
        usage=paid.usage,
        dollars=paid.cost / NANO,
        seconds=paid.seconds,
        request_id=paid.request_id,
        time=time,
        from_ledger=from_ledger,
    )


def failure(call: Call | Asked, reason: str, cost: int) -> Failure:
    """A call without an answer, and the nanodollars that were paid."""
    return Failure(call_hash=call.hash, tag=call.tag, reason=reason, dollars=cost / NANO, unknown_dollars=0.0)


def not_sent(call: Call | Asked, reason: str) -> NotSent:
    """A call that was not sent."""
    return NotSent(call_hash=call.hash, tag=call.tag, reason=reason, dollars=0.0, unknown_dollars=0.0)
