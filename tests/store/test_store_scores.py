import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.errors import SpdToolsError
from spd_tools.store.records import TOKEN_METRICS
from spd_tools.store.scores import TokenStats, first_by, largest


@st.composite
def token_stats(draw):
    counts = draw(st.lists(st.integers(1, 9), max_size=15))
    totals = [count + draw(st.integers(0, 9)) for count in counts]
    return TokenStats(
        side="input",
        token=np.cumsum([draw(st.integers(1, 3)) for _ in counts], dtype=np.int32),
        count=np.array(counts, np.int64),
        total=np.array(totals, np.int64),
        firing_count=sum(counts),
        n_tokens=sum(totals) + 10,
        dropped_mass=None,
        text_of=lambda token_id: f"<{token_id}>",
    )


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20), st.integers(0, 25))
def test_first_by_sorts(entries, limit):
    columns = np.array(entries, int).reshape(-1, 2).T
    expected = sorted(range(len(entries)), key=lambda index: (*entries[index], index))
    assert first_by(limit, columns[0], columns[1]).tolist() == expected[:limit]


@given(token_stats(), st.sampled_from(TOKEN_METRICS), st.integers(0, 10), st.none() | st.integers(0, 6))
def test_lists_equal_brute_force(stats, metric, limit, min_count):
    least = min_count if min_count is not None else (0 if metric == "recall" else 5)
    entries = [entry for entry in zip(stats.token, stats.count, stats.total, strict=True) if entry[1] >= least]

    def goodness(entry):
        return Fraction(int(entry[1]), 1 if metric == "recall" else int(entry[2]))

    best = sorted(entries, key=lambda entry: (-goodness(entry), -entry[1], entry[0]))[:limit]
    rest = [entry for entry in entries if entry not in best]
    worst = sorted(rest, key=lambda entry: (goodness(entry), -entry[1], entry[0]))[:limit]
    lists = stats.lists(metric, limit, min_count)
    assert [score.token_id for score in lists.top] == [entry[0] for entry in best]
    assert [score.token_id for score in lists.bottom] == [entry[0] for entry in worst]
    assert lists.n_eligible == len(entries)


@given(token_stats(), st.sampled_from(TOKEN_METRICS), st.integers(0, 10))
def test_top_and_bottom_never_overlap(stats, metric, limit):
    lists = stats.lists(metric, limit, min_count=1)
    assert not {score.token_id for score in lists.top} & {score.token_id for score in lists.bottom}


@given(token_stats())
def test_scores_equal_their_definitions(stats):
    n_c, n_tokens = stats.firing_count, stats.n_tokens
    for score in stats.lists("recall", 99).top:
        assert math.isclose(score.recall, score.count / n_c)
        assert math.isclose(score.precision, score.count / score.total)
        assert math.isclose(score.lift, (score.count / score.total) / (n_c / n_tokens))
        assert math.isclose(score.pmi, math.log(score.count * n_tokens / (n_c * score.total)), abs_tol=1e-12)
        assert score.text == f"<{score.token_id}>"


def test_single_sightings_stay_out_of_pmi_lists():
    stats = TokenStats("input", np.array([1, 2]), np.array([1, 5]), np.array([1, 50]), 6, 100, None, str)
    assert [score.token_id for score in stats.lists("pmi").top] == [2]
    assert [score.token_id for score in stats.lists("recall").top] == [2, 1]


def test_counts_stay_integers_in_json():
    stats = TokenStats("input", np.array([1]), np.array([7]), np.array([50]), 7, 100, None, str)
    assert '"count":7,"total":50' in stats.lists("pmi").model_dump_json()


def test_unknown_metric():
    stats = TokenStats("input", np.array([1]), np.array([7]), np.array([50]), 7, 100, None, str)
    with pytest.raises(SpdToolsError, match="'npmi' is no token metric; choose one of recall, precision, lift, pmi"):
        stats.lists("npmi")  # pyright: ignore[reportArgumentType]


@given(st.integers(0, 2**32 - 1), st.integers(2048, 5000), st.integers(1, 40), st.integers(1, 9))
def test_long_lists_with_many_ties_are_cut_where_sorting_would_cut_them(seed, n, limit, n_values):
    generator = np.random.default_rng(seed)
    counts, tie = generator.integers(0, n_values, n), generator.integers(0, 3, n)
    expected = sorted(range(n), key=lambda i: (-counts[i], tie[i], i))[:limit]
    assert first_by(limit, -counts, tie).tolist() == expected
    above_zero = [i for i in sorted(range(n), key=lambda i: (-counts[i], i)) if counts[i] > 0]
    assert largest(limit, counts).tolist() == above_zero[:limit]
