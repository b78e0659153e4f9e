"""Claude Code in a checkout, with a scripted assistant behind it."""

import json

import pytest
from investigation import KEY, without_intervention
from messages_api import Call, messages_api
from programs import claude_prompt

from spd_tools import open_harvest
from spd_tools.investigate import Investigation


@pytest.fixture
def investigate(checkout):
    """Type `/investigate KEY`; returns the stand-in with what it saw."""

    def investigate(script):
        with messages_api(script) as api:
            claude_prompt(checkout.home, checkout.cwd, api.url, f"/investigate {KEY}")
        assert api.broken == []
        return api

    return investigate


def test_the_assistant_is_given_the_skill_and_the_component(investigate):
    [conversation] = investigate([lambda _: "Nothing done."]).conversations
    prompt = json.dumps(conversation.request["messages"])
    assert "# Investigate a component" in prompt
    assert f"with the arguments: {KEY}" in prompt


def test_without_an_intervention_the_label_stays_a_draft(investigate):
    answer = investigate(without_intervention()).conversations[-1].last("label")
    assert "Stored as a draft" in answer.text
    assert "no experiment in which something was changed" in answer.text
    label = Investigation(open_harvest("planted")).notes.label(KEY)
    assert label is not None
    assert label.status == "draft"


def test_subagents_investigate_several_components_with_the_same_skill_and_tools(checkout):
    keys = [KEY, "h.0.mlp.down_proj:13"]
    tasks = {key: f"Use the skill investigate on {key} of planted" for key in keys}

    def delegate(_):
        start = {"subagent_type": "general-purpose", "description": "one component"}
        return [Call("Agent", {"prompt": task, **start}) for task in tasks.values()]

    def subagent(key):
        return [
            lambda _: [Call("Skill", {"skill": "investigate", "args": f"{key} planted"})],
            lambda _: [Call("overview", {"key": key}), Call("label", {"action": "show", "key": key})],
            lambda _: "Looked at.",
        ]

    delegated = {task: subagent(key) for key, task in tasks.items()}
    with messages_api([delegate, lambda _: "Delegated."], delegated) as api:
        ended = claude_prompt(checkout.home, checkout.cwd, api.url, f"/investigate {' '.join(keys)}")
    assert api.broken == []
    assert ended["permission_denials"] == []
    looked = [result for conversation in api.conversations for result in conversation.results]
    assert {result.arguments["key"] for result in looked if result.name == "overview" and not result.failed} == set(
        keys
    )
