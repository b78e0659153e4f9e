"""Between calls and the Messages API: what is sent, what comes back, and whether that is an answer."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spd_tools.llm.call import Call, Usage, schema_json
from spd_tools.llm.prices import Price, Prices

_OVERHEAD_TOKENS = 1_000
"""At most, of what the API wraps around system prompt, prompt and schema."""
_BYTES_PER_TOKEN = 4
"""Typical, to guess whether a prefix is long enough to be cached. Not a bound."""
_MAX_REASON = 300


def request_body(call: Call, price: Price) -> dict[str, Any]:
    """Arguments of ``messages.create``."""
    body: dict[str, Any] = {
        "model": call.model,
        "max_tokens": call.max_tokens,
        "messages": [{"role": "user", "content": call.prompt}],
        "output_config": _output_config(call),
    }
    if call.system:
        body["system"] = [_system_block(call, price)]
    return body


def _output_config(call: Call) -> dict[str, Any]:
    config: dict[str, Any] = {"format": {"type": "json_schema", "schema": _wire_schema(call.schema)}}
    return config if call.effort is None else config | {"effort": call.effort}


@lru_cache(maxsize=256)
def _wire_schema(schema: type[BaseModel]) -> dict[str, Any]:
    from anthropic import transform_schema

    return transform_schema(schema)


def _system_block(call: Call, price: Price) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "text", "text": call.system}
    return block | {"cache_control": {"type": "ephemeral"}} if is_cached(call, price) else block


def is_cached(call: Call, price: Price) -> bool:
    """Whether the API is asked to cache the system prompt; for one that is too short it would do nothing."""
    return len(call.system.encode()) >= price.cache_minimum_tokens * _BYTES_PER_TOKEN


def input_bound(call: Call) -> int:
    """No fewer tokens than the request has: a byte is at least no less than a token."""
    schema = len(schema_json(call.schema).encode())
    return len(call.system.encode()) + len(call.prompt.encode()) + 2 * schema + _OVERHEAD_TOKENS


def likely_input(call: Call) -> int:
    """Input tokens, about."""
    return (len(call.system) + len(call.prompt)) // _BYTES_PER_TOKEN + 1


def unpriced(call: Call, price: Price) -> str | None:
    """A sentence when the call may be longer than the prompts that the price is for."""
    if price.max_prompt_tokens is None or input_bound(call) <= price.max_prompt_tokens:
        return None
    return (
        f"Not sent: it may have {input_bound(call):,} input tokens, and the price of {plain(call.model)} is known for "
        f"up to {price.max_prompt_tokens:,}; shorten the prompt."
    )


def worst_cost(call: Call, prices: Prices, price: Price, *, batch: bool) -> int:
    """Nanodollars that the call can cost at most."""
    bound = input_bound(call)
    written = bound if is_cached(call, price) else 0
    usage = Usage(input=bound - written, output=call.max_tokens, cache_read=0, cache_write=written)
    return prices.cost(price, usage, batch=batch)


class _Block(BaseModel):
    type: str
    text: str = ""


class _WireUsage(BaseModel):
    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)
    cache_read_input_tokens: int | None = Field(default=None, ge=0)
    cache_creation_input_tokens: int | None = Field(default=None, ge=0)


class Reply(BaseModel):
    """A message of the model, read leniently: what we do not use may be anything."""

    model_config = ConfigDict(frozen=True)

    model: str
    content: list[_Block]
    stop_reason: str | None
    wire_usage: _WireUsage = Field(alias="usage")

    @property
    def text(self) -> str:
        """Everything said, thinking left out."""
        return "".join(block.text for block in self.content if block.type == "text")

    @property
    def usage(self) -> Usage:
        """Tokens billed."""
        found = self.wire_usage
        return Usage(
            input=found.input_tokens,
            output=found.output_tokens,
            cache_read=found.cache_read_input_tokens or 0,
            cache_write=found.cache_creation_input_tokens or 0,
        )


def why_no_answer(reply: Reply) -> str | None:
    """A sentence when the model did not come to the end of an answer; None when it did."""
    match reply.stop_reason:
        case "end_turn":
            return None
        case "refusal":
            return "The model refused to answer."
        case "max_tokens":
            return "The answer was cut off at the maximum number of tokens."
        case other:
            return f"The model stopped before an answer ({plain(str(other))})."


def read_answer(text: str, schema: type[BaseModel]) -> BaseModel | str:
    """The validated answer, or a sentence that says what is wrong with it."""
    try:
        return schema.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        return plain(f"The answer does not fit the schema{f' at {where}' if where else ''}: {first['msg']}.")


def plain(text: str) -> str:
    """Text of servers and models, fit for a sentence: short, on one line, nothing in it that steers a terminal."""
    shown = "".join(char if char.isprintable() else " " for char in text)
    return shown if len(shown) <= _MAX_REASON else shown[: _MAX_REASON - 1] + "…"
