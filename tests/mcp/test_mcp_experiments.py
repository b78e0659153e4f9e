"""Every experiment through its tool: the same result as from Python, stored as evidence."""

import json
import re

import anyio
import pytest
from mcp import Client
from mcp_planted import KEY, TOOLS

from mcp_server.server import make_server
from spd_tools import open_harvest
from spd_tools.experiments import EXPERIMENTS, Subject, experiment
from spd_tools.investigate import Investigation
from spd_tools.render.numbers import number

ASKED = {
    "triage": {"n_sites": 2, "n_controls": 19},
    "probe": {"texts": ["a blue saw rests", "row:3"]},
    "sweep": {"tokens": ["saw", "dog"], "n_contexts": 8},
    "interact": {"first_tokens": ["blue"], "second_tokens": ["saw"], "n_contexts": 4},
    "ablate": {"n_sites": 2, "n_controls": 19, "tokens": ["rests"]},
    "direct_effect": {},
    "minimal_context": {"n_contexts": 3},
}
MODES = {
    "minimal": ("minimal_context", {"n_contexts": 3}),
    "occlusion": ("occlusion", {"n_contexts": 4, "window": 2}),
    "position": ("position", {"n_contexts": 4, "n_positions": 3}),
    "distance": ("position", {"n_contexts": 4, "max_distance": 2, "cue": "saw"}),
}
LABEL = "names of tools"
POSITIVES = [f"{start} {tool} rests" for start, tool in zip(5 * ["a blue", "this"], TOOLS[:10], strict=True)]
NEGATIVES = ["a blue dog rests", "this wagon falls", "every castle breaks", "the bean and the dog", "emma takes a cat"]


def evidence_in(text):
    """Id of the evidence that an answer begins with."""
    return re.match(r"Evidence ([a-z_]+-[0-9a-f]{12})\n", text)[1]


@pytest.fixture(scope="module")
def schemas():
    async def main():
        async with Client(make_server()) as client:
            return {tool.name: tool.input_schema for tool in (await client.list_tools()).tools}

    return anyio.run(main)


def record(evidence):
    return Investigation(open_harvest("planted")).notes.evidence(evidence)


@pytest.mark.parametrize("name", sorted(ASKED))
def test_a_result_becomes_evidence_that_replays(planted, call, name):
    text = call(name, key=KEY, author="somebody", **ASKED[name])
    evidence = evidence_in(text)
    stored = record(evidence)
    assert stored.author == "somebody"
    assert str(stored.key) == KEY
    assert f"n = {stored.n:,}" in text
    assert stored.kind in text
    assert call("replay", evidence_id=evidence).startswith("It holds: done again on the same device")


@pytest.mark.parametrize("mode", sorted(MODES))
def test_every_mode_of_minimal_context_is_its_experiment(planted, call, mode):
    name, fields = MODES[mode]
    evidence = evidence_in(call("minimal_context", key=KEY, mode=mode, **fields))
    assert record(evidence).experiment == name


def test_a_parameter_of_another_mode_is_refused(planted, refusal):
    assert "window" in refusal("minimal_context", key=KEY, mode="minimal", window=3)


def test_the_same_question_is_answered_from_the_record(planted, call):
    first = call("sweep", key=KEY, author="first", **ASKED["sweep"])
    assert call("sweep", key=KEY, author="second", **ASKED["sweep"]) == first
    assert record(evidence_in(first)).author == "first"


def test_an_answer_that_was_computed_elsewhere_says_so(planted, call, monkeypatch):
    identity = Subject.identity

    def there(subject, request):
        found = identity(subject, request)
        return {**found, "machine": found["machine"].model_copy(update={"torch": "0.1"})}

    with monkeypatch.context() as patch:
        patch.setattr(Subject, "identity", there)
        assert "computed elsewhere" not in call("sweep", key=KEY, **ASKED["sweep"])
    again = call("sweep", key=KEY, **ASKED["sweep"])
    assert re.search(r"computed elsewhere \(.*torch 0\.1", again)
    assert f"replay {evidence_in(again)}" in again


def test_who_does_it_is_who_the_environment_says_unless_somebody_is_named(planted, call, monkeypatch):
    first = evidence_in(call("probe", key=KEY, texts=["a blue saw rests"]))
    monkeypatch.setenv("SPD_TOOLS_AUTHOR", "ann")
    second = evidence_in(call("probe", key=KEY, texts=["a blue dog rests"]))
    third = evidence_in(call("probe", key=KEY, texts=["a blue cat rests"], author="bob"))
    assert [record(found).author for found in (first, second, third)] == ["mcp", "ann", "bob"]


def test_numbers_are_those_of_the_result(planted, call):
    text = call("sweep", key=KEY, **ASKED["sweep"])
    result = record(evidence_in(text)).result
    assert f"Effect: {number(result.effect.value)} (95 % interval {number(result.effect.low)} to" in text
    assert f"⟦{result.summary}⟧" in text
    assert f"Controls: {result.matching.low:.2g} to {result.matching.high:.2g} times as frequent" in text


