import json

import pytest
from planted_store import KEY, LABEL, NEGATIVES, OTHER, POSITIVES, misses_tools

from spd_tools.annotations import Annotations, LabelDraft
from spd_tools.store.reader import open_harvest

HOSTILE = "\x1b[31mred\x1b[0m [bold]x[/bold] \u202e<b>'; DROP TABLE labels; --\nsecond line"


@pytest.fixture(autouse=True)
def author(monkeypatch):
    monkeypatch.setenv("SPD_TOOLS_AUTHOR", "ann")


@pytest.fixture
def notes(planted):
    return Annotations.of(open_harvest("planted"))


def label(notes, key=KEY, input_view="fires on tools", author="ann", **more):
    return notes.set_label(key, LabelDraft(input_view=input_view, **more), author=author).label


def generated(run_json, tmp_path):
    """Id of a generate-and-test of KEY's label on fresh texts."""
    file = tmp_path / "texts.json"
    texts = {"label": LABEL, "positives": POSITIVES, "negatives": NEGATIVES}
    file.write_text(json.dumps(texts))
    proposed = run_json("generate-and-test", KEY, "--texts", file)["candidates"]
    chosen = [miss["text"] for miss in proposed if misses_tools(miss["text"])]
    file.write_text(json.dumps({**texts, "near_misses": chosen[:10]}))
    return run_json("generate-and-test", KEY, "--texts", file)["id"]


# --- from a probe to a supported label --------------------------------------------------------------------------------


def test_an_investigation_ends_in_a_supported_label(planted, run, run_json, tmp_path):
    first = run_json("hypothesis", "add", KEY, "fires on tool words", "--confidence", 0.6)
    second = run_json("hypothesis", "add", KEY, "fires after an article", "--confidence", 0.4)
    assert run_json("triage", KEY)["verdict"] == "worth it"
    sweep = run_json("sweep", KEY, "--token", "saw", "drill", "knife")["id"]
    run_json("hypothesis", "update", first["id"], "--status", "supported", "--evidence", sweep)
    run_json("hypothesis", "update", second["id"], "--status", "rejected", "--note", "it fires anywhere")
    tested = generated(run_json, tmp_path)
    written = run_json(
        *("label", "set", KEY, "--input-view", LABEL, "--confidence", 0.9, "--wants", "supported"),
        *("--ruled-out", "articles", "--evidence", sweep, tested),
    )
    assert (written["label"]["status"], written["label"]["missing"]) == ("supported", [])
    assert run_json("label", "show", KEY) == written["label"]
    assert run_json("replay", sweep)["holds"]
    assert [found["status"] for found in run_json("hypothesis", "list", KEY)] == ["supported", "rejected"]
    assert "any tool word" in run("overview", KEY)[1].splitlines()[1]


def test_a_label_without_an_intervention_stays_a_draft_and_says_what_is_missing(planted, run, run_json, tmp_path):
    probe = run_json("probe", KEY, "the rope waits")["id"]
    tested = generated(run_json, tmp_path)
    code, out, err = run(
        *("label", "set", KEY, "--input-view", LABEL, "--wants", "supported"),
        *("--evidence", probe, tested),
    )
    assert (code, err) == (0, "")
    assert "version 1, draft" in out
    assert "no experiment in which something was changed" in " ".join(out.split())
    assert run_json("label", "show", KEY)["status"] == "draft"


def test_a_label_in_other_words_than_were_tested_stays_a_draft(planted, run_json, tmp_path):
    sweep = run_json("sweep", KEY, "--token", "saw", "drill", "knife")["id"]
    tested = generated(run_json, tmp_path)
    evidence = ("--wants", "supported", "--evidence", sweep, tested)
    [missing] = run_json("label", "set", KEY, "--input-view", "names of tools", *evidence)["label"]["missing"]
    assert f"{tested} was run for the label '{LABEL}': test this wording on fresh texts." == missing
    assert run_json("label", "set", KEY, "--input-view", f" {LABEL.upper()}", *evidence)["label"]["missing"] == []


def test_evidence_about_another_component_is_refused(planted, run, run_json):
    probe = run_json("probe", OTHER, "the saw sings")["id"]
    code, out, err = run("label", "set", KEY, "--input-view", "x", "--evidence", probe)
    assert (code, out) == (1, "")
    assert f"{probe} is about {OTHER}" in err
    assert run_json("label", "show", KEY) is None


def test_annotations_of_another_decomposition_are_refused(planted, run):
    Annotations.open("planted", "another").add_log("x", author="a")
    for line in (["label", "show"], ["probe", KEY, "the saw sings"], ["search", "--label", "x"]):
        code, out, err = run(*line)
        assert (code, out) == (1, "")
        assert "another" in err
        assert err.count("\n") == 1


