import io

import pytest

from spd_tools.settings import Settings


@pytest.fixture
def unfinished():
    folder = Settings.from_environment().harvest("made-up", "half")
    (folder / "shards").mkdir(parents=True)
    return folder


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_runs_lists_finished_and_unfinished(harvest, unfinished, run):
    code, out, _ = run("runs")
    lines = out.splitlines()
    assert code == 0
    assert any("abc123" in line and " finished" in line for line in lines)
    assert any("half" in line and "unfinished" in line for line in lines)


def test_runs_as_json(harvest, unfinished, run_json):
    states = {entry["harvest_id"]: entry["state"] for entry in run_json("runs")}
    assert states == {"abc123": "finished", "half": "unfinished"}


def test_without_runs_the_list_is_empty_and_stderr_says_what_to_do(run, run_json):
    assert run_json("runs") == []
    code, out, err = run("runs")
    assert (code, out) == (0, "")
    assert "spd-tools harvest" in err


def test_show_tells_what_was_harvested(harvest, run):
    code, out, _ = run("runs", "show", "made-up")
    assert code == 0
    assert {"reference", "configuration", "layers", "h.1.mlp.c_fc"} <= set(out.split())


@pytest.mark.parametrize(("tokenizer", "said"), [(None, "none"), ("{}", "stored with it")])
def test_show_tells_which_tokenizer_the_texts_are_shown_with(add_harvest, run, tokenizer, said):
    add_harvest(tokenizer=tokenizer)
    [line] = [line.split(maxsplit=1) for line in run("runs", "show", "made-up")[1].splitlines() if "tokenizer" in line]
    assert line[1].strip() == said


@pytest.mark.parametrize("argv", [("runs", "--json", "show", "made-up"), ("runs", "show", "made-up", "--json")])
def test_json_may_stand_before_or_after_the_subcommand(harvest, run, argv):
    code, out, _ = run(*argv)
    assert code == 0
    assert out.startswith("[")


def test_show_of_an_unknown_run(harvest, run):
    code, out, err = run("runs", "show", "nope")
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_remove_says_what_it_removes_and_removes_it(harvest, run):
    code, _, err = run("runs", "remove", "made-up", "--yes")
    assert code == 0
    assert str(harvest) in err
    assert not harvest.exists()


def test_remove_of_one_harvest_keeps_the_other(harvest, unfinished, run_json):
    assert run_json("runs", "remove", "made-up", "--harvest", "half", "--yes") == {"removed": ["half"]}
    assert harvest.exists()


def test_remove_is_refused_where_nobody_can_be_asked(harvest, run, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, _, err = run("runs", "remove", "made-up")
    assert code == 1
    assert "--yes" in err
    assert harvest.exists()


@pytest.mark.parametrize(
    ("answer", "code", "kept"), [("y\n", 0, False), ("n\n", 1, True), ("\n", 1, True), ("", 1, True)]
)
def test_remove_asks_on_a_terminal(harvest, run, monkeypatch, answer, code, kept):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    assert run("runs", "remove", "made-up")[0] == code
    assert harvest.exists() == kept


def test_remove_of_an_unknown_harvest(harvest, run):
    code, _, err = run("runs", "remove", "made-up", "--harvest", "nope", "--yes")
    assert (code, len(err.splitlines())) == (1, 1)
    assert harvest.exists()


def make_cache():
    import numpy as np

    from spd_tools.tokens import cached_rows

    return cached_rows("made-up-cache", 4, 10, lambda: np.zeros((3, 4), np.int64), "nothing", None)


def test_caches_lists_and_removes_token_files(run, run_json):
    make_cache()
    assert [entry["fingerprint"] for entry in run_json("caches")] == ["made-up-cache"]
    assert "made-up-cache" in run("caches")[1]
    assert run("caches", "remove", "made-up-cache", "--yes")[0] == 0
    assert run_json("caches") == []


def test_an_unknown_cache_is_one_sentence(run):
    code, _, err = run("caches", "remove", "nope", "--yes")
    assert (code, len(err.splitlines())) == (1, 1)
