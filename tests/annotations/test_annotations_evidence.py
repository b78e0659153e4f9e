"""Evidence, hypotheses, scores and the log."""

from __future__ import annotations

import pytest
from annotation_results import ABOVE, BELOW, KEY, MACHINE, OTHER, ablated, draft, label_test, probed, swept

from spd_tools.annotations import EvidenceRecord
from spd_tools.errors import SpdToolsError
from spd_tools.experiments import registry


def test_a_result_comes_back_whole(notes):
    for result in (probed(["a text"]), swept(), ablated(tokens=["the"]), label_test()):
        record = notes.add_evidence(result, author="ada")
        assert notes.evidence(result.id) == record
        assert notes.evidence(result.id).result == result
        assert (record.id, str(record.key), record.author) == (result.id, KEY, "ada")


def test_a_summary_says_what_the_result_says(notes):
    result = swept(p_value=0.01)
    notes.add_evidence(result, author="ada")
    [summary] = notes.list_evidence()
    assert summary.excludes_control is True
    assert summary.effect is not None
    assert summary.effect.model_dump() == ABOVE.model_dump()
    assert summary.control is not None
    assert summary.control.model_dump() == BELOW.model_dump()
    assert (summary.kind, summary.n, summary.p_value) == (result.kind, result.n, 0.01)
    assert (summary.summary, summary.harvest_id) == (result.summary, "abc123")


def test_absent_is_not_zero(notes):
    record = notes.add_evidence(probed(["a"]), author="ada")
    assert (record.effect, record.control, record.excludes_control, record.p_value) == (None, None, None, None)


def test_lists_do_not_parse_results(notes, monkeypatch):
    for seed in range(3):
        notes.add_evidence(swept(seed=seed), author="ada")
    monkeypatch.setattr(registry, "read_result", None)
    assert len(notes.list_evidence()) == 3
    assert not any(isinstance(summary, EvidenceRecord) for summary in notes.list_evidence())


def test_lists_are_newest_first_and_by_what_is_asked_for(notes):
    mine = [notes.add_evidence(swept(seed=seed), author="ada").id for seed in range(3)]
    other = notes.add_evidence(probed(["a"], OTHER), author="ada").id
    assert [summary.id for summary in notes.list_evidence()] == [other, *reversed(mine)]
    assert [summary.id for summary in notes.list_evidence(KEY, limit=2)] == [mine[2], mine[1]]
    assert [summary.id for summary in notes.list_evidence(experiment="probe")] == [other]
    assert notes.list_evidence(OTHER, "sweep") == []


def test_the_first_result_of_an_id_stays(notes):
    first = notes.add_evidence(swept(), author="ada")
    elsewhere = swept(machine=MACHINE.model_copy(update={"device": "cuda"}))
    assert notes.add_evidence(elsewhere, author="bob") == first
    assert len(notes.list_evidence()) == 1


def test_evidence_with_an_idempotency_key(notes):
    first = notes.add_evidence(swept(), author="ada", idempotency_key="e1")
    assert notes.add_evidence(swept(), author="ada", idempotency_key="e1") == first
    with pytest.raises(SpdToolsError, match="another write"):
        notes.add_evidence(swept(seed=1), author="ada", idempotency_key="e1")


def test_a_megabyte_in_a_result_passes(notes):
    text = "\x1b[2J" + "x" * 2**20 + "\0"
    notes.add_evidence(probed([text], population=text), author="ada")
    [summary] = notes.list_evidence()
    assert notes.evidence(summary.id).result.population == text
    assert len(notes.texts_used(KEY)) == 1


def test_half_a_character_in_a_result_is_refused(notes):
    for result in (probed(["\ud800"]), probed(["a"], summary="\ud800")):
        with pytest.raises(SpdToolsError, match="surrogate"):
            notes.add_evidence(result, author="ada")
    assert notes.list_evidence() == []


def test_texts_used_are_those_of_the_component(notes):
    notes.add_evidence(probed(["A  text", "«Another» one"]), author="ada")
    notes.add_evidence(probed(["elsewhere"], OTHER), author="ada")
    assert notes.texts_used(KEY) == {"a text", "another one"}