def test_an_overview_is_shown_without_a_label_that_cannot_be_read(planted, run):
    without = run("overview", KEY)[1]
    Annotations.open("planted", "another").add_log("x", author="a")
    code, out, err = run("overview", KEY)
    assert (code, out) == (0, without)
    assert "another" in err


# --- labels -----------------------------------------------------------------------------------------------------------


def test_all_fields_of_a_label_are_options(planted, run_json):
    written = run_json(
        *("label", "set", KEY, "--input-view", "i", "--output-view", "o", "--output-effect", "raises"),
        *("--category", "c", "--confidence", 0.5, "--notes", "n", "--ruled-out", "r1", "r2", "--ruled-out", "r3"),
        *("--wants", "rejected", "--author", "bob"),
    )["label"]
    expected = LabelDraft(
        input_view="i",
        output_view="o",
        output_effect="raises",
        category="c",
        confidence=0.5,
        notes="n",
        ruled_out=["r1", "r2", "r3"],
        wants="rejected",
    ).model_dump()
    assert {name: written[name] for name in expected} == expected
    assert (written["author"], written["status"], written["version"]) == ("bob", "rejected", 1)


def test_history_shows_every_version(planted, run, run_json, notes):
    label(notes)
    label(notes, input_view="fires on saws")
    assert [version["input_view"] for version in run_json("label", "history", KEY)] == [
        "fires on tools",
        "fires on saws",
    ]
    out = run("label", "history", KEY)[1]
    assert out.index("fires on tools") < out.index("fires on saws")


def test_labels_are_listed_by_status(planted, run_json, notes):
    label(notes)
    label(notes, OTHER, wants="rejected")
    assert [found["key"] for found in run_json("label", "show")] == [OTHER, KEY]
    assert [found["key"] for found in run_json("label", "show", "--status", "draft")] == [KEY]


def test_labels_are_found_by_their_words(planted, run, run_json, notes):
    label(notes)
    label(notes, OTHER, "fires on colours")
    assert [found["key"] for found in run_json("label", "search", "tool", "fires")] == [KEY]
    assert [found["key"] for found in run_json("search", "--label", "tool")] == [KEY]
    out = run("search", "--label", "tool")[1]
    assert KEY in out
    assert OTHER not in out


@pytest.mark.parametrize("more", [["--token", "saw"], ["--layer", "h.0.*"], ["--sort", "density"], ["--ascending"]])
def test_a_search_by_label_takes_no_other_condition(planted, run, more):
    code, _, err = run("search", "--label", "tool", *more)
    assert code == 1
    assert "leave those out" in err


def test_a_written_name_makes_a_write_happen_once(planted, run_json):
    once = ["label", "set", KEY, "--input-view", "x", "--idempotency-key", "k"]
    assert run_json(*once) == run_json(*once)
    assert len(run_json("label", "history", KEY)) == 1


def test_disputes_are_shown(planted, run, run_json, notes):
    assert run("label", "disputed")[2] == "Nothing is disputed.\n"
    label(notes, wants="rejected")
    assert [found["key"] for found in run_json("label", "disputed")] == [KEY]
    assert KEY in run("label", "disputed")[1]


def test_components_are_claimed_renewed_and_released(planted, run, run_json):
    queue = [item["key"] for item in run_json("label", "queue", "--limit", 3)]
    leases = run_json("label", "claim", "--n", 2)
    assert [lease["key"] for lease in leases] == queue[:2]
    assert "ann until" in run("label", "queue", "--limit", 3)[1]
    assert run_json("label", "claim", "--author", "bob")[0]["key"] == queue[2]
    assert run_json("label", "renew", queue[0], "--lease-seconds", 9999)["expires"] > leases[0]["expires"]
    assert run("label", "release", queue[2])[0] == 1  # it is bob's
    assert run_json("label", "release", queue[0]) == {"released": queue[0]}
    assert run_json("label", "claim")[0]["key"] == queue[0]


def test_exports_are_imported_again(planted, run, run_json, notes, tmp_path):
    label(notes)
    file = tmp_path / "notes.jsonl"
    assert run_json("label", "export", file)["records"] == 1
    notes.path.unlink()
    assert run_json("label", "import", file)["added"]["label"] == 1
    assert run_json("label", "show", KEY)["input_view"] == "fires on tools"
    assert run("label", "import", file)[2] == "Imported: nothing.\n"


def test_neuronpedia_explanations_go_out_and_in(planted, run_json, notes, tmp_path):
    label(notes)
    file = tmp_path / "explanations.jsonl"
    assert run_json("label", "export", file, "--format", "neuronpedia", "--model-id", "m")["records"] == 1
    assert json.loads(file.read_text())["modelId"] == "m"
    notes.path.unlink()
    assert run_json("label", "import", file, "--format", "neuronpedia") == {"added": {"label": 1}}


# --- the notebook -----------------------------------------------------------------------------------------------------


