"""When a label is supported, and what it is told otherwise."""

from __future__ import annotations

import pytest
from annotation_results import (
    ABOVE,
    BELOW,
    KEY,
    NEAR_MISSES,
    NEGATIVES,
    OTHER,
    POSITIVES,
    ablated,
    draft,
    label_test,
    probed,
    supported,
    swept,
)
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.annotations import missing_for_support, normalised
from spd_tools.annotations.support import texts_of
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate

NEGATIVE = Estimate(value=-1, low=-2, high=-0.5, n=40)
OVERLAPPING = Estimate(value=0.9, low=0.15, high=1.0, n=40)


def missing(*evidence, earlier=None, **fields) -> list[str]:
    return missing_for_support(draft(**fields), evidence, earlier or {})


def only(problems: list[str]) -> str:
    [problem] = problems
    return problem


def test_an_intervention_and_a_test_are_enough():
    assert missing(swept(), label_test()) == []


def test_nothing_misses_both():
    problems = missing()
    assert len(problems) == 2
    assert "in which something was changed" in problems[0]
    assert "no generate_and_test" in problems[1]


@pytest.mark.parametrize("kind", ["observational", "structural", "mixed"])
def test_other_kinds_of_evidence_do_not_count(kind):
    assert "in which something was changed" in only(missing(swept(kind=kind), label_test()))


def test_a_probe_does_not_count():
    assert "in which something was changed" in only(missing(probed(["a"], effect=ABOVE, control=BELOW), label_test()))


def test_an_effect_like_its_control_does_not_count():
    result = swept(effect=OVERLAPPING)
    problem = only(missing(result, label_test()))
    assert "does not exclude that of its control" in problem
    assert result.id in problem


def test_one_good_intervention_among_bad_ones_is_enough():
    assert missing(swept(effect=OVERLAPPING), swept(seed=1), label_test()) == []


def test_a_probe_and_a_score_at_chance_stay_a_draft(notes):
    chance = Estimate(value=0.5, low=0.3, high=0.7, n=20)
    ids = [notes.add_evidence(result, author="ada").id for result in (probed(["a text"]), label_test(score=chance))]
    decision = notes.set_label(KEY, draft(wants="supported", evidence=ids), author="ada")
    assert decision.label.status == "draft"
    assert len(decision.missing) == 2
    assert "scores 0.50" in decision.missing[1]


@pytest.mark.parametrize(("low", "enough"), [(0.6, False), (0.601, True)])
def test_the_lower_end_must_exceed_six_tenths(low, enough):
    assert (missing(swept(), label_test(score=Estimate(value=0.9, low=low, high=1.0, n=20))) == []) is enough


def test_a_score_without_interval_does_not_count():
    assert "no interval" in only(missing(swept(), label_test(score=Estimate(value=1.0, low=None, high=None, n=20))))


def test_ten_positives():
    assert "9 different positive" in only(missing(swept(), label_test(positives=POSITIVES[:9])))


def test_ten_negatives():
    assert "9 different negative" in only(missing(swept(), label_test(negatives=NEGATIVES[:4])))


def test_texts_that_differ_in_looks_are_one():
    same = [*POSITIVES[:9], "  «TEXT»  0 on which it fires"]
    assert "9 different positive" in only(missing(swept(), label_test(positives=same)))


def test_half_of_the_negatives_are_near_misses():
    more = [*NEGATIVES, "one more"]
    assert "5 of 11 negatives are near misses" in only(missing(swept(), label_test(negatives=more)))


def test_a_proposal_of_near_misses_is_no_test():
    problems = missing(swept(), label_test(near_misses=[]))
    assert "0 different positive" in problems[0]


@pytest.mark.parametrize("text", [POSITIVES[3], NEGATIVES[1], NEAR_MISSES[2]])
def test_used_texts_do_not_count(text):
    test = label_test()
    problem = only(missing(swept(), test, earlier={test.id: {normalised(text)}}))
    assert "1 of the texts" in problem
    assert repr(text) in problem


def test_the_best_of_several_tests_counts():
    bad = label_test(positives=POSITIVES[:5])
    assert missing(swept(), bad, label_test()) == []


@pytest.mark.parametrize(
    "claim",
    [
        {"output_effect": "lowers"},
        {"output_effect": "mixed"},
        {"output_view": "suppresses ' the'"},
        {"output_view": "Inhibits nouns"},
        {"output_view": "lowers the logit of ' a'"},
        {"output_view": "a reduction of digits"},
    ],
)
def test_suppression_needs_an_ablation(claim):
    assert "only an intervention shows" in only(missing(swept(), label_test(), **claim))
    the = {"tokens": ["the"], "effect": NEGATIVE}
    assert "at least 20" in only(missing(swept(), ablated(n=19, **the), label_test(), **claim))
    overlapping = ablated(tokens=["the"], effect=OVERLAPPING)
    assert "interval that excludes" in only(missing(swept(), overlapping, label_test(), **claim))
    assert "with those tokens" in only(missing(swept(), ablated(), label_test(), **claim))  # a KL
    assert missing(swept(), ablated(n=20, tokens=["the"], effect=NEGATIVE), label_test(), **claim) == []


@pytest.mark.parametrize("view", ["raises lowercase words", "raises lower-case words", "raises 'the'", ""])
def test_a_view_that_claims_no_suppression_needs_no_ablation(view):
    assert missing(swept(), label_test(), output_view=view) == []