def test_unknown_evidence(notes):
    assert notes.find_evidence("sweep-0") is None
    with pytest.raises(SpdToolsError, match="no evidence 'sweep-0'"):
        notes.evidence("sweep-0")


# --- hypotheses -------------------------------------------------------------------------------------------------------


def test_a_hypothesis_has_versions(notes):
    proposed = notes.add_hypothesis(KEY, "it likes ' the'", confidence=0.3, author="ada")
    found = notes.add_evidence(swept(), author="ada").id
    changed = notes.update_hypothesis(
        proposed.id, status="supported", confidence=0.9, note="the sweep says so", evidence=[found], author="bob"
    )
    assert notes.hypothesis_history(proposed.id) == [proposed, changed]
    assert notes.hypotheses() == [changed]
    assert (proposed.status, proposed.version, changed.version) == ("open", 1, 2)
    assert (changed.text, changed.evidence, changed.author) == (proposed.text, [found], "bob")
    assert proposed.id[:2] == "h-"
    assert len(proposed.id) == 14


def test_evidence_adds_up_over_versions(notes):
    proposed = notes.add_hypothesis(KEY, "it", confidence=0.3, author="ada")
    ids = [notes.add_evidence(swept(seed=seed), author="ada").id for seed in range(2)]
    notes.update_hypothesis(proposed.id, evidence=ids[:1], author="ada")
    assert notes.update_hypothesis(proposed.id, evidence=ids, author="ada").evidence == ids


def test_hypotheses_by_key_and_status(notes):
    first = notes.add_hypothesis(KEY, "one", confidence=0.3, author="ada")
    second = notes.add_hypothesis(KEY, "two", confidence=0.3, author="ada")
    third = notes.add_hypothesis(OTHER, "three", confidence=0.3, author="ada")
    first = notes.update_hypothesis(first.id, status="rejected", note="no", author="ada")
    assert notes.hypotheses() == [first, second, third]
    assert notes.hypotheses(KEY) == [first, second]
    assert notes.hypotheses(status="open") == [second, third]
    assert notes.hypotheses(KEY, "rejected") == [first]


def test_hypothesis_writes_are_done_once(notes):
    proposed = notes.add_hypothesis(KEY, "it", confidence=0.3, author="ada", idempotency_key="h1")
    once = {"status": "rejected", "note": "no", "author": "ada", "idempotency_key": "h2"}
    changed = notes.update_hypothesis(proposed.id, **once)
    assert notes.add_hypothesis(KEY, "it", confidence=0.3, author="ada", idempotency_key="h1") == proposed
    assert notes.update_hypothesis(proposed.id, **once) == changed
    assert len(notes.hypothesis_history(proposed.id)) == 2
    with pytest.raises(SpdToolsError, match="another write"):
        notes.add_hypothesis(KEY, "it", confidence=0.4, author="ada", idempotency_key="h1")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "Nothing about"),
        ({"status": "true"}, "no status 'true'"),
        ({"confidence": 2}, "from 0 to 1"),
        ({"confidence": float("nan")}, "from 0 to 1"),
        ({"note": " "}, "blank"),
        ({"evidence": ["sweep-0"]}, "no evidence 'sweep-0'"),
    ],
)
def test_changes_that_do_not_fit(notes, change, sentence):
    proposed = notes.add_hypothesis(KEY, "it", confidence=0.3, author="ada")
    with pytest.raises(SpdToolsError, match=sentence):
        notes.update_hypothesis(proposed.id, author="ada", **change)
    assert notes.hypotheses() == [proposed]


def test_a_hypothesis_is_supported_by_evidence_only(notes):
    proposed = notes.add_hypothesis(KEY, "it", confidence=0.3, author="ada")
    with pytest.raises(SpdToolsError, match=f"Nothing supports {proposed.id}: it cites no evidence"):
        notes.update_hypothesis(proposed.id, status="supported", note="I am sure", author="ada")
    assert notes.hypotheses() == [proposed]
    found = notes.add_evidence(swept(), author="ada").id
    notes.update_hypothesis(proposed.id, evidence=[found], author="ada")
    assert notes.update_hypothesis(proposed.id, status="supported", author="ada").evidence == [found]


