"""Export and import: everything or nothing, the same bytes, no contradictions."""

from __future__ import annotations

import json

import pytest
from annotation_results import ABOVE, FINGERPRINT, KEY, OTHER, draft, label_test, probed, supported, swept

from spd_tools.annotations import Annotations
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate


@pytest.fixture
def other() -> Annotations:
    """Annotations of the same decomposition under another name."""
    return Annotations.open("elsewhere", FINGERPRINT)


def fill(notes: Annotations) -> None:
    notes.add_evidence(probed(["\x1b[31m \0 a text"]), author="ada")
    proposed = notes.add_hypothesis(KEY, "it likes ' the'", confidence=0.3, author="ada")
    evidence = [summary.id for summary in notes.list_evidence()]
    notes.update_hypothesis(proposed.id, status="supported", evidence=evidence, note="yes", author="bob")
    notes.set_label(KEY, draft(ruled_out=["x"]), author="bob")
    supported(notes, category="token", confidence=0.9)
    notes.set_label(OTHER, draft(wants="rejected", notes="<b>\u202e"), author="eve")
    notes.add_score(KEY, "detection", 0.8, low=0.7, high=0.9, n=40, label_version=2, details={"a": [1]}, author="judge")
    notes.add_score(OTHER, "fuzzing", 0.5, author="judge")
    notes.add_log("begun", author="ada")
    notes.add_log("about it", key=KEY, author="ada")


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def rewrite(path, change) -> None:
    documents = lines(path)
    change(documents)
    path.write_text("".join(json.dumps(document) + "\n" for document in documents))


def one(documents, kind, **fields) -> dict:
    return next(d for d in documents if d["record"] == kind and all(d[name] == value for name, value in fields.items()))


def everything(notes: Annotations, path) -> list[dict]:
    notes.export_jsonl(path)
    return lines(path)[1:]


@pytest.fixture
def exported(notes, tmp_path):
    fill(notes)
    path = tmp_path / "notes.jsonl"
    assert notes.export_jsonl(path) == 12
    return path


def test_an_export_says_what_it_is(exported):
    documents = lines(exported)
    assert documents[0] == {"record": "annotations", "version": 1, "run_id": "some-run", "fingerprint": FINGERPRINT}
    kinds = [document["record"] for document in documents[1:]]
    assert kinds == ["evidence"] * 3 + ["hypothesis"] * 2 + ["label"] * 3 + ["score"] * 2 + ["log"] * 2
    assert exported.read_bytes().isascii()


