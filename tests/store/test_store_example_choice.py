"""Which of the stored examples a reader gets."""

from __future__ import annotations

from collections import Counter

import pytest

from spd_tools.errors import SpdToolsError

KEY = "h.0.mlp.c_fc:2"


def firing_token(example):
    return example.token_ids[example.firing_index]


@pytest.mark.parametrize("kind", ["uniform", "top"])
@pytest.mark.parametrize("most", [1, 2])
def test_no_more_than_so_many_per_token_in_the_same_order(stored, kind, most):
    for key in stored.harvest.keys:
        seen = Counter()
        expected = []
        for example in stored.harvest.examples(key, kind, 99, 3):
            seen[firing_token(example)] += 1
            if seen[firing_token(example)] <= most:
                expected.append(example)
        assert stored.harvest.examples(key, kind, 99, 3, max_per_token=most) == expected
        assert stored.harvest.examples(key, kind, 2, 3, max_per_token=most) == expected[:2]


def test_some_component_has_more_examples_on_a_token(stored):
    """Without this the test above would hold of any reader."""
    firing = [
        [firing_token(example) for example in stored.harvest.examples(key, "top", 99)] for key in stored.harvest.keys
    ]
    assert any(len(set(tokens)) < len(tokens) for tokens in firing)


def test_tokens_of_all_stored_examples(stored):
    for kind in ("uniform", "top"):
        examples = stored.harvest.examples(KEY, kind, 99)
        assert stored.harvest.example_tokens(KEY, kind).tolist() == list(map(firing_token, examples))


def test_none_per_token_is_refused(stored):
    with pytest.raises(SpdToolsError, match="The number of examples per token is 0"):
        stored.harvest.examples(KEY, max_per_token=0)


def test_an_unknown_kind_is_refused(stored):
    with pytest.raises(SpdToolsError, match="'best' is no kind of examples"):
        stored.harvest.example_tokens(KEY, "best")
