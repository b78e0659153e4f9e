"""Minimal contexts of components whose rules say what is enough."""

from __future__ import annotations

import numpy as np
import pytest
from planted_subjects import SEEDS, assert_calibrated, assert_detected, do, null_results, planted

from spd_tools.errors import SpdToolsError

SMALL = {"n_contexts": 8, "n_draws": 4, "max_length": 6}
ENOUGH = {
    "because": [0],
    "weak-token": [0],
    "tail-marker": [0],
    "after-the": [-1],
    "after-city": [-1],
    "two-after-colour": [-2],
    "three-after-question": [-3],
    "bigram-city-0": [-1, 0],
    "bigram-city-1": [-1, 0],
    "bigram-the": [-1, 0],
    "bigram-number": [-1, 0],
    "after-duplicates": [-1],
}
"""Rule -> the offsets of tokens that are enough, and of which none can be missed."""
WITHIN_THREE = ("number-noun", "negated-question", "person-place", "negated-verb")
"""Their token and one more within three are enough."""
PLACE_FREE = ("always", "first-position", "late-position")
"""They need no token at all, only their place."""


def is_exact(subject, name, offsets):
    """Nearly every place names those tokens: a filling may hold a needed token by chance."""
    result = do(subject, "minimal_context", name, **SMALL)
    return sum(place.offsets == offsets for place in result.places) >= 7 and bool(result.excludes_control)


def is_a_pair(subject, name):
    result = do(subject, "minimal_context", name, **SMALL)
    pairs = [len(place.offsets) == 2 and place.offsets[1] == 0 and place.offsets[0] >= -3 for place in result.places]
    return sum(pairs) >= 6 and bool(result.excludes_control)


@pytest.mark.long
def test_what_is_enough_is_found_and_random_components_need_more_than_two_tokens(short_subjects):
    # A random component needs the last four tokens and its position: of two, none is better than any others.
    nulls = null_results(
        short_subjects, "minimal_context", lambda subject, rng: {"max_length": 2, "n_contexts": 8, "n_draws": 3}
    )
    assert_calibrated(nulls)
    tries = [((seed, name), is_exact(short_subjects[seed], name, at)) for seed in SEEDS for name, at in ENOUGH.items()]
    tries += [((seed, name), is_a_pair(short_subjects[seed], name)) for seed in SEEDS for name in WITHIN_THREE]
    assert_detected(tries)


@pytest.mark.parametrize("name", PLACE_FREE)
def test_a_component_that_reads_no_token_needs_none(subject, name):
    result = do(subject, "minimal_context", name, **SMALL)
    assert result.lengths == {0: 8}
    assert result.tokens == []
    assert result.p_value == 1
    assert not result.excludes_control


def test_a_random_component_needs_all_it_hashes(subject):
    result = do(subject, "minimal_context", "random", n_contexts=8, n_draws=8)
    assert result.lengths == {4: 8}
    assert set(result.offsets) == {0, -1, -2, -3}


def test_contexts_that_are_too_long_are_counted(subject):
    result = do(subject, "minimal_context", "random", n_contexts=8, n_draws=8, max_length=3)
    assert result.lengths == {}
    assert result.n_longer == 8
    assert all(place.length is None and len(place.offsets) == 3 for place in result.places)


def test_a_marked_text_is_a_place(subject):
    text = "the old forest near «anna» waits"
    result = do(subject, "minimal_context", "person-place", places=[text])
    (place,) = result.places
    assert place.place == text
    assert place.token_texts == ["forest", "anna"]
    assert place.offsets == [-2, 0]
    assert place.context_texts == ["forest", "near", "anna"]
    assert (place.kept, place.kept_by_others) == (1, 0)
    assert result.excludes_control is None  # one place has no interval


def test_a_row_and_position_is_a_place(subject):
    firings = subject.harvest.activations(planted(subject).rule("bigram-city-1").key)
    at = int(np.argmax(firings.position >= 3))
    name = f"row:{firings.row[at]}:{firings.position[at]}"
    (place,) = do(subject, "minimal_context", "bigram-city-1", places=[name]).places
    assert place.place == name
    assert place.token_texts == ["costa", "rica"]


@pytest.mark.parametrize(
    ("place", "says"),
    [
        ("the rain", "no marked token"),
        ("row:0", "write row:ROW:POSITION"),
        ("row:0:x", "write row:ROW:POSITION"),
        ("row:99999:0", "no row 99999"),
        ("row:0:64", "positions 0 to 63, not 64"),
        ("«the» rain", "nothing to keep"),
    ],
)
def test_places_that_are_none_are_refused_in_a_sentence(subject, place, says):
    with pytest.raises(SpdToolsError, match=says):
        do(subject, "minimal_context", "because", places=[place])


def test_a_component_that_never_fired_has_no_places(subject):
    with pytest.raises(SpdToolsError, match="no firing"):
        do(subject, "minimal_context", "dead-impossible")