def test_exports_of_the_same_are_the_same(notes, exported, tmp_path):
    notes.export_jsonl(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == exported.read_bytes()


def test_into_nothing_and_out_again(other, notes, exported, tmp_path):
    report = other.import_jsonl(exported)
    assert report.added == {"evidence": 3, "hypothesis": 2, "label": 3, "score": 2, "log": 2}
    assert report.known == 0
    other.export_jsonl(tmp_path / "again.jsonl")
    assert lines(tmp_path / "again.jsonl")[1:] == lines(exported)[1:]
    assert other.labels() == notes.labels()
    assert other.hypotheses() == notes.hypotheses()
    assert other.scores() == notes.scores()
    assert other.texts_used(KEY) == notes.texts_used(KEY)
    assert [summary.id for summary in other.list_evidence()] == [summary.id for summary in notes.list_evidence()]
    assert [label.id for label in other.search_labels("fires")] == [label.id for label in notes.search_labels("fires")]


def test_what_is_known_is_skipped(notes, exported, tmp_path):
    before = everything(notes, tmp_path / "before.jsonl")
    report = notes.import_jsonl(exported)
    assert set(report.added.values()) == {0}
    assert report.known == 12
    assert everything(notes, tmp_path / "after.jsonl") == before


def test_an_empty_export(notes, other, tmp_path):
    assert notes.export_jsonl(tmp_path / "none.jsonl") == 0
    assert not notes.path.exists()
    assert other.import_jsonl(tmp_path / "none.jsonl").known == 0


def test_versions_of_two_places_are_numbered_by_time(notes, other, tmp_path):
    written = []
    for number in range(4):
        written.append(
            (notes, other)[number % 2].set_label(KEY, draft(input_view=f"zebra{number}"), author="ada").label
        )
    other.add_score(KEY, "detection", 0.5, label_version=2, author="judge")
    other.export_jsonl(tmp_path / "other.jsonl")
    assert notes.import_jsonl(tmp_path / "other.jsonl").added["label"] == 2
    history = notes.label_history(KEY)
    assert [label.id for label in history] == [label.id for label in written]
    assert [label.version for label in history] == [1, 2, 3, 4]
    assert notes.scores()[0].label_version == 4
    assert [len(notes.search_labels(f"zebra{number}")) for number in range(4)] == [0, 0, 0, 1]
    assert notes.import_jsonl(tmp_path / "other.jsonl").added["label"] == 0


def test_a_result_of_another_machine_is_no_contradiction(notes, other, tmp_path):
    first = notes.add_evidence(swept(), author="ada")
    other.add_evidence(swept(effect=ABOVE.model_copy(update={"value": 0.9000001})), author="bob")
    other.export_jsonl(tmp_path / "other.jsonl")
    assert notes.import_jsonl(tmp_path / "other.jsonl").added["evidence"] == 0
    assert notes.evidence(first.id) == first


def change_text(documents):
    one(documents, "hypothesis")["text"] = "something else"


def change_label(documents):
    one(documents, "label", status="draft")["input_view"] = "something else"


def change_score(documents):
    one(documents, "score")["value"] = 0.1


def change_log(documents):
    one(documents, "log")["text"] = "something else"


def change_evidence(documents):
    one(documents, "evidence", author="ada")["result"]["request"]["seed"] = 99


@pytest.mark.parametrize("change", [change_text, change_label, change_score, change_log, change_evidence])
def test_contradictions_are_refused_and_nothing_is_imported(notes, exported, tmp_path, change):
    def both(documents):
        change(documents)
        documents.append({**one(documents, "log"), "id": "n-000000000000", "text": "new and harmless"})

    rewrite(exported, both)
    before = everything(notes, tmp_path / "before.jsonl")
    with pytest.raises(SpdToolsError, match=r"in the file differ, so nothing was imported"):
        notes.import_jsonl(exported)
    assert everything(notes, tmp_path / "after.jsonl") == before


def test_a_hypothesis_changed_in_two_places_is_a_contradiction(notes, other, tmp_path):
    proposed = notes.add_hypothesis(KEY, "it", confidence=0.5, author="ada")
    notes.export_jsonl(tmp_path / "first.jsonl")
    other.import_jsonl(tmp_path / "first.jsonl")
    other.update_hypothesis(proposed.id, confidence=0.1, author="bob")
    other.export_jsonl(tmp_path / "second.jsonl")
    notes.update_hypothesis(proposed.id, confidence=0.9, author="ada")
    with pytest.raises(SpdToolsError, match="differ"):
        notes.import_jsonl(tmp_path / "second.jsonl")


def test_another_decomposition_is_refused(exported):
    with pytest.raises(SpdToolsError, match=r"line 1: it is about a decomposition with fingerprint 'ffffffff'"):
        Annotations.open("another", "0" * 64).import_jsonl(exported)


def drop(kind):
    def change(documents):
        documents[:] = [document for document in documents if document["record"] != kind]

    return change


def put(kind, name, value, **where):
    def change(documents):
        one(documents, kind, **where)[name] = value

    return change


def put_result(name, value):
    def change(documents):
        one(documents, "evidence")["result"][name] = value

    return change


def twice(documents):
    documents.append(documents[-1])


def unsupported(documents):
    """A draft that calls itself supported."""
    one(documents, "label", status="draft")["status"] = "supported"


def another_fingerprint(documents):
    one(documents, "evidence")["result"]["subject"]["fingerprint"] = "0" * 64


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda documents: documents.pop(0), "no export of annotations"),
        (put("annotations", "version", 2), "version '2'"),
        (drop("evidence"), "not in the file"),
        (drop("label"), "not in the file"),
        (twice, "twice"),
        (unsupported, "calls itself supported and is not"),
        (another_fingerprint, "no evidence here"),
        (put("log", "record", "dream"), "no record 'dream'"),
        (put("log", "author", ""), "The author"),
        (put("log", "author", None), "The author"),
        (put("log", "created", "yesterday"), "no time"),
        (put("log", "created", "9999-12-31T23:59:59.999999+00:00"), "no time"),
        (put("log", "created", "2026-13-01T00:00:00.000000+00:00"), "no time"),
        (put("log", "text", "x" * 20_001), "at most 20,000"),
        (put("log", "text", "\ud800"), "surrogate"),
        (put("log", "key", "nothing"), "does not fit"),
        (put("log", "extra", 1), "'extra' does not fit"),
        (put("label", "input_view", " "), "'input_view' does not fit"),
        (put("label", "evidence", ["sweep-0"]), "not in the file"),
        (put("label", "status", "true"), "'status' does not fit"),
        (put("label", "key", "a:1", status="supported"), "which is not"),
        (put("hypothesis", "confidence", 7), "from 0 to 1"),
        (put("hypothesis", "version", 3), "differ"),
        (put("score", "value", float("nan")), "finite"),
        (put("evidence", "result", {}), "no result"),
        (put("evidence", "result", "'; DROP TABLE labels; --"), "no result"),
        (put_result("n", "many"), "no result"),
        (put_result("id", ""), "The id"),
    ],
)
def test_lines_that_do_not_fit_are_refused_whole(other, exported, change, sentence):
    rewrite(exported, change)
    with pytest.raises(SpdToolsError, match=sentence) as caught:
        other.import_jsonl(exported)
    assert "\n" not in str(caught.value)
    assert everything(other, exported) == []


