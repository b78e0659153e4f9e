import os
import re
import unicodedata

import pytest

from spd_tools.store.reader import open_harvest

KEY = "h.0.mlp.c_fc:1"
DEAD = "h.1.mlp.c_fc:4"
LOOKS = [
    ("overview", KEY),
    ("examples", KEY),
    ("examples", KEY, "--kind", "top"),
    ("tokens", KEY),
    ("tokens", KEY, "--side", "output"),
    ("correlations", KEY),
    ("correlations", KEY, "--weakest", "--metric", "jaccard"),
    ("search",),
    ("search", "--token", " cat"),
]
KEYED = ["overview", "examples", "tokens", "correlations", "similar"]


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_prints_on_stdout_and_nothing_on_stderr(harvest, run, command):
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) > 2


@pytest.mark.parametrize("command", LOOKS, ids=" ".join)
def test_json_is_one_document_and_nothing_else(harvest, run_json, command):
    assert run_json(*command)


@pytest.mark.parametrize("command", [*LOOKS, ("overview", KEY, "--json")], ids=" ".join)
def test_hostile_tokens_reach_no_terminal(harvest, run, command):
    _, out, _ = run(*command)
    hidden = {"Cc", "Cf", "Cs", "Co", "Cn"}
    assert {char for char in out if unicodedata.category(char) in hidden} <= {"\n"}


def test_hostile_tokens_are_shown_as_what_they_are(harvest, run):
    _, out, _ = run("tokens", KEY, "--metric", "recall")
    assert {"␛[31mred", "[bold]x[/bold]", "⏎", "<U+202E>rtl", "a␇", "∅", "·cat"} <= set(out.split())


@pytest.mark.parametrize(
    "command",
    [("overview", KEY), ("examples", KEY), ("tokens", KEY), ("search", "--token-id", "1")],
    ids=" ".join,
)
def test_without_a_tokenizer_tokens_are_ids(add_harvest, run, command):
    add_harvest()
    code, out, _ = run(*command)
    assert code == 0
    assert re.search(r"<\d+>", out)


