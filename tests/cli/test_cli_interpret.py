"""`interpret`, as it is typed."""

from __future__ import annotations

import json

import pytest
from llm.stand_in import KEY as API_KEY
from llm.stand_in import Asked, Drop, Say, StandIn
from planted_store import KEY, OTHER, open_planted

from spd_tools.annotations import Annotations
from spd_tools.llm import Ledger

ANSWER = {
    "reasoning": "They are tools.",
    "input_view": "fires on \x1b[31m[bold]tools",
    "output_view": "",
    "label": "tools",
    "verdict": "clear",
    "confidence": 0.9,
}


@pytest.fixture
def api(monkeypatch):
    def rule(asked: Asked) -> Say:
        return Say("no JSON") if f"Component {OTHER}," in asked.prompt else Say(ANSWER)

    with StandIn(rule) as api:
        monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
        monkeypatch.setenv("ANTHROPIC_API_KEY", API_KEY)
        yield api


@pytest.fixture
def notes(planted):
    return Annotations.of(open_planted(planted))


def test_components_are_labelled(planted, run, notes, api):
    code, out, err = run("interpret", "planted", "--keys", KEY)
    assert (code, out) == (0, "")
    assert "1 of 1 component was labelled by claude-haiku-5-5, $0.0" in err
    assert str(planted / "interpret" / "planted" / "results.jsonl") in err.replace("\n", "")
    assert notes.label(KEY).input_view == ANSWER["input_view"]


def test_labels_appear_where_people_look(planted, run, run_json, api):
    run("interpret", "planted", "--keys", KEY)
    assert "[bold]tools" in run("overview", KEY)[1]
    assert [found["key"] for found in run_json("search", "--label", "tools")] == [KEY]
    assert "\x1b[31m" not in run("label", "show", KEY)[1]


def test_failures_are_named(planted, run, notes, api):
    code, _, err = run("interpret", "planted", "--keys", KEY, OTHER)
    assert code == 0
    assert f"{OTHER} has no label: The answer does not fit the schema" in err
    assert notes.label(OTHER) is None


def test_json_is_the_report(planted, run_json, api):
    report = run_json("interpret", "planted", "--keys", KEY, "--keys", OTHER)
    assert (report["n_chosen"], report["n_labelled"], report["failures"][0]["key"]) == (2, 1, OTHER)


def test_all_options_reach_the_calls(planted, run_json, api):
    report = run_json(
        *("interpret", "planted", "--layer", "h.0.*", "--order", "index", "--limit", 2, "--model", "claude-sonnet-5-5"),
        *("--prompt", "roles", "--max-concurrent", 3, "--budget", 2.5, "--again"),
    )
    assert (report["n_labelled"], report["labeller"], report["prompt"]) == (2, "claude-sonnet-5-5", "roles")
    assert {asked.body["model"] for asked in api.asked} == {"claude-sonnet-5-5"}
    assert all("both of their roles" in asked.system for asked in api.asked)


def test_a_batch_costs_half(planted, run_json, api):
    single = run_json("interpret", "planted", "--keys", KEY)
    batch = run_json("interpret", "planted", "--keys", KEY, "--prompt", "roles", "--batch")
    assert (len(api.asked), len(api.batches), batch["n_labelled"]) == (1, 1, 1)
    assert batch["dollars"] < 0.75 * single["dollars"]


def test_the_budget_is_said_to_have_ended(planted, run, api):
    code, _, err = run("interpret", "planted", "--budget", 0.0001)
    assert code == 0
    assert "were not asked about. Not sent: it might have crossed the budget" in err
    assert api.asked == []


def test_an_estimate_asks_nothing(planted, run, run_json, api):
    out = run("interpret", "planted", "--limit", 3, "--estimate")[1]
    assert out.startswith("3 calls, by a sample of 3")
    assert "as the API counts them" in out
    document = run_json("interpret", "planted", "--limit", 3, "--estimate")
    assert (document["n_calls"], api.asked) == (3, [])


