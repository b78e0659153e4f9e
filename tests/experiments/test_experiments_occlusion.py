"""Occlusion of contexts of components whose rules say which tokens matter."""

from __future__ import annotations

import pytest
from planted_subjects import SEEDS, assert_calibrated, assert_detected, do, null_results, planted

from spd_tools.errors import SpdToolsError

SMALL = {"window": 5, "n_contexts": 12, "n_draws": 4}
NEEDED = {
    "because": {0},
    "weak-token": {0},
    "category": {0},
    "weekday": {0},  # of either sign
    "after-the": {-1},
    "mood": {-1},  # of either sign
    "after-quality": {-1},
    "two-after-weather": {-2},
    "two-after-colour": {-2},
    "three-after-question": {-3},
    "bigram-city-0": {0, -1},
    "bigram-city-1": {0, -1},
    "bigram-number": {0, -1},
    "bigram-connective": {0, -1},
    "after-duplicates": {-1},
}
"""Rule -> the offsets whose tokens its firings need; no others change anything."""
WITHIN_THREE = ("person-place", "number-noun", "negated-question", "negated-verb")
"""They need their token and another one within three."""
GATES = ("gate-colour", "gate-connective", "gate-determiner", "plain-act")


def wanted(subject, name):
    """Token ids on which a gate fires unless blocked."""
    return sorted(planted(subject).rule(name).condition.strengths)


def significant(result):
    return {line.offset for line in result.offsets if line.p_value <= 0.05}


def needed_is_found(subject, name, offsets):
    result = do(subject, "occlusion", name, **SMALL)
    return significant(result) == offsets and result.chosen in offsets and bool(result.excludes_control)


def partner_is_found(subject, name):
    offsets = significant(do(subject, "occlusion", name, **SMALL))
    return 0 in offsets and bool(offsets & {-1, -2, -3}) and -4 not in offsets


def blocker_is_found(subject, name):
    result = do(subject, "occlusion", name, at="silent", on=wanted(subject, name), **SMALL)
    raised = result.effect is not None and result.effect.value > 0
    return result.chosen in (-1, -2, -3) and bool(result.excludes_control) and raised


@pytest.mark.long
def test_needed_tokens_and_blockers_are_found_and_random_components_have_none(short_subjects):
    assert_calibrated(
        null_results(
            short_subjects,
            "occlusion",
            lambda subject, rng: {"at": "random", "window": 2, "n_contexts": 12, "n_draws": 3},
        )
    )
    tries = [
        ((seed, name), needed_is_found(short_subjects[seed], name, offsets))
        for seed in SEEDS
        for name, offsets in NEEDED.items()
    ]
    tries += [((seed, name), partner_is_found(short_subjects[seed], name)) for seed in SEEDS for name in WITHIN_THREE]
    tries += [((seed, name), blocker_is_found(short_subjects[seed], name)) for seed in SEEDS for name in GATES]
    assert_detected(tries)


def test_firing_rows_alone_do_not_show_a_blocker(subject):
    result = do(subject, "occlusion", "gate-colour", n_contexts=12, n_draws=4)
    assert significant(result) == {0}


def test_blockers_are_named(subject):
    result = do(subject, "occlusion", "gate-determiner", at="silent", on=wanted(subject, "gate-determiner"))
    before = next(line for line in result.offsets if line.offset == -1)
    assert {token.text for token in before.tokens} <= {"the", "a", "this", "every"}
    assert all(token.change > 0 for token in before.tokens)
    assert before.firing_rate > 0.3
    assert result.unchanged_firing_rate == 0


def test_firings_of_either_sign_add_up(subject):
    result = do(subject, "occlusion", "mood", **SMALL)
    assert result.unchanged.value == 1
    assert result.offsets[1].retained < 0.2


def test_what_no_token_moves_is_retained_and_not_significant(subject):
    result = do(subject, "occlusion", "late-position", **SMALL)
    assert not significant(result)
    assert all(line.retained == 1 and not line.tokens for line in result.offsets)
    assert result.excludes_control is False


def test_contexts_at_the_beginning_of_a_row_have_fewer_offsets(subject):
    result = do(subject, "occlusion", "first-position", **SMALL)
    assert [line.offset for line in result.offsets] == [0]
    assert result.p_value == 1


def test_silent_positions_need_tokens(subject):
    with pytest.raises(SpdToolsError, match="silent positions needs the tokens"):
        do(subject, "occlusion", "gate-colour", at="silent")


def test_at_firings_it_says_that_it_tests_no_label(subject):
    found = {at: do(subject, "occlusion", "because", at=at, **SMALL).summary for at in ("firing", "random")}
    assert {at: "this tests no label" in summary for at, summary in found.items()} == {"firing": True, "random": False}
