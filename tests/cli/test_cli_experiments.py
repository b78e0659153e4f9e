import json
import re
import shlex
from argparse import SUPPRESS
from typing import Literal, Union, get_args, get_origin

import pytest
from planted_store import KEY, LABEL, NEGATIVES, OTHER, PARAMETERS, POSITIVES, misses_tools

from spd_tools.cli.parser import build_parser
from spd_tools.experiments import EXPERIMENTS, Subject, experiment, make_request
from spd_tools.experiments import run as run_experiment
from spd_tools.experiments.guide import GUIDES
from spd_tools.store.reader import open_harvest

LINES = {
    "ablate": ["--token", "falls", "--n-sites", 4, "--n-controls", 19],
    "cofiring": [OTHER],
    "direct_effect": [],
    "enrichment": ["--limit", 3],
    "generate_and_test": ["--label", LABEL, "--positive", *POSITIVES[:2]],
    "interact": ["--first", "saw", "--second", "cat", "drill", "--n-contexts", 4, "--n-controls", 19],
    "minimal_context": ["--n-contexts", 3, "--n-draws", 2, "--max-length", 3],
    "occlusion": ["--n-contexts", 6, "--window", 3, "--n-draws", 2],
    "position": ["--n-contexts", 4, "--n-positions", 3, "--n-draws", 2],
    "probe": ["the needle and the saw sings", "a cat sleeps"],
    "sweep": ["--token", "needle", "--token", "cat", "--n-contexts", 8, "--n-controls", 19],
    "triage": ["--n-sites", 2, "--n-controls", 19],
}
"""Experiment -> the command line that says the same as its PARAMETERS."""


def command_of(name):
    return name.replace("_", "-")


def subparsers():
    [choices] = [action.choices for action in build_parser()._actions if action.choices]
    return choices


def literal_values(annotation):
    """Values that a field may have, where they are listed; of a union, those of its parts."""
    if get_origin(annotation) is Literal:
        return set(get_args(annotation))
    parts = get_args(annotation) if get_origin(annotation) is Union or "|" in str(annotation) else ()
    return {value for part in parts for value in literal_values(part)}


# --- the options are those of the requests ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_field_of_a_request_is_an_option_and_none_has_a_default_of_its_own(name):
    parser = subparsers()[command_of(name)]
    fields = experiment(name).request.model_fields
    options = {action.dest: action for action in parser._actions if action.dest in fields}
    assert options.keys() == fields.keys() - {"experiment"}
    for field, action in options.items():
        assert not action.option_strings or action.default is SUPPRESS, field


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_choices_are_those_of_the_request(name):
    actions = {action.dest: action for action in subparsers()[command_of(name)]._actions}
    for field, info in experiment(name).request.model_fields.items():
        if field != "experiment" and (values := literal_values(info.annotation)):
            assert set(actions[field].choices) == values, field


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_defaults_that_the_help_tells_are_those_of_the_request(name):
    fields = experiment(name).request.model_fields
    for action in subparsers()[command_of(name)]._actions:
        told = re.search(r"\(default (-?[\d.]+)\)", action.help or "")
        if told and action.dest in fields:
            assert float(told[1]) == fields[action.dest].default, action.dest


# --- results ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_json_is_the_result_of_the_function(planted, run_json, name):
    found = run_json(command_of(name), KEY, *LINES[name])
    subject = Subject(open_harvest("planted"))
    expected = run_experiment(subject, make_request(name, {"key": KEY, **PARAMETERS[name]}))
    proposal = name == "generate_and_test"  # without near misses
    assert found == expected.model_dump(mode="json", exclude={"id", "kind"} if proposal else None)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_page_is_printed_and_nothing_on_stderr(planted, run, name):
    code, out, err = run(command_of(name), KEY, *LINES[name])
    assert (code, err) == (0, "")
    found = re.search(rf"{KEY}.*{name}-[0-9a-f]{{12}}", out)
    assert found if name != "generate_and_test" else not found  # a proposal is no evidence


def test_a_proposal_of_near_misses_does_not_look_like_evidence(planted, run):
    out = run("generate-and-test", KEY, *LINES["generate_and_test"])[1]
    assert "nothing is stored" in out
    assert "structural" not in out
    assert "generate_and_test-" not in out


def test_an_answer_that_was_computed_elsewhere_comes_with_a_remark(planted, run, monkeypatch):
    identity = Subject.identity

    def there(subject, request):
        found = identity(subject, request)
        return {**found, "machine": found["machine"].model_copy(update={"torch": "0.1"})}

    with monkeypatch.context() as patch:
        patch.setattr(Subject, "identity", there)
        first = run("probe", KEY, "the saw sings")
    again = run("probe", KEY, "the saw sings")
    assert (first[2], again[:2]) == ("", first[:2])
    assert "torch 0.1" in again[2]


