"""A question to a language model, and what can become of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

from pydantic import BaseModel

from spd_tools.errors import SpdToolsError
from spd_tools.store.records import Record

Effort = Literal["low", "medium", "high"]
MAX_ANSWER_TOKENS = 20_000
"""Answers are not streamed, and the API gives those ten minutes, which is time for about so many tokens."""
_HASH_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Call:
    """One question, complete.

    Raises:
        SpdToolsError: for a blank prompt or model, text that is no Unicode, or an impossible number of tokens.
    """

    purpose: str
    """What it is for, for example "label"; not in the hash."""
    model: str
    system: str
    """The prefix that calls of one purpose share; cached by the API where it is long enough. May be empty."""
    prompt: str
    schema: type[BaseModel]
    """What the answer must be. Bounds reach the model as descriptions; the answer is validated when it is there."""
    max_tokens: int
    """Of the answer, thinking included."""
    effort: Effort | None = None
    tag: str = ""
    """For reports, for example a component's key; not in the hash."""

    def __post_init__(self) -> None:
        if not self.model.strip() or not self.prompt.strip():
            raise SpdToolsError(f"A call for {self.purpose!r} has a blank prompt or model; give it both.")
        if not 1 <= self.max_tokens <= MAX_ANSWER_TOKENS:
            raise SpdToolsError(
                f"A call for {self.purpose!r} asks for {self.max_tokens:,} tokens; choose from 1 to "
                f"{MAX_ANSWER_TOKENS:,}."
            )
        try:
            for text in (self.model, self.system, self.prompt, self.purpose, self.tag):
                text.encode()
        except UnicodeEncodeError:
            raise SpdToolsError(
                f"A call for {self.purpose!r} holds half of a surrogate pair, which is no character; replace it."
            ) from None

    @cached_property
    def hash(self) -> str:
        """sha256 (hex) of everything that determines the answer."""
        determining = [_HASH_VERSION, self.model, self.system, self.prompt, self.max_tokens, self.effort]
        head = json.dumps(determining, separators=(",", ":"))
        return hashlib.sha256(f"{head}\n{schema_json(self.schema)}".encode()).hexdigest()

    @property
    def asked(self) -> Asked:
        """The call without its texts."""
        return Asked(self.hash, self.tag, self.schema)


@dataclass(frozen=True)
class Asked:
    """What is remembered of a call while its batch is under way."""

    hash: str
    tag: str
    schema: type[BaseModel]


@lru_cache(maxsize=256)
def schema_json(schema: type[BaseModel]) -> str:
    """The JSON schema of an answer, canonical."""
    return json.dumps(schema.model_json_schema(), sort_keys=True, separators=(",", ":"))


class Usage(Record):
    """Tokens that were billed for."""

    input: int
    """Not cached, those of ``cache_read`` and ``cache_write`` left out."""
    output: int
    """Thinking included."""
    cache_read: int
    cache_write: int


class Answer(Record):
    """An answer that fits its schema and is in the ledger."""

    call_hash: str
    tag: str
    value: Any
    """Instance of the call's schema."""
    model: str
    """That served it."""
    usage: Usage
    dollars: float
    """Paid for this answer, whenever that was; earlier attempts that failed are not in it."""
    seconds: float | None
    """From sending to reply; None in a batch."""
    request_id: str | None
    """The API's; None in a batch."""
    time: str
    """When the reply came; UTC, ISO 8601."""
    from_ledger: bool
    """It had been paid for before; nothing was sent."""


class Failure(Record):
    """A call without an answer. It costs this call and nothing else, and is tried again in the next sitting."""

    call_hash: str
    tag: str
    reason: str
    """One sentence."""
    dollars: float
    """Paid for it in this sitting."""
    unknown_dollars: float
    """At most paid on top, in attempts of this sitting whose outcome nobody knows."""


class NotSent(Failure):
    """A call that was not sent, and why: the budget, a price that is not known, or a batch that still holds it."""


Outcome = Answer | Failure