@pytest.mark.parametrize(("effect", "right", "wrong"), [("raises", ABOVE, NEGATIVE), ("lowers", NEGATIVE, ABOVE)])
def test_a_direction_needs_an_ablation_that_shows_it(effect, right, wrong):
    def problems(**fields) -> list[str]:
        return missing(swept(), ablated(**fields), label_test(), output_effect=effect)

    assert problems(tokens=["the"], effect=right) == []
    assert "correct the label" in only(problems(tokens=["the"], effect=wrong))
    assert only(problems(effect=right))  # a KL has no direction


def test_raising_needs_an_ablation():
    assert "asked for them by name" in only(missing(swept(), label_test(), output_effect="raises"))


def test_lowering_is_not_supported_by_tokens_that_are_raised():
    raised, lowered = (
        ablated(tokens=["the"]),
        ablated(tokens=["the"], effect=Estimate(value=-1, low=-2, high=-0.5, n=40)),
    )
    assert "raises the tokens" in only(missing(raised, label_test(), output_effect="lowers"))
    assert missing(lowered, label_test(), output_effect="lowers") == []
    clamped = ablated(tokens=["the"], mode="clamp", effect=Estimate(value=-1, low=-2, high=-0.5, n=40))
    assert missing(clamped, label_test(), output_effect="lowers") != []


def test_an_ablation_that_does_less_than_others_shows_no_effect():
    less = Estimate(value=0.05, low=0.0, high=0.09, n=40)
    others = Estimate(value=0.5, low=0.1, high=0.9, n=40)
    assert "does not exclude" in only(missing(ablated(effect=less, control=others), label_test()))


# --- in the file ------------------------------------------------------------------------------------------------------


def test_supported_with_all_of_it(notes):
    decision = supported(notes)
    assert decision.label.status == "supported"
    assert decision.missing == []


def test_texts_probed_before_keep_a_label_a_draft(notes):
    notes.add_evidence(probed(["TEXT 3 on «which» it fires"]), author="ada")
    ids = [notes.add_evidence(result, author="ada").id for result in (swept(), label_test())]
    decision = notes.set_label(KEY, draft(wants="supported", evidence=ids), author="ada")
    assert decision.label.status == "draft"
    assert "used on this component before" in only(decision.missing)


def test_texts_probed_afterwards_do_no_harm(notes):
    ids = [notes.add_evidence(result, author="ada").id for result in (swept(), label_test())]
    notes.add_evidence(probed(POSITIVES), author="ada")
    assert notes.set_label(KEY, draft(wants="supported", evidence=ids), author="ada").label.status == "supported"


def test_texts_probed_on_another_component_do_no_harm(notes):
    notes.add_evidence(probed(POSITIVES, OTHER), author="ada")
    ids = [notes.add_evidence(result, author="ada").id for result in (swept(), label_test())]
    assert notes.set_label(KEY, draft(wants="supported", evidence=ids), author="ada").label.status == "supported"


def test_a_proposal_does_not_use_its_texts_up(notes):
    """No model saw them."""
    notes.add_evidence(label_test(near_misses=[]), author="ada")
    assert notes.texts_used(KEY) == set()
    ids = [notes.add_evidence(result, author="ada").id for result in (swept(), label_test())]
    assert notes.set_label(KEY, draft(wants="supported", evidence=ids), author="ada").label.status == "supported"


def test_evidence_about_another_component_is_refused(notes):
    result = notes.add_evidence(swept(OTHER), author="ada")
    with pytest.raises(SpdToolsError, match=f"is about {OTHER} and says nothing about {KEY}"):
        notes.set_label(KEY, draft(evidence=[result.id]), author="ada")
    assert notes.label(KEY) is None


def test_evidence_from_another_fingerprint_is_refused(notes):
    result = swept(fingerprint="0" * 64)
    with pytest.raises(SpdToolsError, match=r"fingerprint 00000000.*no evidence here"):
        notes.add_evidence(result, author="ada")
    with pytest.raises(SpdToolsError, match="no evidence"):
        notes.set_label(KEY, draft(evidence=[result.id]), author="ada")


def test_unknown_evidence_is_refused(notes):
    for evidence_id in ("sweep-000000000000", "'; DROP TABLE labels; --", "a\0b"):
        with pytest.raises(SpdToolsError, match="There is no evidence"):
            notes.set_label(KEY, draft(evidence=[evidence_id]), author="ada")


def test_a_draft_hears_what_it_lacks(notes):
    assert len(notes.set_label(KEY, draft(), author="ada").missing) == 2


def test_a_rejected_label_needs_nothing(notes):
    decision = notes.set_label(KEY, draft(wants="rejected"), author="ada")
    assert (decision.label.status, decision.missing) == ("rejected", [])


# --- texts ------------------------------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from(["The", "cat", "«sat»", "ON"]), min_size=1), st.sampled_from([" ", "\n", "\t  "]))
def test_marks_case_and_space_make_no_other_text(words, space):
    plain = " ".join(words).replace("«", "").replace("»", "").lower()
    assert normalised(f"{space}{space.join(words)}{space}") == plain


def test_texts_of_a_request_are_its_free_strings():
    assert texts_of(ablated(tokens=["The", "cat"]).request) == {"the", "cat"}
    assert texts_of(probed(["A  b", "«c»"]).request) == {"a b", "c"}
