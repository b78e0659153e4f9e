"""What calls will cost, before any of them is made."""

from __future__ import annotations

from collections.abc import Sequence

from spd_tools.errors import SpdToolsError
from spd_tools.llm.api import Api, has_key, insistently
from spd_tools.llm.call import Call, Usage
from spd_tools.llm.ledger import Ledger
from spd_tools.llm.prices import NANO, Prices
from spd_tools.llm.retries import Retries
from spd_tools.llm.wire import input_bound, request_body
from spd_tools.store.records import Record

_TIMEOUT_SECONDS = 60.0


class Estimate(Record):
    """Tokens and dollars of calls like those of a sample, nothing cached and nothing known from the ledger."""

    n_calls: int
    n_sampled: int
    prices_of: str
    """Date of the prices."""
    input_tokens: int
    """Of all calls."""
    counted: bool
    """Whether the API counted those of the sample; else they are an upper bound (a token per byte)."""
    output_tokens: int | None
    """To be expected of all calls, from earlier answers to calls of the same purpose; None while there are none."""
    output_tokens_at_most: int
    dollars: float | None
    """To be expected; None where ``output_tokens`` is."""
    dollars_at_most: float


async def estimate(
    sample: Sequence[Call], n_calls: int, *, ledger: Ledger | None = None, batch: bool = False
) -> Estimate:
    """What ``n_calls`` calls like those of the sample will cost.

    Counting tokens is free, and is done where there is a key.

    Raises:
        SpdToolsError: for an empty sample, an unknown price, or when the API does not count.
    """
    if not sample or n_calls < 0:
        raise SpdToolsError(f"Nothing can be said about {n_calls} calls from a sample of {len(sample)}; give some.")
    prices = Prices.load()
    counted = has_key()
    inputs = await _count(sample, prices) if counted else [input_bound(call) for call in sample]
    outputs = [_expected_output(call, ledger) for call in sample]
    known = [output for output in outputs if output is not None]

    def total(values: Sequence[float]) -> int:
        return round(sum(values) / len(sample) * n_calls)

    def dollars(output_tokens: Sequence[float]) -> float:
        costs = [
            prices.cost(prices.of(call.model), _usage(read, written), batch=batch)
            for call, read, written in zip(sample, inputs, output_tokens, strict=True)
        ]
        return total(costs) / NANO

    at_most = [call.max_tokens for call in sample]
    complete = len(known) == len(sample)
    return Estimate(
        n_calls=n_calls,
        n_sampled=len(sample),
        prices_of=prices.date,
        input_tokens=total(inputs),
        counted=counted,
        output_tokens=total(known) if complete else None,
        output_tokens_at_most=total(at_most),
        dollars=dollars(known) if complete else None,
        dollars_at_most=dollars(at_most),
    )


def _usage(input_tokens: float, output_tokens: float) -> Usage:
    return Usage(input=round(input_tokens), output=round(output_tokens), cache_read=0, cache_write=0)


def _expected_output(call: Call, ledger: Ledger | None) -> float | None:
    mean, n = ledger.typical_output(call.purpose, call.model) if ledger is not None else (0.0, 0)
    return mean if n else None


async def _count(sample: Sequence[Call], prices: Prices) -> list[int]:
    api = Api(max_concurrent=1, timeout_seconds=_TIMEOUT_SECONDS)
    try:
        pause = Retries().pause
        bodies = [request_body(call, prices.of(call.model)) for call in sample]
        return [await insistently(lambda body=body: api.count_tokens(body), pause) for body in bodies]
    finally:
        await api.close()
