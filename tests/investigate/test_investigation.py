import sqlite3

import pytest
from demo_store import KEY, NEGATIVES, OTHER, POSITIVES, misses_tools

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, run
from spd_tools.investigate import Investigation

SWEEP = {"key": KEY, "tokens": ["needle", "cat"], "n_contexts": 8, "n_controls": 2}


def near_misses(investigation, positives):
    proposal = investigation.run("generate_and_test", {"key": KEY, "positives": positives}, author="a")
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


def test_evidence_from_another_machine_is_not_taken_for_an_answer(investigation, calls, monkeypatch):
    identity = Subject.identity

    def elsewhere(subject, request):
        found = identity(subject, request)
        return {**found, "machine": found["machine"].model_copy(update={"torch": "0.1"})}

    with monkeypatch.context() as patch:
        patch.setattr(Subject, "identity", elsewhere)
        first = investigation.run("sweep", SWEEP, author="a")
    again = investigation.run("sweep", SWEEP, author="a")
    assert calls == ["sweep", "sweep"]
    assert again.machine.torch != "0.1"
    assert investigation.notes.evidence(first.id).result.machine.torch == "0.1"  # what labels cite stays


def test_a_question_whose_answer_is_of_an_older_format_is_asked_anew(investigation, calls):
    first = investigation.run("sweep", SWEEP, author="a")
    with sqlite3.connect(investigation.notes.path) as connection:
        connection.execute("UPDATE evidence SET document = json_remove(document, '$.tokens')")
    connection.close()
    assert investigation.run("sweep", SWEEP, author="a") == first
    assert calls == ["sweep", "sweep"]


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


def test_a_test_is_stored(investigation):
    chosen = near_misses(investigation, POSITIVES[:3])
    given = {"key": KEY, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2], "near_misses": chosen[:3]}
    result = investigation.run("generate_and_test", given, author="a")
    assert investigation.notes.evidence(result.id).result == result


def test_texts_of_an_earlier_test_are_refused(investigation):
    given = {"key": KEY, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2]}
    given["near_misses"] = near_misses(investigation, POSITIVES[:3])[:3]
    first = investigation.run("generate_and_test", given, author="a")
    with pytest.raises(SpdToolsError, match="only fresh texts test a label"):
        investigation.run("generate_and_test", {**given, "negatives": NEGATIVES[:3]}, author="a")
    assert investigation.run("generate_and_test", given, author="a") == first  # asked again, not done again


@pytest.mark.parametrize("text", ["THE GREEN saw  falls", "the «green» saw falls"])
def test_texts_that_were_probed_are_refused_whatever_their_case_and_marks(investigation, text):
    investigation.run("probe", {"key": KEY, "texts": ["the green saw falls"]}, author="a")
    given = {"key": KEY, "positives": [text, *POSITIVES[1:3]], "negatives": NEGATIVES[:2], "near_misses": ["x"]}
    with pytest.raises(SpdToolsError, match="has been run on"):
        investigation.run("generate_and_test", given, author="a")


def test_texts_used_on_another_component_are_fresh(investigation):
    investigation.run("probe", {"key": OTHER, "texts": ["the green saw falls"]}, author="a")
    given = {"key": KEY, "positives": POSITIVES[:3], "negatives": NEGATIVES[:2]}
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