def test_the_evidence_resource_has_everything(planted, server, call):
    evidence = evidence_in(call("probe", key=KEY, texts=["a blue saw rests ⟧ \x7f é"] + 100 * ["row:3"]))

    async def whole():
        text, uri = "", f"spd://planted/evidence/{evidence}"
        async with Client(server) as client:
            while uri:
                page = (await client.read_resource(uri)).contents[0].text
                head, _, piece = page.partition("\n")
                assert piece.strip("⟦⟧").isascii()
                text += piece.removeprefix("⟦").removesuffix("⟧")
                following = re.search(r"the next piece: (\S+)\.", head)
                uri = following and following[1]
        return text

    assert json.loads(anyio.run(whole)) == record(evidence).result.model_dump(mode="json")


def test_generate_and_test_proposes_first_and_then_tests(planted, call, refusal):
    texts = {"label": LABEL, "positives": POSITIVES, "negatives": NEGATIVES}
    proposal = call("generate_and_test", key=KEY, **texts)
    assert proposal.startswith("Nothing was tested, so nothing is stored")
    assert "structural" not in proposal
    assert "generate_and_test-" not in proposal
    candidates = [json.loads(found) for found in re.findall(r'⟦("(?:[^⟦⟧])*")⟧', proposal)]
    misses = [text for text in candidates if not set(text.split()) & set(TOOLS)]
    assert len(misses) >= len(NEGATIVES)
    tested = call("generate_and_test", key=KEY, **texts, near_misses=misses)
    result = record(evidence_in(tested)).result
    assert result.request.label == LABEL
    assert (result.n_positive, result.n_near_misses) == (len(POSITIVES), len(misses))
    assert result.effect.low > 0.6
    # Another seed asks anew, with texts that are used by now.
    assert "only fresh texts" in refusal("generate_and_test", key=KEY, **texts, near_misses=misses, seed=1)


def test_plots_come_as_pictures(planted, server):
    async def main():
        async with Client(server) as client:
            swept = await client.call_tool("sweep", {"key": KEY, **ASKED["sweep"], "plot": True})
            asked = {"key": KEY, **ASKED["interact"], "plot": True}
            return swept.content + (await client.call_tool("interact", asked)).content

    assert [content.type for content in anyio.run(main)] == ["text", "image"] * 2


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("sweep", {"tokens": ["no such token"]}, "not in the vocabulary"),
        ("sweep", {"tokens": []}, "tokens does not fit"),
        ("probe", {"texts": [""]}, "texts.0 does not fit"),
        ("probe", {"texts": ["row:9999999"]}, "There is no row"),
        ("ablate", {"mode": "clamp"}, "value"),
        ("replay", {"evidence_id": "probe-000000000000"}, "There is no evidence"),
    ],
)
def test_what_cannot_be_done_says_why(planted, refusal, name, arguments, said):
    key = {} if name == "replay" else {"key": KEY}
    assert said in refusal(name, **key, **arguments)


def test_a_model_that_is_gone_is_said_in_one_sentence(made_up, refusal):
    made_up("made-up", "abc123")
    assert "needs the weights" in refusal("direct_effect", key=made_up.key)


# --- a tool takes what its experiment takes ---------------------------------------------------------------------------

SAME = ("triage", "probe", "sweep", "interact", "ablate", "direct_effect", "generate_and_test")
AROUND = {"key", "run", "harvest", "author", "plot"}
BOUNDS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minItems", "maxItems", "enum", "type")


def fields_of(name):
    """Parameters of an experiment's request."""
    schema = experiment(name).request.model_json_schema()
    return {field: given for field, given in schema["properties"].items() if field not in ("experiment", "key")}


def arms(schema):
    """Its bounds, or those of what may stand for null."""
    kinds = [kind for kind in schema.get("anyOf", [schema]) if kind.get("type") != "null"]
    return sorted(json.dumps({name: kind[name] for name in BOUNDS if name in kind}) for kind in kinds)


@pytest.mark.parametrize("name", SAME)
def test_parameters_are_those_of_the_request(schemas, name):
    taken = {field: given for field, given in schemas[name]["properties"].items() if field not in AROUND}
    asked = fields_of(name)
    if name in ("probe", "direct_effect"):
        assert asked.pop("seed")  # nothing is random
    assert taken.keys() == asked.keys()
    for field, given in asked.items():
        if field != "label":  # only a request from before there was one has none
            assert taken[field].get("default") == given.get("default"), field
        for bound in ("minimum", "maximum", "minItems", "maxItems", "enum"):
            if bound in given:
                assert taken[field][bound] == given[bound], field


def test_minimal_context_takes_what_its_experiments_take(schemas):
    taken = schemas["minimal_context"]["properties"]
    asked = [fields_of(name) for name in ("minimal_context", "occlusion", "position")]
    assert taken.keys() - AROUND == set().union(*asked)
    for fields in asked:
        for field in fields.keys() - {"mode", "seed", "response"}:
            assert taken[field]["default"] is None


def test_every_experiment_has_a_tool(schemas):
    elsewhere = {"enrichment": "token_stats", "cofiring": "correlations", "occlusion": "minimal_context"}
    elsewhere["position"] = "minimal_context"
    assert {elsewhere.get(name, name) for name in EXPERIMENTS} <= schemas.keys()
