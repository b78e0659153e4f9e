import math
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.keys import KeySpace
from spd_tools.store.pairs import Pairs
from spd_tools.store.records import PAIR_METRICS


@st.composite
def pairs(draw):
    """Counts that tie often, small or as large as a harvest of a billion tokens."""
    scale = draw(st.sampled_from([1, 100_000_000]))
    n_tokens = 40 * scale
    firings = np.array(draw(st.lists(st.integers(0, 12), min_size=2, max_size=14))) * scale
    i = draw(st.integers(0, len(firings) - 1))
    together = [
        0 if j == i else draw(st.integers(0, min(n, firings[i]) // scale)) * scale for j, n in enumerate(firings)
    ]
    partner = np.flatnonzero(together)
    return Pairs.of(i, partner, np.array(together)[partner], firings.astype(np.int64), n_tokens)


def exact(found: Pairs, metric: str, j: int) -> Fraction:
    n_i, n_j, n_ij = found.n_i, int(found.firing_counts[j]), int(found.counts[j])
    if metric == "jaccard":
        return Fraction(n_ij, n_i + n_j - n_ij)
    if metric == "pmi":
        return Fraction(n_ij * found.n_tokens, n_i * n_j)
    return Fraction(n_ij, n_i if metric == "precision" else n_j)


def brute_force(found: Pairs, metric: str, limit: int, weakest: bool) -> list[int]:
    eligible = [
        j
        for j, n_j in enumerate(found.firing_counts.tolist())
        if j != found.i
        and (found.counts[j] > 0 or weakest)
        and (Fraction(found.n_i * n_j, found.n_tokens) >= 5 or not (weakest or metric == "pmi"))
    ]
    sign = 1 if weakest else -1
    return sorted(eligible, key=lambda j: (sign * exact(found, metric, j), -int(found.firing_counts[j]), j))[:limit]


@given(pairs(), st.sampled_from(PAIR_METRICS), st.integers(0, 8), st.booleans())
def test_order_equals_brute_force_in_exact_arithmetic(found, metric, limit, weakest):
    assert found.ranked(metric, limit, weakest).tolist() == brute_force(found, metric, limit, weakest)


@given(pairs())
def test_scores_equal_their_definitions(found):
    others = found.ranked("pmi", 20, weakest=True)
    for record in found.records(others, "pmi", KeySpace({"a": len(found.firing_counts)})):
        j = record.key.index
        assert math.isclose(record.jaccard, exact(found, "jaccard", j))
        assert math.isclose(record.precision, exact(found, "precision", j))
        assert math.isclose(record.recall, exact(found, "recall", j))
        assert record.count == found.counts[j]
        assert record.firing_count == found.firing_counts[j]
        assert math.isclose(record.expected, found.n_i * record.firing_count / found.n_tokens)
        if record.count:
            assert math.isclose(record.pmi, math.log(exact(found, "pmi", j)), abs_tol=1e-12)
        else:
            assert record.pmi == -math.inf


def test_a_pair_that_never_fires_together_has_no_pmi_in_json():
    found = Pairs.of(0, np.array([], int), np.array([], int), np.array([30, 20]), 100)
    (record,) = found.records(found.ranked("pmi", 5, weakest=True), "pmi", KeySpace({"a": 2}))
    assert '"key":"a:1","score":null,"count":0' in record.model_dump_json()


def test_a_component_that_never_fired_has_no_pairs():
    found = Pairs.of(0, np.array([], int), np.array([], int), np.array([0, 20]), 100)
    assert len(found.ranked("jaccard", 5, weakest=False)) == len(found.ranked("pmi", 5, weakest=True)) == 0
