"""When a label is supported, and what it is told otherwise."""

from __future__ import annotations

import re

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
    interacting,
    label_test,
    occluded,
    positioned,
    probed,
    reduced,
    subject_info,
    supported,
    swept,
)
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.annotations import missing_for_support, normalised
from spd_tools.annotations.support import texts_of
from spd_tools.annotations.worth import UNKNOWN_SIZES, Sizes
from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Estimate

NEGATIVE = Estimate(value=-1, low=-2, high=-0.5, n=40)
OVERLAPPING = Estimate(value=0.9, low=0.15, high=1.0, n=40)


def missing(*evidence, earlier=None, others=(), sizes=UNKNOWN_SIZES, **fields) -> list[str]:
    """``others``: p-values of what else is stored about the component."""
    p_values = {f"other-{number}": p_value for number, p_value in enumerate(others)}
    return missing_for_support(draft(**fields), evidence, earlier or {}, p_values, sizes)


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
    """Its test was two-sided once, so that a small p-value does not say which way."""
    less = Estimate(value=0.05, low=0.0, high=0.09, n=40)
    others = Estimate(value=0.5, low=0.1, high=0.9, n=40)
    assert "does not exclude" in only(missing(ablated(effect=less, control=others), label_test()))


# --- what is asked of a component is one family -----------------------------------------------------------------------


def test_a_p_value_is_corrected_for_everything_that_was_tried():
    """Holm: the smallest of m counts m times, whether a label cites the others or not."""
    assert missing(swept(p_value=0.01), label_test(), others=[0.5] * 3) == []  # 0.01 x 4, as the test is smaller
    problem = only(missing(swept(p_value=0.01), label_test(), others=[0.5] * 5))
    assert "p = 0.01, which is 0.06 when corrected (Holm) for the 7 results with a p-value" in problem
    assert f"about {KEY}, and must be at most 0.05" in problem
    assert swept(p_value=0.01).id in problem


def test_results_that_are_smaller_do_not_count_against_it():
    assert missing(swept(p_value=0.04), label_test(), others=[1e-9] * 50) == []


@given(st.integers(1, 46))
def test_the_controls_that_a_sentence_asks_for_are_enough_and_the_fewest_that_always_are(n_others):
    found = missing(swept(p_value=0.05), label_test(), others=[0.05] * n_others)
    needed = int(re.search(r"n_controls of ([\d,]+) or more", only(found))[1].replace(",", ""))
    n_results = n_others + 2
    assert (n_results + 1) / (needed + 1) <= 0.05 < (n_results + 1) / needed
    again = swept(seed=1, p_value=1 / (needed + 1))
    assert missing(again, label_test(), others=[0.05] * (n_others + 1)) == []


@pytest.mark.parametrize(
    ("weak", "advice"),
    [
        (swept(p_value=0.04), "run sweep again with n_controls of 79 or more"),
        (ablated(p_value=0.04), "run ablate again with n_controls of 79 or more"),
        (positioned("distance", p_value=0.04), "run position again with n_controls of 79 or more"),
        (interacting(["a"], ["b", "c"], p_value=0.04), "run interact again with n_controls of 79 or more"),
        (
            interacting(["a", "d"], ["b", "c"], p_value=0.04),
            "run interact again with more contexts, controls or tokens",
        ),
        (swept(tokens=[1, 2], p_value=0.04), "run sweep again with more contexts, controls or tokens"),
        (positioned(p_value=0.04), "run position again with more contexts"),
        (occluded(at="silent", p_value=0.04), "run occlusion again with more contexts"),
    ],
)
def test_a_sentence_says_what_would_be_enough(weak, advice):
    assert advice in only(missing(weak, label_test(), others=[0.04]))