def test_nothing_is_left_to_estimate(planted, run, api):
    run("interpret", "planted", "--keys", KEY)
    assert run("interpret", "planted", "--keys", KEY, "--estimate")[2] == "There is nothing left to ask.\n"


def test_the_baseline_needs_no_key(planted, run, notes, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    code, _, err = run("interpret", "planted", "--baseline", "--keys", KEY)
    assert code == 0
    assert "1 of 1 component was labelled by top-tokens." in err
    assert notes.label(KEY).author == "top-tokens"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--baseline", "--batch"], "leave out --batch"),
        (["--baseline", "--max-concurrent", "3"], "leave out --max-concurrent"),
        (["--keys", "h.9.mlp:0"], "no layer"),
        (["--keys", KEY, "--order", "index"], "leave out --order"),
        (["--layer", "h.9.*"], "no layer"),
        (["--model", "gpt"], "price of model 'gpt' is not known"),
        (["--max-concurrent", "100000"], "choose from 1 to"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(planted, run, api, options, said):
    code, out, err = run("interpret", "planted", *options)
    assert (code, out) == (1, "")
    assert said in err
    assert "Traceback" not in err
    assert api.asked == []


def test_without_a_key_it_says_which_variable(planted, run, monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    code, _, err = run("interpret", "planted", "--keys", KEY)
    assert code == 1
    assert "ANTHROPIC_API_KEY" in err


@pytest.mark.parametrize(
    "options", [["--limit", "0"], ["--prompt", "x"], ["--estimate", "--baseline"], ["--budget", "-1"]]
)
def test_the_parser_refuses(planted, run, options):
    assert run("interpret", "planted", *options)[0] == 2


def test_the_key_is_written_nowhere(planted, run, api):
    _, out, err = run("interpret", "planted", "--keys", KEY)
    assert API_KEY not in out + err
    files = [
        path for folder in ("annotations", "interpret") for path in (planted / folder).rglob("*") if path.is_file()
    ]
    assert {path.suffix for path in files} == {".sqlite", ".lock", ".jsonl"}
    assert all(API_KEY.encode() not in path.read_bytes() for path in files)


def test_what_was_paid_is_in_the_ledger(planted, run_json, notes, api):
    report = run_json("interpret", "planted", "--keys", KEY, OTHER)
    harvest = open_planted(planted)
    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    assert report["dollars"] == pytest.approx(ledger.spending("interpret claude-haiku-5-5 detects").dollars)
    assert {call.purpose for call in ledger.calls()} == {"label"}
    assert json.loads(next(call.answer for call in ledger.calls() if call.answer)) == ANSWER


def test_an_interrupted_batch_can_be_given_up(planted, run, notes, api):
    api.on_batch = lambda n: Drop() if n == 0 else None
    code, _, err = run("interpret", "planted", "--keys", KEY, "--batch")
    assert code == 1
    name = "".join(err.splitlines()).split("--abandon-batch ")[1].strip().rstrip(".")
    code, _, err = run("interpret", "planted", "--keys", KEY, "--batch", "--abandon-batch", name)
    assert (code, len(api.batches)) == (0, 1), err
    assert notes.label(KEY) is not None


@pytest.mark.parametrize("option", [("--abandon-batch", "b-1"), ("--adopt-batch", "b-1=msgbatch_1")])
def test_a_batch_that_was_never_intended_is_refused(planted, run, api, option):
    code, _, err = run("interpret", "planted", "--keys", KEY, "--batch", *option)
    assert (code, len(err.strip().splitlines())) == (1, 1)
    assert "b-1" in err
    assert not api.batches


def test_an_adopted_batch_has_an_id(planted, run, api):
    code, _, err = run("interpret", "planted", "--keys", KEY, "--adopt-batch", "b-1")
    assert code == 2
    assert "'b-1' is not INTENT=ID" in err
