import re
import sqlite3

import pytest
from mcp_planted import KEY, TOOLS
from test_mcp_experiments import LABEL, NEGATIVES, POSITIVES, evidence_in

from spd_tools import open_harvest
from spd_tools.annotations import Annotations
from spd_tools.render.numbers import number, p_value

OTHER = "h.0.mlp.down_proj:2"


def test_hypotheses_are_added_revised_and_listed(planted, call):
    text = call("hypothesis", action="add", key=KEY, text="names of tools", confidence=0.4, author="me")
    [found] = re.findall(r"h-[0-9a-f]{12}", text)
    call("hypothesis", action="add", key=KEY, text="the word needle", confidence=0.6)
    evidence = evidence_in(call("probe", key=KEY, texts=["a blue saw rests"]))
    revised = call(
        "hypothesis",
        action="update",
        hypothesis_id=found,
        status="supported",
        confidence=0.9,
        note="fires on saw",
        evidence=[evidence],
    )
    assert "version 2" in revised
    listed = call("hypothesis", action="list", key=KEY, status="supported")
    assert "⟦names of tools⟧" in listed
    assert evidence in listed
    assert "needle" not in listed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"action": "add", "key": KEY, "text": "no confidence"}, "needs key, text and confidence"),
        ({"action": "update", "confidence": 0.5}, "give its hypothesis_id"),
        ({"action": "update", "hypothesis_id": "h-000000000000", "note": "x"}, "h-000000000000"),
        ({"action": "add", "key": "h.9:1", "text": "x", "confidence": 0.5}, "the layers are"),
    ],
)
def test_half_a_hypothesis_is_refused(planted, refusal, arguments, said):
    assert said in refusal("hypothesis", **arguments)


def test_a_hypothesis_is_not_supported_by_nothing(planted, call, refusal):
    [found] = re.findall(r"h-[0-9a-f]{12}", call("hypothesis", action="add", key=KEY, text="tools", confidence=0.4))
    change = {"action": "update", "hypothesis_id": found}
    assert "cites no evidence" in refusal("hypothesis", **change, status="supported", note="surely")
    assert "neither evidence nor a note" in refusal("hypothesis", **change, status="rejected")
    assert "rejected" in call("hypothesis", **change, status="rejected", note="no")


def test_notes_are_signed_by_who_the_environment_names(planted, call, monkeypatch):
    monkeypatch.setenv("SPD_TOOLS_AUTHOR", "ann")
    assert "⟦ann⟧" in call("hypothesis", action="add", key=KEY, text="tools", confidence=0.4)
    assert "⟦ann⟧" in call("label", action="set", key=KEY, input_view="tools")
    assert "⟦ann⟧" in call("research_log", action="write", text="looked")
    assert "⟦bob⟧" in call("research_log", action="write", text="looked", author="bob")


def test_evidence_is_shown_with_control_p_values_and_the_harvest_it_is_of(planted, call):
    own = evidence_in(call("triage", key=KEY, n_sites=2, n_controls=19))
    harvest = open_harvest("planted")
    notes = Annotations.of(harvest)
    result = notes.evidence(own).result
    other = result.subject.model_copy(update={"harvest_id": "0123456789ab"})
    notes.add_evidence(result.model_copy(update={"id": "triage-0", "subject": other}), author="ann")
    lines = call("label", action="show", key=KEY).splitlines()
    first, second = (next(line for line in lines if line.startswith(f"- {name} (")) for name in (own, "triage-0"))
    assert f"control {number(result.control.value)}" in first
    corrected = p_value(2 * result.p_value)
    assert f"p = {p_value(result.p_value)}, corrected for all results about the component {corrected};" in first
    assert "0123456789ab" not in first
    assert second.startswith("- triage-0 (on harvest 0123456789ab)")
    assert "triage-0 (on harvest 0123456789ab)" in call("overview", key=KEY)


