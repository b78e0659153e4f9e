"""The MCP Inspector's command line against every tool, over HTTP; test_clients_installations has it over stdio."""

import json
import re

import pytest
from investigation import HARVEST, KEY, LABEL, NEGATIVES, POSITIVES
from programs import inspector

TOOL_ERROR = 5
"""Exit code of the Inspector when a tool says that it failed."""
ARGUMENTS = {
    "runs": {},
    "find_components": {"token": "horn", "side": "input", "limit": 5},
    "overview": {"key": KEY},
    "examples": {"key": KEY, "kind": "top", "limit": 3},
    "token_stats": {"key": KEY, "side": "output", "metric": "lift"},
    "correlations": {"key": KEY, "metric": "jaccard"},
    "triage": {"key": KEY},
    "probe": {"key": KEY, "texts": ["the old horn", "the red horn"]},
    "sweep": {"key": KEY, "tokens": ["horn", "saw"], "n_contexts": 8},
    "minimal_context": {"key": KEY, "mode": "occlusion", "n_contexts": 8},
    "interact": {"key": KEY, "first_tokens": ["red"], "second_tokens": ["horn"], "n_contexts": 8},
    "ablate": {"key": KEY, "tokens": [",", "?"], "n_sites": 8, "n_controls": 19},
    "direct_effect": {"key": KEY, "limit": 5},
    "generate_and_test": {"key": KEY, "label": LABEL["input_view"], "positives": POSITIVES, "negatives": NEGATIVES},
    "hypothesis": {"action": "add", "key": KEY, "text": "a gate", "confidence": 0.5},
    "label": {"action": "set", "key": KEY, "input_view": "a gate", "output_view": "unknown", "confidence": 0.5},
    "research_log": {"action": "write", "key": KEY, "text": "looked at by the Inspector"},
    "job_status": {},
}
"""Of every tool but replay and harvest_start, which need an id or leave something running."""


@pytest.fixture
def inspect(home, tmp_path):
    """Run the Inspector against a server."""
    return lambda server, *arguments: inspector(home, tmp_path, *server, *arguments)


@pytest.fixture
def call(inspect, http_url):
    """Call a tool over HTTP; returns its answer."""

    def call(tool, arguments):
        done = inspect(http(http_url), *calling(tool, arguments))
        assert done.returncode == 0, done.stdout + done.stderr
        [content] = json.loads(done.stdout)["content"]
        return content["text"]

    return call


def http(url):
    return ["--server-url", url, "--transport", "http"]


def calling(tool, arguments):
    pairs = [f"{name}={json.dumps(value)}" for name, value in arguments.items()]
    return ["--method", "tools/call", "--tool-name", tool, *(part for pair in pairs for part in ("--tool-arg", pair))]


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_every_tool_has_a_portable_schema(inspect, http_url, era):
    done = inspect(http(http_url), "--protocol-era", era, "--method", "tools/list", "--strict")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "the strict check of the schemas found something"
    names = {tool["name"] for tool in json.loads(done.stdout)["tools"]}
    assert names == {*ARGUMENTS, "replay", "harvest_start"}


@pytest.mark.parametrize("tool", ARGUMENTS)
def test_every_tool_answers(call, tool):
    assert call(tool, ARGUMENTS[tool])


def test_evidence_is_replayed_over_the_wire(call):
    [evidence] = re.findall(r"^Evidence (\S+)", call("probe", {"key": KEY, "texts": ["a horn"]}), re.MULTILINE)
    assert "It holds" in call("replay", {"evidence_id": evidence})


def test_a_harvest_is_started_and_watched_to_its_end(call):
    started = call("harvest_start", {"reference": "planted", "n_batches": HARVEST.n_batches, "batch_size": 32})
    [job] = re.findall(r"job_id=([\w-]+)", started)
    while re.search(r": (pending|running) ", status := call("job_status", {"job_id": job})):
        pass
    assert ": finished " in status


def test_a_failure_says_what_to_do_next(inspect, http_url):
    done = inspect(http(http_url), *calling("overview", {"key": "h.0.mlp.down_proj:999"}))
    assert done.returncode == TOOL_ERROR
    assert "h.0.mlp.down_proj" in done.stdout + done.stderr


def test_prompts_and_resources_are_offered(inspect, http_url):
    for method, part in (("prompts/list", "prompts"), ("resources/list", "resources")):
        done = inspect(http(http_url), "--method", method)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)[part]