def test_results_are_stored_with_their_author(planted, run_json, monkeypatch):
    monkeypatch.setenv("SPD_TOOLS_AUTHOR", "ann")
    first = run_json("probe", KEY, "the saw sings")
    second = run_json("probe", KEY, "the saw sleeps", "--author", "bob")
    found = run_json("evidence", KEY)
    assert [(record["id"], record["author"]) for record in found] == [(second["id"], "bob"), (first["id"], "ann")]
    assert run_json("evidence", first["id"]) == first


def test_tokens_may_be_given_by_id(planted, run_json):
    by_text = run_json("sweep", KEY, *LINES["sweep"])
    ids = [token["token_id"] for token in by_text["tokens"]]
    by_id = run_json("sweep", KEY, "--token-id", *ids, "--n-contexts", 8, "--n-controls", 19)
    assert [token["token_id"] for token in by_id["tokens"]] == ids
    assert by_id["request"]["tokens"] == ids


@pytest.mark.parametrize("name", ["interact", "position", "sweep"])
def test_a_plot_is_written(planted, run, tmp_path, name):
    assert run(command_of(name), KEY, *LINES[name], "--plot", tmp_path / "plot.png")[0] == 0
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_a_replay_says_that_it_holds(planted, run, run_json):
    first = run_json("sweep", KEY, *LINES["sweep"])
    again = run_json("replay", first["id"])
    assert (again["identical"], again["holds"]) == (True, True)
    assert again["result"] == first
    assert "equal to the bit" in run("replay", first["id"])[1]


def test_a_replay_that_does_not_hold_is_shown_and_fails(planted, run, run_json, monkeypatch):
    first = run_json("sweep", KEY, *LINES["sweep"])

    def other(subject, request):
        found = run_experiment(subject, request)
        return found.model_copy(update={"n": found.n + 1})

    monkeypatch.setattr("spd_tools.experiments.registry.run", other)
    code, out, err = run("replay", first["id"])
    assert code == 1
    assert "does not hold" in out
    assert err.startswith(f"{first['id']} did not come out again")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["probe", "needle", "a"], "is no component"),
        (["probe", "h.0.mlp.down_proj:99", "a"], "there is no component"),
        (["probe", KEY, ""], "A text is empty"),
        (["probe", KEY, "row:99999"], "There is no row 99999"),
        (["sweep", KEY], "sweep needs tokens"),
        (["sweep", KEY, "--token", "nosuchword"], "not in the vocabulary"),
        (["sweep", KEY, "--token", "saw", "--n-contexts", 99999], "n_contexts does not fit"),
        (["sweep", KEY, "--token", "saw", "--offset", 3], "offset does not fit"),
        (["occlusion", KEY, "--at", "silent"], "silent positions"),
        (["ablate", KEY, "--mode", "clamp"], "value"),
        (["cofiring", KEY, KEY], "always fires with itself"),
        (["generate-and-test", KEY], "There are no positive texts"),
        (["replay", "sweep-000000000000"], "There is no evidence"),
        (["evidence", "sweep-000000000000"], "There is no evidence"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(planted, run, line, words):
    code, out, err = run(*line)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "line",
    [["probe", KEY], ["sweep", KEY, "--offset", "x"], ["sweep", KEY, "--base", "everywhere"], ["cofiring", KEY]],
    ids=" ".join,
)
def test_what_the_parser_refuses_is_exit_code_2(planted, run, line):
    assert run(*line)[0] == 2


def test_an_unnamed_user_is_asked_for_a_name(planted, run, monkeypatch):
    def nobody():
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nobody)
    code, _, err = run("probe", KEY, "the saw sings")
    assert code == 1
    assert "--author" in err


# --- generate and test ------------------------------------------------------------------------------------------------


def test_texts_come_from_a_file_and_from_options(planted, run_json, tmp_path):
    file = tmp_path / "texts.yaml"
    texts = 'positives: ["the green «saw» falls"]\nnegatives:\n  - the green «cat» falls\n'
    file.write_text(texts)
    line = ["generate-and-test", KEY, "--texts", file, "--positive", POSITIVES[1]]
    by_option = run_json(*line, "--label", LABEL)
    file.write_text(f"label: {LABEL}\n{texts}")
    assert run_json(*line) == run_json(*line, "--label", LABEL) == by_option
    request = by_option["request"]
    assert request["label"] == LABEL
    assert request["positives"] == POSITIVES[:2]
    assert request["negatives"] == NEGATIVES[:1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "neither JSON nor YAML"),
        ("a: !!python/object:os.system {}", "neither JSON nor YAML"),
        ("\udcff", "neither JSON nor YAML"),
        ("[1, 2]", "is no mapping"),
        ("", "is no mapping"),
        ('{"positive": ["a"]}', "has 'positive'"),
        ('{"positives": "a"}', "positives in"),
        ('{"positives": [1]}', "positives in"),
        ('{"positives": ["a"], "label": ["b"]}', "label in"),
        ('{"positives": ["a"]}', "with --label TEXT"),
        ('{"positives": ["a"], "label": ""}', "label does not fit"),
    ],
)
def test_a_bad_file_of_texts_is_one_sentence(planted, run, tmp_path, content, words):
    file = tmp_path / "texts.json"
    file.write_bytes(content.encode(errors="surrogateescape"))
    code, out, err = run("generate-and-test", KEY, "--texts", file)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_one_test_is_of_one_label(planted, run, tmp_path):
    file = tmp_path / "texts.json"
    file.write_text(json.dumps({"label": "one", "positives": POSITIVES[:2]}))
    code, _, err = run("generate-and-test", KEY, "--texts", file, "--label", "another")
    assert code == 1
    assert "leave one of them out" in err


