import re
import sqlite3
from contextlib import contextmanager

import pytest
from planted_store import KEY, LABEL, NEGATIVES, OTHER, POSITIVES, misses_tools

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, run
from spd_tools.investigate import Investigation

SWEEP = {"key": KEY, "tokens": ["needle", "cat"], "n_contexts": 8, "n_controls": 19}


def near_misses(investigation, positives):
    asked = {"key": KEY, "label": LABEL, "positives": positives}
    proposal = investigation.run("generate_and_test", asked, author="a")
    return [candidate.text for candidate in proposal.candidates if misses_tools(candidate.text)]


@pytest.fixture
def calls(monkeypatch):
    """Names of the experiments that are run, not answered from the evidence."""
    made = []

    def counted(subject, request):
        made.append(request.experiment)
        return run(subject, request)

    monkeypatch.setattr("spd_tools.experiments.run", counted)
    return made


def test_a_result_is_that_of_the_experiment(investigation, subject):
    assert investigation.run("sweep", SWEEP, author="a") == run(subject, make_request("sweep", SWEEP))


def test_a_result_becomes_evidence(investigation):
    result = investigation.run("sweep", SWEEP, author="ann")
    stored = investigation.notes.evidence(result.id)
    assert stored.result == result
    assert stored.author == "ann"


def test_the_same_question_is_answered_from_the_evidence(investigation, calls):
    first = investigation.run("sweep", SWEEP, author="ann")
    assert investigation.run("sweep", SWEEP, author="bob") == first
    assert calls == ["sweep"]
    assert [record.author for record in investigation.notes.list_evidence()] == ["ann"]


def test_another_seed_is_another_question(investigation, calls):
    first = investigation.run("sweep", SWEEP, author="a")
    assert investigation.run("sweep", {**SWEEP, "seed": 1}, author="a").id != first.id
    assert calls == ["sweep", "sweep"]


@pytest.fixture
def elsewhere(monkeypatch):
    """A context in which results say that they were computed with another torch."""
    identity = Subject.identity

    def there(subject, request):
        found = identity(subject, request)
        return {**found, "machine": found["machine"].model_copy(update={"torch": "0.1"})}

    @contextmanager
    def elsewhere():
        with monkeypatch.context() as patch:
            patch.setattr(Subject, "identity", there)
            yield

    return elsewhere


def test_evidence_from_another_machine_is_the_answer_with_a_remark(investigation, calls, elsewhere):
    with elsewhere():
        first = investigation.run("sweep", SWEEP, author="a")
        assert investigation.remark(first) is None
    again = investigation.run("sweep", SWEEP, author="a")
    assert calls == ["sweep"]
    assert again == first
    remark = investigation.remark(again)
    assert re.search(r"computed elsewhere \(cpu.*; torch 0\.1, spd-tools .*; here are cpu.*torch", remark)
    assert f"replay {first.id}" in remark
    assert not investigation.replay(first.id).same_machine
    assert [record.id for record in investigation.notes.list_evidence()] == [first.id]


def make_unreadable(notes, evidence_id):
    """As a version would have stored it that knew of no tokens."""
    with sqlite3.connect(notes.path) as connection:
        connection.execute(
            "UPDATE evidence SET document = json_remove(document, '$.tokens') WHERE id = ?", (evidence_id,)
        )
    connection.close()


def test_an_answer_of_an_older_format_blocks_no_question(investigation, calls):
    first = investigation.run("sweep", SWEEP, author="a")
    make_unreadable(investigation.notes, first.id)
    second = investigation.run("sweep", SWEEP, author="a")
    assert second.id == f"{first.id}-2"
    assert second == first.model_copy(update={"id": second.id})
    assert investigation.notes.evidence(second.id).result == second
    assert investigation.run("sweep", SWEEP, author="a") == second
    assert calls == ["sweep", "sweep"]
    again = investigation.replay(second.id)
    assert (again.id, again.identical) == (second.id, True)
    make_unreadable(investigation.notes, second.id)
    assert investigation.run("sweep", SWEEP, author="a").id == f"{first.id}-3"


def test_a_refused_experiment_leaves_no_evidence(investigation):
    with pytest.raises(SpdToolsError):
        investigation.run("sweep", {**SWEEP, "tokens": ["nosuchword"]}, author="a")
    assert investigation.notes.list_evidence() == []


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("sweeep", {"key": KEY}, "did you mean sweep"),
        ("sweep", {"key": KEY}, "needs tokens"),
        ("sweep", {**SWEEP, "colour": 1}, "takes no colour"),
        ("sweep", {**SWEEP, "key": "h.9:1"}, "no layer 'h.9'"),
        ("sweep", {**SWEEP, "key": "needle"}, "no component"),
    ],
)
def test_bad_requests_are_refused(investigation, name, parameters, words):
    with pytest.raises(SpdToolsError, match=words):
        investigation.run(name, parameters, author="a")


def test_the_model_is_not_loaded_for_what_needs_none(subject, monkeypatch):
    monkeypatch.setattr("spd_tools.experiments.subject.decomposition_of", lambda harvest: pytest.fail("loaded"))
    investigation = Investigation(subject.harvest)
    assert investigation.notes.list_evidence() == []
    investigation.run("enrichment", {"key": KEY, "limit": 2}, author="a")


