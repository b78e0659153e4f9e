"""What determines an answer, and what a call may not be."""

from __future__ import annotations

import pytest
from llm.asking import Label, call
from pydantic import BaseModel, Field

from spd_tools.errors import SpdToolsError


class StricterLabel(BaseModel):
    label: str
    confidence: float = Field(ge=0, le=0.5)


CHANGES = [
    {"model": "claude-opus-5-5"},
    {"system": "You judge."},
    {"prompt": "What else?"},
    {"schema": StricterLabel},
    {"max_tokens": 101},
    {"effort": "low"},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_the_hash_depends_on_all_that_determines_the_answer(change):
    assert call(**change).hash != call().hash


def test_the_hash_does_not_depend_on_what_the_answer_is_for():
    assert call(purpose="detection", tag="h.0:1").hash == call().hash


def test_equal_schemas_give_equal_hashes():
    same = type("Label", (Label,), {})
    assert call(schema=same).hash == call().hash


def test_system_and_prompt_cannot_be_shifted_into_each_other():
    assert call(system="ab", prompt="c").hash != call(system="a", prompt="bc").hash


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"prompt": " "}, "blank"),
        ({"model": ""}, "blank"),
        ({"max_tokens": 0}, "0 tokens"),
        ({"prompt": "\ud800"}, "pair"),
    ],
)
def test_impossible_calls_are_refused(change, named):
    with pytest.raises(SpdToolsError, match=named):
        call(**change)
