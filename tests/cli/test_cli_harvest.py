"""From a run to a component through the command line alone."""

import functools
import shutil
from dataclasses import replace

import pytest

from spd_tools import demo
from spd_tools.cli import main
from spd_tools.decompositions import planted as planted_package
from spd_tools.harvest import pipeline
from spd_tools.store.reader import open_harvest

SMALL = ("--n-batches", "3", "--batch-size", "4")


@pytest.fixture(scope="module")
def small_planted():
    """The planted decomposition is built once, and its corpus is short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pipeline, "PLANTED_ROWS", 128)
        patch.setattr(demo, "REQUEST", replace(demo.REQUEST, n_batches=4))
        patch.setattr(planted_package, "load_planted", functools.cache(planted_package.load_planted))
        yield


@pytest.fixture(scope="module")
def prepared(small_planted, tmp_path_factory):
    """An SPD_OUT_DIR with a harvest of `planted`."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder))
        assert main(["harvest", "planted", *SMALL]) == 0
    return folder


@pytest.fixture(autouse=True)
def tokens(prepared, out_dir):
    shutil.copytree(prepared / "tokens", out_dir / "tokens")


@pytest.fixture
def planted(prepared, out_dir):
    shutil.copytree(prepared / "harvest", out_dir / "harvest")
    return open_harvest("planted")


def test_harvest_then_overview(planted, run):
    code, out, err = run("overview", "h.0.mlp.down_proj:17")
    assert (code, err) == (0, "")
    assert "100 % of all tokens" in out


def test_harvest_says_what_to_type_next_and_prints_no_data(run):
    code, out, err = run("harvest", "planted", *SMALL)
    assert (code, out) == (0, "")
    assert "spd-tools overview KEY --run planted" in err


def test_a_finished_harvest_is_reported_not_redone(planted, run_json):
    outcome = run_json("harvest", "planted", *SMALL)
    assert (outcome["state"], outcome["harvest_id"]) == ("already finished", planted.harvest_id)
    assert outcome["n_tokens"] == planted.n_tokens


def test_a_finished_harvest_is_named_where_a_later_one_would_be_taken_instead(planted, add_harvest, run):
    hint = "spd-tools overview KEY --run planted"
    assert f"{hint}\n" in run("harvest", "planted", *SMALL)[2]
    add_harvest("planted", "later")
    assert f"{hint} --harvest {planted.harvest_id}\n" in run("harvest", "planted", *SMALL)[2]
    (add_harvest("planted", "unreadable") / "manifest.json").write_text("{")
    assert f"{hint} --harvest {planted.harvest_id}\n" in run("harvest", "planted", *SMALL)[2]


def test_ranks_then_merge(run, run_json):
    ranks = [run_json("harvest", "planted", *SMALL, "--world-size", 2, "--rank", rank) for rank in (0, 1)]
    assert [outcome["state"] for outcome in ranks] == ["rank finished"] * 2
    merged = run_json("merge", "planted")
    assert merged["state"] == "finished"
    assert merged["n_tokens"] == sum(outcome["n_tokens"] for outcome in ranks)


def test_a_finished_rank_says_how_to_merge(run):
    _, _, err = run("harvest", "planted", *SMALL, "--world-size", 2, "--rank", 1)
    assert "Rank 1 of" in err
    assert "spd-tools merge planted" in err


def test_a_missing_rank_is_named(run):
    run("harvest", "planted", *SMALL, "--world-size", 2, "--rank", 1)
    code, _, err = run("merge", "planted")
    assert (code, len(err.splitlines())) == (1, 1)
    assert "0" in err


def test_the_run_is_found_by_what_was_typed(small_planted, run, run_json):
    assert run("harvest", "planted:7", *SMALL)[0] == 0
    assert run_json("overview", "h.0.mlp.down_proj:17", "--run", "planted:7")["run_id"] == "planted-7"


def test_similar_components_of_a_run_that_can_be_loaded(planted, run_json):
    similar = run_json("similar", "h.0.mlp.down_proj:6", "--direction", "write", "--limit", "3")
    assert len(similar) == 3
    assert "similar" not in similar[0]
    assert all(-1 <= other["cosine"] <= 1 for other in similar)


def test_prepare_makes_the_token_file_that_the_harvest_uses(run_json):
    fingerprint = run_json("prepare", "planted")["fingerprint"]
    outcome = run_json("harvest", "planted", *SMALL)
    assert open_harvest("planted", outcome["harvest_id"]).manifest.data.fingerprint == fingerprint


@pytest.mark.parametrize(
    "argv",
    [
        ("harvest", "no/such/run", *SMALL),
        ("harvest", "planted:x", *SMALL),
        ("harvest", "planted", *SMALL, "--seq-len", "100000"),
        ("harvest", "planted", *SMALL, "--rank", "2", "--world-size", "2"),
        ("harvest", "planted", *SMALL, "--device", "toaster"),
        ("harvest", "planted", *SMALL, "--data", "no/such/file.jsonl", "--tokenizer", "no/such/tokenizer.json"),
        ("harvest", "planted", *SMALL, "--threshold", "-1"),
        ("harvest", "planted", *SMALL, "--p-min", "2"),
        ("merge", "planted"),
        ("prepare", "no/such/run"),
    ],
    ids=" ".join,
)
def test_what_a_user_can_mend_is_one_sentence(run, argv, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, err = run(*argv)
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_the_demo_is_found_the_second_time(run, run_json):
    first = run_json("demo")
    second = run("demo")
    assert second[0] == 0
    assert first["component"]["key"] in second[1]
    assert [entry["state"] for entry in run_json("runs")] == ["finished"]


def test_the_demos_component_is_one_for_relatives(run_json):
    from spd_tools.stories import story_vocabulary

    found = run_json("demo")
    categories = {name: tokens_of(story_vocabulary(), name) for name in ("possessive", "relative")}
    inputs, outputs = (found[side]["by_recall"]["top"] for side in ("input_tokens", "output_tokens"))
    assert {score["text"] for score in inputs[:4]} <= categories["possessive"]
    assert {score["text"] for score in outputs[:5]} <= categories["relative"]


def tokens_of(vocabulary, category):
    return {vocabulary.tokens[token] for token in vocabulary.categories[category]}