def test_a_write_is_done_once_per_idempotency_key(planted, call):
    for _ in range(2):
        call("research_log", action="write", text="looked", key=KEY, idempotency_key="a")
        call("hypothesis", action="add", key=KEY, text="tools", confidence=0.5, idempotency_key="b")
        call("label", action="set", key=KEY, input_view="tools", idempotency_key="c")
    assert call("research_log", action="read").count("⟦looked⟧") == 1
    assert call("hypothesis", action="list").count("⟦tools⟧") == 1
    assert "version 2" not in call("label", action="history", key=KEY)


def test_the_log_is_about_a_component_or_the_run(planted, call, refusal):
    call("research_log", action="write", text="about it", key=KEY, author="me")
    call("research_log", action="write", text="about the run")
    assert "about the run" not in call("research_log", action="read", key=KEY)
    assert "⟦about the run⟧" in call("research_log", action="read")
    assert "nothing to write" in refusal("research_log", action="write", text=" ")


def test_a_label_that_rests_on_convictions_stays_a_draft_and_says_what_is_missing(planted, call):
    text = call("label", action="set", key=KEY, input_view="tools", wants="supported", confidence=1.0)
    assert text.startswith("Stored as a draft")
    assert "generate_and_test" in text


def test_evidence_of_another_component_is_refused(planted, call, refusal):
    evidence = evidence_in(call("probe", key=OTHER, texts=["a blue saw rests"]))
    said = refusal("label", action="set", key=KEY, input_view="tools", evidence=[evidence])
    assert evidence in said


def test_a_whole_investigation_ends_with_a_supported_label(planted, call):
    """Every id comes out of an answer."""
    call("triage", key=KEY, n_sites=2, n_controls=19)
    cause = evidence_in(call("sweep", key=KEY, tokens=["saw", "drill", "knife"]))
    texts = {"label": LABEL, "positives": POSITIVES, "negatives": NEGATIVES}
    proposal = call("generate_and_test", key=KEY, **texts)
    candidates = re.findall(r'⟦"([^"⟦⟧]*)"⟧', proposal)
    misses = [text for text in candidates if not set(text.split()) & set(TOOLS)]
    test = evidence_in(call("generate_and_test", key=KEY, **texts, near_misses=misses))
    label = {"input_view": LABEL, "output_view": "", "confidence": 0.9, "ruled_out": ["only needle"]}
    reworded = {**label, "input_view": "tools and their names"}
    text = call("label", action="set", key=KEY, wants="supported", evidence=[cause, test], **reworded)
    assert text.startswith("Stored as a draft")
    assert "test this wording on fresh texts" in text
    text = call("label", action="set", key=KEY, wants="supported", evidence=[cause, test], **label)
    assert text.startswith("Stored, and supported by its evidence.")
    assert "label supported" in call("overview", key=KEY)
    assert KEY in call("find_components", label_query="tool")


def test_all_versions_of_a_label_are_kept(planted, call):
    for view in ("first view", "second view"):
        call("label", action="set", key=KEY, input_view=view)
    history = call("label", action="history", key=KEY)
    assert "⟦first view⟧" in history
    assert "⟦second view⟧" in history
    assert "first view" not in call("label", action="show", key=KEY)


def test_claimed_components_are_not_claimed_again_until_released(planted, call, refusal):
    def claimed(author):
        return re.findall(r"^- (\S+) until", call("label", action="claim", limit=2, author=author), re.MULTILINE)

    first, second = claimed("one"), claimed("two")
    assert len(first) == len(second) == 2
    assert not set(first) & set(second)
    assert "⟦one⟧ until" in call("label", action="queue")
    assert first[0] in refusal("label", action="release", key=first[0], author="two")
    call("label", action="release", key=first[0], author="one")
    assert claimed("three")[0] == first[0]


def test_actions_about_a_component_need_one(planted, refusal):
    for action in ("show", "set", "history", "release"):
        assert "name it in key" in refusal("label", action=action)


def test_notes_about_another_decomposition_are_refused(planted, call, refusal):
    call("research_log", action="write", text="x")
    with sqlite3.connect(planted / "annotations" / "planted.sqlite") as connection:
        connection.execute("UPDATE meta SET value = 'f' || value WHERE name = 'fingerprint'")
    connection.close()
    assert "decomposition" in refusal("research_log", action="read")
    assert "decomposition" in refusal("overview", key=KEY)