@pytest.mark.parametrize("width", ["40", "80", "160"])
def test_an_overview_fits_its_terminal(harvest, run, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", width)
    _, out, _ = run("overview", KEY)
    assert max(len(line) for line in out.splitlines()) <= int(width)


def test_an_overview_is_that_of_the_harvest(harvest, run_json):
    found = run_json("overview", KEY)
    component = open_harvest("made-up").component(KEY)
    assert found["component"]["key"] == KEY
    assert found["component"]["firing_count"] == component.firing_count
    assert len(found["uniform_examples"]) == 7


def test_a_dead_component_says_so(harvest, run):
    code, out, _ = run("overview", DEAD)
    assert code == 0
    assert "never fired" in out


@pytest.mark.parametrize("command", ["examples", "tokens", "correlations"])
def test_lists_of_a_dead_component_say_that_they_are_empty(harvest, run, command):
    code, out, _ = run(command, DEAD)
    assert code == 0
    # One sentence and no table; a narrow terminal may wrap it.
    assert len(out.splitlines()) <= 2
    assert " ".join(out.split()).endswith(".")


def test_limit_and_context(harvest, run_json):
    examples = run_json("examples", KEY, "--limit", "3", "--context", "1")
    assert len(examples) == 3
    assert max(len(example["token_ids"]) for example in examples) == 3


def test_tokens_of_the_output_side_say_what_is_dropped(harvest, run_json):
    assert run_json("tokens", KEY, "--side", "output")["dropped_mass"] > 0


def test_min_count_changes_the_list(harvest, run_json):
    assert run_json("tokens", KEY, "--min-count", "1000000")["top"] == []


def test_search_by_layer_and_density(harvest, run_json):
    found = run_json("search", "--layer", "h.0.*", "--min-density", "0.5", "--sort", "density", "--ascending")
    densities = [hit["density"] for hit in found["hits"]]
    assert densities == sorted(densities)
    assert all(hit["key"].startswith("h.0.") and hit["density"] >= 0.5 for hit in found["hits"])


def test_search_that_finds_nothing_says_so(harvest, run):
    code, out, _ = run("search", "--min-density", "0.9999", "--max-density", "0.99995")
    assert (code, out.strip()) == (0, "No component matches.")


def test_a_run_goes_by_its_reference(harvest, add_harvest, run):
    add_harvest("other")
    assert run("overview", KEY, "--run", "made-up")[0] == 0


def test_an_older_harvest_can_be_named(harvest, add_harvest, run_json):
    add_harvest(harvest_id="second", seed=1)
    assert run_json("overview", KEY, "--harvest", "abc123")["harvest_id"] == "abc123"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("overview", KEY, "--run", "nope"), "nope"),
        (("overview", KEY, "--harvest", "nope"), "nope"),
        (("search", "--token-id", "11"), "11"),
        (("search", "--layer", "h.9.mlp"), "h.9.mlp"),
        (("search", "--sort", "pmi"), "token"),
        (("search", "--min-density", "0.5", "--max-density", "0.1"), "0.5"),
        *(((command, "h.7.mlp:0"), "h.7.mlp") for command in KEYED),
        *(((command, "h.0.mlp.c_fc:6"), "h.0.mlp.c_fc:6") for command in KEYED),
        *(((command, "nonsense"), "nonsense") for command in KEYED),
    ],
)
@pytest.mark.parametrize("json", [(), ("--json",)], ids=["text", "json"])
def test_bad_input_is_one_sentence_and_exit_code_1(harvest, run, argv, words, json):
    code, out, err = run(*argv, *json)
    assert (code, out) == (1, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_text_outside_the_vocabulary_is_one_sentence(lettered, run):
    code, out, err = run("search", "--token", "z")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "'z' is not in the vocabulary" in err


@pytest.mark.parametrize("token", ["ab", ""])
def test_a_text_that_is_not_one_token_is_one_sentence(lettered, run, token):
    code, out, err = run("search", "--token", token)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "not one token" in err


def test_search_by_the_text_of_a_token(lettered, run_json):
    assert run_json("search", "--token", "c")["token_id"] == 2


def test_similar_needs_the_weights_and_says_so(harvest, run):
    code, out, err = run("similar", KEY)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "weights" in err


@pytest.mark.parametrize(
    "argv",
    [
        ("overview",),
        ("overview", KEY, "--nope"),
        ("overview", KEY, "--examples", "-1"),
        ("examples", KEY, "--limit", "0"),
        ("examples", KEY, "--limit", "many"),
        ("examples", KEY, "--kind", "best"),
        ("examples", KEY, "--lim", "3"),
        ("search", "--min-density", "2"),
        ("search", "--max-density", "nan"),
        ("search", "--token", "a", "--token-id", "1"),
        ("tokens", KEY, "--min-count", "inf"),
    ],
    ids=" ".join,
)
def test_what_the_parser_refuses_is_exit_code_2(run, argv):
    code, out, _ = run(*argv)
    assert (code, out) == (2, "")


def test_a_hostile_key_does_not_reach_the_terminal(harvest, run):
    _, _, err = run("overview", "\x1b[31mred\n:0")
    assert "\x1b" not in err
    assert len(err.splitlines()) == 1


def test_a_torn_store_is_one_sentence(harvest, run):
    (harvest / "examples.arrow").write_bytes(b"torn")
    code, out, err = run("overview", KEY)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "examples.arrow" in err


def test_the_newest_of_several_harvests_says_that_it_is_one_of_several(harvest, add_harvest, run):
    folder = add_harvest(harvest_id="def456", rows=5)
    os.utime(folder / "manifest.json", (2**31, 2**31))
    _, _, err = run("overview", KEY)
    assert re.fullmatch(r"2 harvests of made-up; this is def456, the newest \(.*\): --harvest chooses\.\n", err)
    assert run("overview", KEY, "--harvest", "abc123")[2] == ""
    assert run("overview", KEY, "--harvest", "def456")[2] == ""


@pytest.mark.parametrize("width", [70, 80])
def test_where_there_is_too_little_room_numbers_stand_below_and_none_is_cut(harvest, run, monkeypatch, width):
    command = ("correlations", KEY, "--limit", 3)
    monkeypatch.setenv("COLUMNS", "200")
    wide = run(*command)[1]
    monkeypatch.setenv("COLUMNS", str(width))
    narrow = run(*command)[1]
    assert "…" not in narrow
    assert max(map(len, narrow.splitlines())) <= width
    assert set(wide.replace("─", "").split()) == set(narrow.replace("─", "").split())


def test_one_of_a_thing_is_no_plural(harvest, run):
    assert f"{KEY}: 1 uniform example\n" in run("examples", KEY, "--limit", 1)[1]
