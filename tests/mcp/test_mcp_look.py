import os
import re

import pytest
from mcp_planted import KEY, TOOLS

from mcp_server.answers import MAX_CHARACTERS
from spd_tools import open_harvest


def rows(text):
    """Cells of all table rows, without heads."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("| ---")]


@pytest.fixture
def harvest(planted):
    return open_harvest("planted")


def test_runs_names_runs_harvests_and_layers(planted, call, harvest):
    text = call("runs")
    assert "planted" in text
    assert harvest.harvest_id in text
    assert "h.0.mlp.down_proj (29)" in text


def test_runs_says_what_to_do_where_there_is_nothing(call):
    assert "harvest_start" in call("runs")


def test_without_a_harvest_every_question_says_how_to_make_one(refusal):
    assert "harvest_start" in refusal("overview", key=KEY)


def test_several_runs_have_to_be_told_apart(planted_copy, made_up, refusal, call):
    made_up("other", "abc123")
    said = refusal("overview", key=KEY)
    assert "other, planted" in said
    assert "parameter run" in said
    assert "run planted" in call("overview", key=KEY, run="planted")
    assert "run other" in call("overview", key=made_up.key, run="other")


def test_a_new_harvest_is_seen_at_once_and_an_older_one_by_its_id(made_up, call):
    made_up("made-up", "abc123")
    assert "harvest abc123" in call("overview", key=made_up.key)
    made_up("made-up", "def456")
    assert "harvest def456" in call("overview", key=made_up.key)
    assert "harvest abc123" in call("overview", key=made_up.key, harvest="abc123")


@pytest.mark.parametrize(
    "name", ["", "../demo", "/etc", "~nobody/x", "demo\x00", "x" * 500, "con'; DROP TABLE label;--"]
)
def test_a_name_that_is_no_run_leads_nowhere(planted, name, ask):
    answer = ask("overview", key=KEY, run=name)
    assert answer.is_error == (name != "")
    assert answer.text.isprintable() or name == ""


def test_overview_shows_what_the_harvest_says(call, harvest):
    text = call("overview", key=KEY)
    component = harvest.component(KEY)
    assert f"{component.firing_count:,} of {harvest.n_tokens:,} tokens" in text
    assert "Observational" in text
    assert "⟦needle⟧" in text
    assert "On record: no label." in text


def test_overview_with_plots_has_two_pictures(server, harvest):
    import anyio
    from mcp import Client

    async def once():
        async with Client(server) as client:
            return await client.call_tool("overview", {"key": KEY, "plot": True})

    text, *pictures = anyio.run(once).content
    assert text.type == "text"
    assert [(picture.type, picture.mime_type) for picture in pictures] == [("image", "image/png")] * 2


def test_a_dead_component_is_called_dead(call, harvest):
    dead, *_ = [key for key, count in zip(harvest.keys, harvest.firing_counts, strict=True) if not count]
    assert "never fired" in call("overview", key=str(dead), plot=True)
    assert "None." in call("examples", key=str(dead))


def test_examples_page_through_what_is_stored(call, harvest):
    stored = [f"{example.row}:{example.position}" for example in harvest.examples(KEY, "uniform", 10)]
    text = call("examples", key=KEY, limit=4, offset=3)
    assert re.findall(r"^- \S+ \S+ (\d+:\d+)", text, re.MULTILINE) == stored[3:7]
    assert "The next: offset=7." in text


def test_an_offset_beyond_the_end_says_how_many_there_are(call, harvest):
    n_stored = len(harvest.stored_examples(KEY, "top").row)
    assert f"there are {n_stored:,}" in call("examples", key=KEY, kind="top", offset=1000)


def test_token_stats_page_through_the_list(call, harvest):
    scores = harvest.token_stats(KEY).lists("recall", 6).top
    found = rows(call("token_stats", key=KEY, metric="recall", limit=3, offset=2))[1:]
    assert [int(row[1]) for row in found] == [score.token_id for score in scores[2:5]]


def test_output_tokens_say_what_is_in_no_list(call, harvest):
    assert "too improbable to be listed" in call("token_stats", key=KEY, side="output")


def test_correlations_page_through_the_list(call, harvest):
    others = [str(other.key) for other in harvest.correlated(KEY, "jaccard", 5)]
    found = rows(call("correlations", key=KEY, metric="jaccard", limit=3, offset=2))[1:]
    assert [row[0] for row in found] == others[2:5]


def test_find_components_by_token(call, harvest):
    found = rows(call("find_components", token="needle"))[1:]
    assert KEY in [row[0] for row in found]


def test_find_components_by_layer_and_density_pages(call, harvest):
    layer = "h.1.mlp.down_proj"
    text = call("find_components", layer="h.1.*", sort="density", limit=5, offset=18)
    assert f"Components 19 to {harvest.keys.layers[layer]} of {harvest.keys.layers[layer]}." in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"token": "no such token"}, "not in the vocabulary"),
        ({"layer": "h.9.*"}, "No layer"),
        ({"min_density": 0.5, "max_density": 0.1}, "No density"),
        ({"sort": "pmi"}, "only when a token is asked for"),
        ({"label_query": "x", "token": "saw"}, "leave those out"),
        ({"limit": 0}, "limit does not fit"),
        ({"tokn": "saw"}, "no parameter tokn"),
    ],
)
def test_what_cannot_be_found_says_why(planted, refusal, arguments, said):
    assert said in refusal("find_components", **arguments)


@pytest.mark.parametrize("name", ["overview", "examples", "token_stats", "correlations"])
def test_an_unknown_component_names_what_there_is(planted, refusal, name):
    assert "components 0 to 28" in refusal(name, key="h.0.mlp.down_proj:99")
    assert "the layers are" in refusal(name, key="h.9:1")
    assert "write LAYER:INDEX" in refusal(name, key="nonsense")


def test_null_is_understood_as_left_out(planted, call):
    assert "run planted" in call("overview", key=KEY, run=None, harvest=None)


def test_the_largest_lists_stay_below_the_cap(planted, call):
    for kind in ("uniform", "top"):
        assert len(call("examples", key=KEY, kind=kind, limit=100, context=64)) <= MAX_CHARACTERS
    assert len(call("find_components", limit=100)) <= MAX_CHARACTERS


def test_enrichment_becomes_evidence(planted, call, harvest):
    text = call("token_stats", key=KEY, metric="enrichment", limit=3, author="somebody")
    [evidence] = re.findall(r"^Evidence (enrichment-[0-9a-f]{12})$", text, re.MULTILINE)
    assert evidence in call("label", action="show", key=KEY)


def test_enrichment_is_of_input_tokens(planted, refusal):
    assert "input tokens" in refusal("token_stats", key=KEY, metric="enrichment", side="output")


def test_cofiring_given_the_token_becomes_evidence(planted, call):
    found = rows(call("correlations", key=KEY, metric="jaccard", given_token=True, limit=2))[1:]
    assert len(found) == 2
    on_record = call("label", action="show", key=KEY)
    assert all(row[-1] in on_record for row in found)


def test_an_answer_from_the_newest_of_several_harvests_says_so(made_up, call):
    made_up("made-up", "abc123")
    assert "chooses" not in call("overview", key=made_up.key)
    folder = made_up("made-up", "def456")
    os.utime(folder / "manifest.json", (2**31, 2**31))
    tokens = r"[\d,]+"
    begin = rf"2 harvests of made-up; this is def456, the newest \({tokens} tokens; the other has {tokens}\): the param"
    for name, given in (("overview", {"key": made_up.key}), ("find_components", {})):
        assert re.match(begin, call(name, **given))
    assert "chooses" not in call("overview", key=made_up.key, harvest="def456")
    assert "chooses" not in call("runs")


def test_enrichment_shows_no_token_on_which_it_never_fired(planted, call):
    shown = rows(call("token_stats", key=KEY, metric="enrichment", limit=40))
    tokens = {line[1] for line in shown if line[1].startswith("⟦")}
    assert "⟦needle⟧" in tokens
    assert tokens <= {f"⟦{tool}⟧" for tool in TOOLS}


def test_words_that_the_vocabulary_lacks_are_named(planted, call):
    assert "The vocabulary lacks 'zebra'; the model sees" in call("probe", key=KEY, texts=["the zebra"])
    assert "lacks" not in call("probe", key=KEY, texts=["the needle"])