@pytest.mark.parametrize("content", [b"", b"\n\n", b"{", b"[1]\n", b"\xff\xfe", b"[" * 100_000, b"1\n"])
def test_what_is_no_export(notes, tmp_path, content):
    path = tmp_path / "notes.jsonl"
    path.write_bytes(content)
    with pytest.raises(SpdToolsError, match=r"notes\.jsonl"):
        notes.import_jsonl(path)
    assert not notes.path.exists()


def test_files_that_cannot_be_opened(notes, tmp_path):
    with pytest.raises(SpdToolsError, match="Could not read"):
        notes.import_jsonl(tmp_path / "missing.jsonl")
    with pytest.raises(SpdToolsError, match="Could not write"):
        notes.export_jsonl(tmp_path / "missing" / "notes.jsonl")


def test_components_that_the_harvest_has_not_are_refused(notes, harvest, tmp_path):
    notes.set_label("h.9:0", draft(), author="ada")
    notes.export_jsonl(tmp_path / "notes.jsonl")
    rewrite(tmp_path / "notes.jsonl", put("annotations", "fingerprint", harvest.manifest.decomposition.fingerprint))
    with pytest.raises(SpdToolsError, match=r"There is no layer 'h\.9'"):
        Annotations.of(harvest).import_jsonl(tmp_path / "notes.jsonl")


def test_a_weak_test_does_not_support_an_imported_label(notes, other, tmp_path):
    supported(notes)
    notes.export_jsonl(tmp_path / "notes.jsonl")

    def weaken(documents):
        for document in documents:
            if document["record"] == "evidence" and document["result"]["request"]["experiment"] == "generate_and_test":
                document["result"]["effect"] = Estimate(value=0.5, low=0.4, high=0.6, n=20).model_dump()

    rewrite(tmp_path / "notes.jsonl", weaken)
    with pytest.raises(SpdToolsError, match=r"calls itself supported and is not.*scores 0\.50"):
        other.import_jsonl(tmp_path / "notes.jsonl")


def test_what_was_tried_after_a_label_was_supported_does_not_keep_it_from_travelling(notes, other, tmp_path):
    label = supported(notes).label
    for seed in range(200, 260):
        notes.add_evidence(swept(seed=seed, p_value=0.5), author="ada")
    assert notes.corrected_p_values(KEY)[label.evidence[0]] > 0.0001
    notes.export_jsonl(tmp_path / "notes.jsonl")
    other.import_jsonl(tmp_path / "notes.jsonl")
    assert other.label(KEY) == label
    assert other.corrected_p_values(KEY) == notes.corrected_p_values(KEY)


