"""What is sent."""

from __future__ import annotations

from llm.asking import call

from spd_tools.llm.prices import Prices
from spd_tools.llm.wire import request_body


def body(**changes):
    asked = call(**changes)
    return request_body(asked, Prices.load().of(asked.model))


def test_bounds_reach_the_model_as_descriptions():
    schema = body()["output_config"]["format"]["schema"]
    confidence = schema["properties"]["confidence"]
    assert "minimum" not in confidence
    assert "minimum: 0" in confidence["description"]
    assert schema["additionalProperties"] is False


def test_effort_is_sent_where_it_is_asked_for():
    assert body(effort="low")["output_config"]["effort"] == "low"
    assert "effort" not in body()["output_config"]


def test_a_long_prefix_is_cached_and_a_short_one_is_not():
    assert body(system="s" * 5000)["system"][0]["cache_control"] == {"type": "ephemeral"}
    assert "cache_control" not in body()["system"][0]
    assert "cache_control" not in body(system="s" * 5000, model="claude-haiku-4-5")["system"][0]


def test_no_system_prompt_is_none():
    assert "system" not in body(system="")