def test_the_research_log_is_read_in_order(planted, run, run_json):
    run_json("log", "write", "first")
    entry = run_json("log", "write", "second", "--key", KEY)
    assert [found["text"] for found in run_json("log", "read")] == ["first", "second"]
    assert run_json("log", "read", KEY) == [entry]
    out = run("log", "read")[1]
    assert out.index("first") < out.index("second")


def test_a_hypothesis_is_not_supported_by_nothing(planted, run, run_json):
    made = run_json("hypothesis", "add", KEY, "fires on tools", "--confidence", 0.5)
    code, out, err = run("hypothesis", "update", made["id"], "--status", "supported", "--note", "surely")
    assert (code, out) == (1, "")
    assert "cites no evidence" in err


def test_a_hypothesis_keeps_its_history(planted, run_json):
    made = run_json("hypothesis", "add", KEY, "fires on tools", "--confidence", 0.5)
    run_json("hypothesis", "update", made["id"], "--confidence", 0.8, "--note", "probe")
    versions = run_json("hypothesis", "history", made["id"])
    assert [(version["confidence"], version["note"]) for version in versions] == [(0.5, None), (0.8, "probe")]
    assert run_json("hypothesis", "list", "--status", "rejected") == []


def test_evidence_of_another_harvest_says_so(planted, run, run_json):
    probe = run_json("probe", KEY, "the rope waits")["id"]
    harvest = open_harvest("planted")
    assert harvest.harvest_id not in run("evidence", KEY)[1]
    notes = Annotations.of(harvest)
    result = notes.evidence(probe).result
    other = result.subject.model_copy(update={"harvest_id": "0123456789ab"})
    notes.add_evidence(result.model_copy(update={"id": "probe-0", "subject": other}), author="ann")
    lines = run("evidence", KEY)[1].splitlines()
    assert "0123456789ab" in next(line for line in lines if "probe-0" in line)
    assert harvest.harvest_id in next(line for line in lines if probe in line)


def test_evidence_is_listed_with_p_values_corrected_for_everything_tried(planted, run, run_json):
    for seed in (0, 1):
        run_json("sweep", KEY, "--token", "needle", "--n-contexts", 16, "--seed", seed)
    found = run_json("evidence", KEY, "--experiment", "sweep", "--limit", 1)
    assert len(found) == 1
    assert found[0]["p_corrected"] == pytest.approx(2 * found[0]["p_value"])
    assert found[0]["id"] in run("evidence", KEY)[1]


@pytest.mark.parametrize(
    "line",
    [
        ["label", "show"],
        ["label", "show", KEY],
        ["label", "history", KEY],
        ["label", "search", "x"],
        ["label", "disputed"],
        ["evidence"],
        ["hypothesis", "list"],
        ["log", "read"],
        ["jobs"],
    ],
    ids=" ".join,
)
def test_where_nothing_is_written_yet_a_remark_says_so_and_no_file_appears(planted, run, line):
    code, out, err = run(*line)
    assert (code, out) == (0, "")
    assert err.count("\n") == 1
    assert not (planted / "annotations").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["label", "set", KEY, "--input-view", " "], "input_view"),
        (["label", "set", "h.9:1", "--input-view", "x"], "no layer"),
        (["label", "set", KEY, "--input-view", "x", "--evidence", "sweep-1"], "There is no evidence 'sweep-1'"),
        (["label", "search", " "], "no words"),
        (["label", "claim", "--lease-seconds", 0.5], "lease"),
        (["label", "renew", KEY], KEY),
        (["label", "export", "x.jsonl", "--model-id", "m"], "--model-id is for"),
        (["label", "import", "none.jsonl"], "none.jsonl"),
        (["hypothesis", "update", "h-000000000000", "--note", "x"], "no hypothesis"),
        (["hypothesis", "add", KEY, " ", "--confidence", 0.5], "blank"),
        (["log", "write", ""], "blank"),
        (["jobs", "show", "harvest-000000000000"], "There is no job"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_bad_input_is_one_sentence(planted, run, line, words):
    code, out, err = run(*line)
    assert (code, out) == (1, "")
    assert words in err
    assert err.count("\n") == 1


def test_hostile_text_is_stored_as_it_is_and_shown_inert(planted, run, run_json):
    run_json("label", "set", KEY, "--input-view", HOSTILE, "--notes", HOSTILE, "--ruled-out", HOSTILE)
    run_json("hypothesis", "add", KEY, HOSTILE, "--confidence", 0.5)
    run_json("log", "write", HOSTILE)
    assert run_json("label", "show", KEY)["input_view"] == HOSTILE
    for line in (
        ["label", "show"],
        ["label", "show", KEY],
        ["search", "--label", "drop table"],
        ["overview", KEY],
        ["hypothesis", "list"],
        ["log", "read"],
    ):
        out = run(*line)[1]
        assert "␛[31mred" in out
        assert not {"\x1b", "\u202e"} & set(out)