def test_a_hypothesis_is_rejected_by_evidence_or_a_reason(notes):
    proposed, cited = (notes.add_hypothesis(KEY, text, confidence=0.3, author="ada") for text in ("one", "two"))
    with pytest.raises(SpdToolsError, match="neither evidence nor a note"):
        notes.update_hypothesis(proposed.id, status="rejected", author="ada")
    assert notes.update_hypothesis(proposed.id, status="rejected", note="too vague", author="ada").note == "too vague"
    found = notes.add_evidence(swept(), author="ada").id
    assert notes.update_hypothesis(cited.id, status="rejected", evidence=[found], author="ada").status == "rejected"


def test_evidence_about_another_component_says_nothing_about_a_hypothesis(notes):
    found = notes.add_evidence(swept(OTHER), author="ada").id
    with pytest.raises(SpdToolsError, match=f"about {OTHER}"):
        notes.add_hypothesis(KEY, "it", confidence=0.3, evidence=[found], author="ada")
    assert notes.hypotheses() == []


def test_unknown_hypothesis(notes):
    for action in (
        lambda: notes.update_hypothesis("h-0", status="open", author="ada"),
        lambda: notes.hypothesis_history("h-0"),
    ):
        with pytest.raises(SpdToolsError, match="no hypothesis 'h-0'"):
            action()


# --- scores and log ---------------------------------------------------------------------------------------------------


def test_scores_name_the_version_that_was_scored(notes):
    notes.set_label(KEY, draft(), author="ada")
    notes.set_label(KEY, draft(), author="ada")
    first = notes.add_score(KEY, "detection", 0.8, low=0.7, high=0.9, n=40, label_version=1, author="judge")
    second = notes.add_score(OTHER, "fuzzing", 0.5, details={"texts": [1, 2]}, author="judge")
    assert notes.scores() == [first, second]
    assert notes.scores(KEY) == [first]
    assert (first.label_version, first.low, first.n) == (1, 0.7, 40)
    assert (second.label_version, second.low, second.n, second.details) == (None, None, None, {"texts": [1, 2]})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"value": float("nan")}, "finite"),
        ({"low": float("-inf")}, "finite"),
        ({"n": -1}, "from 0"),
        ({"details": {"x": object()}}, "no JSON"),
        ({"details": {"x": float("nan")}}, "no JSON"),
        ({"label_version": 1}, "no version 1"),
        ({"method": ""}, "The method"),
    ],
)
def test_scores_that_do_not_fit(notes, fields, sentence):
    with pytest.raises(SpdToolsError, match=sentence):
        notes.add_score(KEY, **{"method": "detection", "value": 0.5, "author": "judge", **fields})
    assert notes.scores() == []


def test_a_score_is_written_once(notes):
    first = notes.add_score(KEY, "detection", 0.5, author="judge", idempotency_key="s1")
    assert notes.add_score(KEY, "detection", 0.5, author="judge", idempotency_key="s1") == first
    assert notes.scores() == [first]


def test_the_log_is_the_last_entries_in_order(notes):
    entries = [notes.add_log(f"{n}", key=KEY if n % 2 else None, author="ada") for n in range(6)]
    assert notes.research_log() == entries
    assert notes.research_log(limit=2) == entries[-2:]
    assert notes.research_log(KEY) == entries[1::2]
    assert notes.research_log(limit=0) == []
    with pytest.raises(SpdToolsError, match="limit"):
        notes.research_log(limit=-1)


def test_a_log_entry_is_written_once(notes):
    first = notes.add_log("begun", author="ada", idempotency_key="n1")
    assert notes.add_log("begun", author="ada", idempotency_key="n1") == first
    assert notes.research_log() == [first]


def test_control_above_the_effect_also_excludes(notes):
    assert notes.add_evidence(swept(effect=BELOW, control=ABOVE), author="ada").excludes_control is True