def test_an_intervention_that_could_be_chance_does_not_support_an_imported_label(notes, other, tmp_path):
    supported(notes)
    notes.export_jsonl(tmp_path / "notes.jsonl")

    def weaken(documents):
        one(documents, "evidence", author="ada")["result"]["p_value"] = 0.06

    rewrite(tmp_path / "notes.jsonl", weaken)
    with pytest.raises(SpdToolsError, match=r"calls itself supported and is not"):
        other.import_jsonl(tmp_path / "notes.jsonl")


# --- Neuronpedia ------------------------------------------------------------------------------------------------------


def test_neuronpedia_rows(notes, tmp_path):
    fill(notes)
    assert notes.export_neuronpedia(tmp_path / "rows.jsonl", model_id="gpt2") == 1
    [row] = lines(tmp_path / "rows.jsonl")
    label = notes.label(KEY)
    assert label is not None
    inside = json.loads(row.pop("notes"))
    assert row == {
        "id": label.id,
        "modelId": "gpt2",
        "layer": "h.0.mlp.c_fc",
        "index": "3",
        "description": "fires on ' the'",
        "typeName": "spd-tools",
        "explanationModelName": "ada",
        "authorName": "ada",
        "createdAt": label.created,
    }
    assert (inside["status"], inside["confidence"], inside["category"]) == ("supported", 0.9, "token")


def test_neuronpedia_descriptions_hold_both_views(notes, tmp_path):
    notes.set_label(KEY, draft(input_view="numbers", output_view="raises ' %'"), author="ada")
    notes.export_neuronpedia(tmp_path / "rows.jsonl")
    [row] = lines(tmp_path / "rows.jsonl")
    assert row["description"] == "numbers; output: raises ' %'"
    assert row["modelId"] == "some-run"


def test_neuronpedia_rows_become_drafts_once(notes, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"modelId": "gpt2", "layer": "h.0.mlp.c_fc", "description": "numbers", "explanationModelName": "gpt-x"}
    path.write_text("".join(json.dumps({**row, "index": index}) + "\n" for index in ("3", 4)))
    assert notes.import_neuronpedia(path, author="ada") == 2
    assert notes.import_neuronpedia(path, author="ada") == 0
    label = notes.label(KEY)
    assert label is not None
    assert (label.status, label.input_view, label.author, label.version) == ("draft", "numbers", "ada", 1)
    assert label.notes == "From Neuronpedia (explanationModelName gpt-x)."
    assert notes.label(OTHER) is not None


@pytest.mark.parametrize(
    "row",
    [
        {"layer": "a", "index": "0"},
        {"layer": "a", "description": "x"},
        {"layer": "a", "index": "x", "description": "x"},
        {"layer": "a", "index": "0", "description": " "},
        {"layer": "a", "index": "0", "description": 3},
        {"layer": "a", "index": "0", "description": "x", "typeName": "y" * 20_001},
    ],
)
def test_rows_that_are_none_are_refused_whole(notes, tmp_path, row):
    path = tmp_path / "rows.jsonl"
    good = {"layer": "a", "index": "0", "description": "x"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(SpdToolsError, match="line 2"):
        notes.import_neuronpedia(path, author="ada")
    assert notes.labels() == []


def test_the_same_test_may_be_cited_after_an_import(other, exported):
    """What was fresh when it was done stays so: order of arrival is kept."""
    other.import_jsonl(exported)
    ids = [summary.id for summary in other.list_evidence(KEY)]
    assert other.set_label(KEY, draft(wants="supported", evidence=ids), author="bob").label.status == "supported"


def test_a_proposal_travels_without_using_texts_up(notes, other, tmp_path):
    notes.add_evidence(label_test(near_misses=[]), author="ada")
    notes.export_jsonl(tmp_path / "notes.jsonl")
    other.import_jsonl(tmp_path / "notes.jsonl")
    assert other.texts_used(KEY) == set()