# --- generate and test ------------------------------------------------------------------------------------------------


def test_proposing_near_misses_stores_nothing(investigation):
    assert near_misses(investigation, POSITIVES[:3])
    assert investigation.notes.list_evidence() == []
    assert investigation.notes.texts_used(KEY) == set()


@pytest.mark.parametrize("label", [{}, {"label": None}])
def test_a_test_of_no_label_is_refused(investigation, label):
    for near_misses in ([], ["x"]):
        given = {"key": KEY, "positives": POSITIVES[:3], "near_misses": near_misses, **label}
        with pytest.raises(SpdToolsError, match="generate_and_test needs label"):
            investigation.run("generate_and_test", given, author="a")


@pytest.mark.parametrize("label", ["", " \n"])
def test_a_label_that_is_blank_is_refused(investigation, label):
    with pytest.raises(SpdToolsError, match="label does not fit"):
        investigation.run("generate_and_test", {"key": KEY, "label": label, "positives": POSITIVES[:3]}, author="a")


def test_a_test_from_before_labels_were_asked_for_is_replayed_under_its_id(investigation, subject):
    request = make_request("generate_and_test", {"key": KEY, "positives": POSITIVES[:3]})
    assert "label" not in request.model_dump()
    candidates = [miss.text for miss in run(subject, request).candidates if misses_tools(miss.text)]
    asked = {"key": KEY, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2], "near_misses": candidates[:3]}
    old = run(subject, make_request("generate_and_test", asked))
    investigation.notes.add_evidence(old, author="a")
    assert investigation.notes.evidence(old.id).result == old
    assert investigation.replay(old.id).identical


def test_a_test_is_stored(investigation):
    chosen = near_misses(investigation, POSITIVES[:3])
    given = {
        "key": KEY,
        "label": LABEL,
        "positives": POSITIVES[:3],
        "negatives": NEGATIVES[:2],
        "near_misses": chosen[:3],
    }
    result = investigation.run("generate_and_test", given, author="a")
    assert investigation.notes.evidence(result.id).result == result


def test_texts_of_an_earlier_test_are_refused(investigation):
    given = {"key": KEY, "label": LABEL, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2]}
    given["near_misses"] = near_misses(investigation, POSITIVES[:3])[:3]
    first = investigation.run("generate_and_test", given, author="a")
    with pytest.raises(SpdToolsError, match="only fresh texts test a label"):
        investigation.run("generate_and_test", {**given, "negatives": NEGATIVES[:3]}, author="a")
    assert investigation.run("generate_and_test", given, author="a") == first  # asked again, not done again


@pytest.mark.parametrize("text", ["THE GREEN saw  falls", "the «green» saw falls"])
def test_texts_that_were_probed_are_refused_whatever_their_case_and_marks(investigation, text):
    investigation.run("probe", {"key": KEY, "texts": ["the green saw falls"]}, author="a")
    given = {"key": KEY, "label": LABEL, "positives": [text, *POSITIVES[1:3]], "near_misses": ["x"]}
    with pytest.raises(SpdToolsError, match="has been run on"):
        investigation.run("generate_and_test", given, author="a")


def test_texts_used_on_another_component_are_fresh(investigation):
    investigation.run("probe", {"key": OTHER, "texts": ["the green saw falls"]}, author="a")
    given = {"key": KEY, "label": LABEL, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2]}
    given["near_misses"] = near_misses(investigation, POSITIVES[:3])[:3]
    assert investigation.run("generate_and_test", given, author="a").n_positive == 3


# --- replay -----------------------------------------------------------------------------------------------------------


def test_a_replay_on_the_same_machine_is_equal_to_the_bit(investigation):
    result = investigation.run("sweep", SWEEP, author="a")
    again = investigation.replay(result.id)
    assert again.same_machine
    assert again.identical
    assert again.holds
    assert again.result == result


def test_unknown_evidence_cannot_be_replayed(investigation):
    with pytest.raises(SpdToolsError, match="There is no evidence"):
        investigation.replay("sweep-000000000000")


@pytest.mark.parametrize(
    ("field", "text", "word"),
    [
        ("positives", "the green «zebra» falls", "zebra"),
        ("negatives", "the green «zebra» falls", "zebra"),
        ("positives", "zebra xylophone", "zebra xylophone"),
    ],
)
def test_a_label_is_not_tested_on_words_that_the_model_cannot_read(investigation, field, text, word):
    texts = {"positives": POSITIVES[:2], "negatives": NEGATIVES[:2]}
    asked = {"key": KEY, "label": LABEL, **texts, field: [*texts[field], text]}
    with pytest.raises(SpdToolsError, match=f"lacks '{word}', on which"):
        investigation.run("generate_and_test", asked, author="ana")


def test_a_word_beside_the_marks_may_be_unknown(investigation):
    asked = {"key": KEY, "label": LABEL, "positives": ["the zebra and the «needle» falls"]}
    assert investigation.run("generate_and_test", asked, author="ana").candidates
