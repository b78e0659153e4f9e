"""Calls for tests, and what asks them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from spd_tools.llm import BatchSettings, Call, LanguageModel, Ledger, Retries

QUICK = Retries(attempts=3, first_seconds=0.001, longest_seconds=0.002)
PATIENT = Retries(attempts=30, first_seconds=0.001, longest_seconds=0.02)
MODEL = "claude-haiku-5-5"


class Label(BaseModel):
    label: str
    confidence: float = Field(ge=0, le=1)


def call(prompt: str = "What is it?", **changes: Any) -> Call:
    usual = {"purpose": "label", "model": MODEL, "system": "You label.", "schema": Label, "max_tokens": 100}
    return Call(**(usual | {"prompt": prompt} | changes))


def calls(n: int, **changes: Any) -> list[Call]:
    return [call(f"Question {i}", tag=f"h.0:{i}", **changes) for i in range(n)]


def model(ledger: Ledger, **settings: Any) -> LanguageModel:
    return LanguageModel(ledger, **({"max_concurrent": 8, "retries": QUICK} | settings))


async def ask(ledger: Ledger, calls: Any, how: Literal["one by one", "batches"] = "one by one", **settings: Any):
    asked = model(ledger, **settings)
    if how == "batches":
        return [outcome async for outcome in asked.answer_in_batches(calls, BatchSettings(size=10, poll_seconds=0.01))]
    return [outcome async for outcome in asked.answer(calls)]
