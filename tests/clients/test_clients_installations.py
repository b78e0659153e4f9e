"""`/investigate` from a checkout, as a plugin and from a built wheel: the whole protocol, with the real Claude Code."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from installations import INSTALLATIONS, Place, files_for_clients
from investigation import ID, KEY, whole_protocol
from messages_api import Conversation, ToolResult, messages_api
from programs import Home, claude_command, claude_prompt, inspector

from spd_tools import open_harvest
from spd_tools.investigate import Investigation


@dataclass(frozen=True)
class Walk:
    """An investigation that was done."""

    conversations: list[Conversation]
    said: str

    def calls(self) -> Iterator[tuple[ToolResult, str]]:
        """Every call of a tool, with everything that tools had answered before it."""
        for conversation, following in zip(self.conversations, self.conversations[1:], strict=False):
            before = "\n".join(result.text for result in conversation.results)
            for result in following.results[len(conversation.results) :]:
                yield result, before


@pytest.fixture(scope="module", params=INSTALLATIONS)
def place(request, harvested, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(harvested, folder / "spd_out")
    return INSTALLATIONS[request.param](folder, folder / "spd_out")


@pytest.fixture(scope="module")
def walk(place):
    with messages_api(whole_protocol()) as api:
        ended = claude_prompt(place.home, place.cwd, api.url, f"/investigate {KEY}")
    assert api.broken == []
    assert ended["permission_denials"] == []
    return Walk(api.conversations, ended["result"])


@pytest.fixture
def investigation(place: Place, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(place.home.out_dir))
    return Investigation(open_harvest("planted"))


def test_no_tool_fails_on_the_way(walk):
    assert walk.said == "Labelled: a gate."
    assert [result.text for result, _ in walk.calls() if result.failed] == []


def test_it_ends_with_a_supported_label_whose_evidence_replays(walk, investigation):
    label = investigation.notes.label(KEY)
    assert label.status == "supported"
    assert [evidence.partition("-")[0] for evidence in label.evidence] == ["interact", "ablate", "generate_and_test"]
    assert all(investigation.replay(evidence).identical for evidence in label.evidence)


def test_what_was_tried_and_given_up_is_on_record(walk, investigation):
    hypotheses = investigation.notes.hypotheses(key=KEY)
    assert sorted(hypothesis.status for hypothesis in hypotheses) == ["rejected", "supported"]
    assert len(investigation.notes.research_log(key=KEY)) == 1


def test_every_id_that_was_used_came_from_a_tool(walk):
    used = [(ids, before) for result, before in walk.calls() if (ids := ID.findall(json.dumps(result.arguments)))]
    assert used
    for ids, before in used:
        assert set(ids) <= set(ID.findall(before))


def test_the_tools_have_the_names_that_the_skills_allow(walk, place):
    names = [name for name in walk.conversations[0].tools if name.startswith("mcp__")]
    assert {place.prefix + "overview", place.prefix + "label"} <= set(names)
    assert all(name.startswith(place.prefix) for name in names)


def test_the_server_serves_tools_with_portable_schemas(place):
    done = inspector(place.home, place.cwd, *place.server, "--method", "tools/list", "--strict")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(json.loads(done.stdout)["tools"]) == 20


def test_the_repository_is_a_valid_plugin_and_marketplace(clients, tmp_path):
    repository = files_for_clients(tmp_path / "repository")
    command = ("plugin", "validate", "--strict", "--profile", "directory", repository)
    assert "Validation passed" in claude_command(Home(tmp_path / "home", tmp_path), tmp_path, *command)