def test_a_missing_file_of_texts_is_one_sentence(planted, run, tmp_path):
    code, _, err = run("generate-and-test", KEY, "--texts", tmp_path / "none.json")
    assert code == 1
    assert "No such file" in err


def test_texts_that_were_used_are_refused(planted, run, run_json, tmp_path):
    texts = {"label": LABEL, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2]}
    file = tmp_path / "texts.json"
    file.write_text(json.dumps(texts))
    proposed = run_json("generate-and-test", KEY, "--texts", file)
    assert run_json("evidence") == []
    chosen = [miss["text"] for miss in proposed["candidates"] if misses_tools(miss["text"])][:3]
    file.write_text(json.dumps({**texts, "near_misses": chosen}))
    assert run_json("generate-and-test", KEY, "--texts", file)["status"] == "tested"
    code, _, err = run("generate-and-test", KEY, "--texts", file, "--seed", 1)
    assert code == 1
    assert "only fresh texts test a label" in err


# --- help -------------------------------------------------------------------------------------------------------------


def test_every_experiment_has_a_guide_and_no_other_has():
    assert GUIDES.keys() == EXPERIMENTS.keys()


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_says_what_a_result_shows_in_words_that_can_be_typed(name):
    parser = subparsers()[command_of(name)]
    text = " ".join(parser.format_help().split())
    typed = {action.option_strings[0] for action in parser._actions if action.option_strings}
    commands = subparsers().keys()

    def spelt(word):
        field = {action.dest: action.option_strings[:1] for action in reversed(parser._actions)}
        return command_of(word) if word in EXPERIMENTS else (field.get(word) or [word])[0]

    guide = GUIDES[name]
    assert " ".join(guide.text(spelt).split()) in text
    named = re.findall(r"\{(\w+)\}", guide.question + guide.shows)
    fields = experiment(name).request.model_fields.keys()
    assert {word for word in named if word not in fields and command_of(word) not in commands} <= {"absolute"}
    assert {option for option in re.findall(r"--[a-z-]+", guide.text(spelt))} <= typed
    assert "{" not in guide.text(spelt)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_the_example_of_a_guide_is_understood(name):
    line = shlex.split(f"{command_of(name)} {GUIDES[name].example}")
    args = build_parser().parse_args(line)
    fields = experiment(name).request.model_fields.keys() - {"experiment"}
    given = {field: value for field, value in vars(args).items() if field in fields}
    if name != "generate_and_test":  # its texts stand in a file
        assert make_request(name, given).key


# --- words that the vocabulary lacks ----------------------------------------------------------------------------------


def test_words_that_the_vocabulary_lacks_are_named_on_the_page_and_in_the_document(planted, run, run_json):
    line = ("probe", KEY, "the zebra sees a needle", "row:3", "a xylophone zebra")
    page = " ".join(run(*line)[1].split())
    assert "The vocabulary lacks 'zebra', 'xylophone'; the model sees <unk> in their place" in page
    assert run_json(*line)["unknown_words"] == ["zebra", "xylophone"]
    assert "lacks" not in run("probe", KEY, "the needle", "row:3")[1]


def test_one_probed_text_is_no_plural(planted, run):
    out = run("probe", KEY, "needle")[1]
    assert "1 text that was typed in" in out
    assert "fires in 1 of 1 text, at 1 of 1 position." in out


def test_rows_of_the_harvest_are_not_typed_in(planted, run):
    page = " ".join(run("probe", KEY, "needle", "row:3", "the row: needle")[1].split())
    assert "2 texts that were typed in and 1 row of the harvest" in page
    assert "typed in" not in run("probe", KEY, "row:3", "row:4")[1]


def test_enrichment_lists_no_token_on_which_it_never_fired(planted, run, run_json):
    found = run_json("enrichment", KEY, "--limit", 40)["strongest"]
    silent = {token["text"] for token in found if not token["count"]}
    lines = [line.split() for line in run("enrichment", KEY, "--limit", 40)[1].splitlines()]
    shown = {words[0] for words in lines if len(words) > 1 and words[1].isdigit()}  # of the summary some begin a line
    assert silent
    assert not silent & shown
    assert {token["text"] for token in found if token["count"]} <= shown