def test_too_few_tokens_or_components_are_said():
    sizes = Sizes(tokens=60, components=40)
    tokens = only(missing(swept(p_value=0.04), label_test(), others=[0.04], sizes=sizes))
    assert "take 79 of them, and the vocabulary has only 60 tokens: take another experiment than sweep" in tokens
    assert "sweep several tokens that the label names" in tokens
    components = only(missing(ablated(p_value=0.04), label_test(), others=[0.04], sizes=sizes))
    assert "there are only 40 components: take another experiment than ablate" in components
    many = only(missing(swept(p_value=0.05), label_test(), others=[0.05] * 60, sizes=Sizes(100_000, 100_000)))
    assert "sweep takes at most 999" in many
    assert "n_controls of" not in tokens + components + many


def test_an_intervention_without_a_p_value_is_none():
    assert "has no p-value" in only(missing(swept(p_value=None), label_test()))


@pytest.mark.parametrize(("effect", "claim"), [(ABOVE, "raises"), (NEGATIVE, "lowers"), (NEGATIVE, "mixed")])
def test_what_is_said_of_the_output_is_corrected_for_all_ablations(effect, claim):
    weak = ablated(tokens=["the"], p_value=0.02, effect=effect)
    others = [ablated(tokens=["the"], seed=seed, effect=effect, p_value=0.5) for seed in (1, 2)]
    assert missing(swept(), weak, label_test(), others=[0.5] * 9, output_effect=claim) == []
    assert missing(swept(), weak, others[0], label_test(), output_effect=claim) == []
    problem = only(missing(swept(), weak, *others, label_test(), output_effect=claim))
    assert f"{weak.id} excludes its control with p = 0.02, which is 0.06 when corrected" in problem
    assert "for the 3 ablate results with a p-value" in problem
    assert "or leave output_effect unknown" in problem


# --- experiments that no label can fail -------------------------------------------------------------------------------


@pytest.mark.parametrize("always", [occluded(), reduced()], ids=lambda result: result.request.experiment)
def test_what_firings_need_says_nothing_for_a_label(always):
    problem = only(missing(always, label_test()))
    assert f"In {always.id} tokens are replaced where the component fires" in problem
    assert "whatever the label" in problem
    assert missing(always, swept(), label_test()) == []


@pytest.mark.parametrize("telling", [occluded(at="silent"), positioned(), positioned("distance")])
def test_what_a_label_can_fail_counts(telling):
    assert missing(telling, label_test()) == []


# --- a test is of a wording -------------------------------------------------------------------------------------------


def test_a_test_of_another_wording_does_not_count():
    problem = only(missing(swept(), label_test(label="fires on ' a'")))
    assert "was run for the label \"fires on ' a'\": test this wording on fresh texts" in problem


@pytest.mark.parametrize("label", ["FIRES  on ' The'\n", "fires on «' the'»"])
def test_a_wording_that_differs_in_looks_is_the_same(label):
    assert missing(swept(), label_test(label=label)) == []


def test_a_test_from_before_wordings_were_noted_does_not_count():
    old = label_test(label=None)
    assert f"{old.id} does not say which label" in only(missing(swept(), old))
    assert missing(swept(), old, label_test()) == []


# --- in the file ------------------------------------------------------------------------------------------------------


def test_supported_with_all_of_it(notes):
    decision = supported(notes)
    assert decision.label.status == "supported"
    assert decision.missing == []


def test_what_was_tried_counts_whether_it_is_cited_or_not(notes):
    ids = [notes.add_evidence(result, author="ada").id for result in (swept(p_value=0.02), label_test())]
    for harvest_id, seed in (("abc123", 1), ("def456", 2)):
        tried = swept(seed=seed, p_value=0.5, subject=subject_info(harvest_id=harvest_id))
        notes.add_evidence(tried, author="bob")
    notes.add_evidence(swept(OTHER, p_value=0.5), author="bob")  # about another component
    notes.add_evidence(probed(["a"]), author="bob")  # without a p-value
    decision = notes.set_label(KEY, draft(wants="supported", evidence=ids), author="ada")
    assert decision.label.status == "draft"
    assert "0.06 when corrected (Holm) for the 4 results" in only(decision.missing)
    assert notes.corrected_p_values(KEY)[ids[0]] == pytest.approx(0.06)


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


def test_the_label_of_a_test_is_no_text_that_the_model_was_run_on():
    assert "fires on ' the'" not in texts_of(label_test().request)
