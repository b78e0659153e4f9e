"""What a client is told before it calls anything."""

import subprocess
import sys

import anyio
import pytest
from mcp import Client

from mcp_server.server import INSTRUCTIONS, make_server
from spd_tools.experiments.guide import GUIDES

TOOLS = {
    *("runs", "find_components", "overview", "examples", "token_stats", "correlations"),
    *("triage", "probe", "sweep", "minimal_context", "interact", "ablate", "direct_effect", "generate_and_test"),
    *("replay", "hypothesis", "label", "research_log", "harvest_start", "job_status"),
}
READ_ONLY = {"runs", "find_components", "overview", "examples", "job_status"}
NOT_IDEMPOTENT = {"hypothesis", "label", "research_log", "harvest_start"}
CLIENTS_CUT_AT = 2048  # bytes, of descriptions and instructions


async def _everything():
    async with Client(make_server()) as client:
        return (
            (await client.list_tools()).tools,
            (await client.list_prompts()).prompts,
            (await client.list_resources()).resources,
            (await client.list_resource_templates()).resource_templates,
        )


@pytest.fixture(scope="module")
def offered():
    return anyio.run(_everything)


@pytest.fixture(scope="module")
def tools(offered):
    return {tool.name: tool for tool in offered[0]}


def test_offers_these_tools_and_no_others(tools):
    assert set(tools) == TOOLS


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_every_tool_and_parameter_is_described_in_what_clients_show(tools, name):
    tool = tools[name]
    assert tool.title
    assert 100 < len(tool.description.encode()) <= CLIENTS_CUT_AT
    undescribed = {
        parameter
        for parameter, schema in tool.input_schema["properties"].items()
        if "description" not in schema and "enum" not in schema and "anyOf" not in schema
    }
    assert undescribed <= {"split", "column", "tokenizer"}
    assert tool.input_schema["additionalProperties"] is False
    assert tool.output_schema is None


@pytest.mark.parametrize("name", sorted(TOOLS))
def test_annotations_say_what_a_tool_does_to_the_record(tools, name):
    annotations = tools[name].annotations
    assert annotations.read_only_hint is (name in READ_ONLY)
    assert annotations.idempotent_hint is (name not in NOT_IDEMPOTENT)
    assert annotations.destructive_hint is False
    assert annotations.open_world_hint is (name == "harvest_start")


@pytest.mark.parametrize("name", sorted(TOOLS - {"runs", "harvest_start", "job_status"}))
def test_run_and_harvest_may_be_left_out_everywhere(tools, name):
    schema = tools[name].input_schema
    assert {"run", "harvest"} <= schema["properties"].keys()
    assert not {"run", "harvest"} & set(schema.get("required", []))


def test_instructions_fit():
    assert len(INSTRUCTIONS.encode()) <= CLIENTS_CUT_AT


def test_prompts_and_resources_are_described(offered):
    _, prompts, resources, templates = offered
    assert {prompt.name for prompt in prompts} == {"investigate", "triage"}
    assert all(prompt.description for prompt in prompts)
    assert all(argument.description for prompt in prompts for argument in prompt.arguments)
    assert {str(resource.uri) for resource in resources} == {"spd://runs"}
    assert {template.name for template in templates} == {"component", "research-log", "evidence"}
    assert all(offer.description for offer in (*resources, *templates))


def test_the_server_is_made_without_torch_or_numba():
    code = (
        "import sys; from mcp_server.server import make_server; make_server();"
        "assert not {'torch', 'numba', 'transformers', 'matplotlib', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", sorted(GUIDES.keys() & TOOLS))
def test_experiments_are_described_as_on_the_command_line(tools, name):
    described = tools[name].description
    assert "{" not in described
    if name != "minimal_context":  # which is three experiments
        assert described == GUIDES[name].text(lambda word: word)


def test_profiles_are_chosen_by_name_only(refusal, tmp_path):
    """Their set-up lines are shell."""
    (tmp_path / "own.yaml").write_text("setup: [echo owned]\n")
    asked = {"reference": "planted", "n_batches": 1, "batch_size": 1, "slurm": True}
    assert "one-node" in refusal("harvest_start", profile=str(tmp_path / "own.yaml"), **asked)
