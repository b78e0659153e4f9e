"""Co-firing given the token: duplicates, lookalikes, gates, and components that have nothing to do with each other."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_subjects import key_of
from reference_store import random_input, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, read_result, replay, run
from spd_tools.experiments.cofiring import CofiringResult
from spd_tools.experiments.token_strata import MAX_BLOCKS, LoggedFirings, Tables, blocks
from spd_tools.store.harvest import Harvest


def cofiring(subject: Subject, first: str, second: str) -> CofiringResult:
    parameters = {"key": key_of(subject, first), "other": key_of(subject, second)}
    found = run(subject, make_request("cofiring", parameters))
    assert isinstance(found, CofiringResult)
    return found


@pytest.mark.parametrize("pair", [("duplicate-a", "duplicate-b"), ("time-duplicate-a", "time-duplicate-b")])
def test_duplicates_fire_alike_and_write_alike(subjects, pair):
    for subject in subjects.values():
        found = cofiring(subject, *pair)
        assert found.jaccard == 1
        assert found.read_cosine == pytest.approx(1)
        assert found.write_cosine == pytest.approx(1)
        assert found.cosines_absent is None
        # Both are decided by the token alone.
        assert found.given_token is None
        assert found.p_value is None
        assert found.effect.value == found.control.value == 1
        assert not found.excludes_control
        assert "nothing is left to explain" in found.summary


def test_a_lookalike_fires_alike_and_writes_elsewhere(subjects):
    for subject in subjects.values():
        found = cofiring(subject, "duplicate-a", "lookalike")
        assert found.jaccard == 1
        assert found.correlation == pytest.approx(1)
        assert abs(found.write_cosine) < 0.1


def test_what_the_token_does_not_explain_is_found(subjects):
    # All of these read something before the token.
    pairs = [
        ("after-quality", "mood", True),
        ("negated-verb", "recent-negation", True),
        ("recent-negation", "negated-verb", True),
        ("gate-determiner", "after-the", False),
        ("plain-act", "recent-negation", False),
        ("bigram-the", "after-the", True),
    ]
    for subject in subjects.values():
        for first, second, more in pairs:
            found = cofiring(subject, first, second)
            assert found.p_value <= 0.05, (first, second)
            assert found.excludes_control
            assert (found.effect.value > found.control.value) == more
            strata = found.given_token
            assert (strata.n_common > strata.expected) == more


def test_random_components_are_not_associated(subjects):
    names = ("random", "random-rare", "late-random")
    p_values = [
        cofiring(subject, first, second).p_value
        for subject in subjects.values()
        for first in names
        for second in names
        if first < second
    ]
    assert sum(p <= 0.05 for p in p_values) <= 2


def _firings(rng: np.random.Generator, runs: int, rate: float, both: float = 0.0) -> LoggedFirings:
    """60 rows of 50 tokens; each component fires for some positions on end, and at a token's own rate."""
    shape = (60, 50)
    token = rng.integers(0, 8, shape)

    def fires() -> np.ndarray:
        starts = rng.random(shape) < rate / runs
        spread = sum(np.pad(starts, ((0, 0), (back, 0)))[:, : shape[1]] for back in range(runs)) > 0
        return spread & (rng.random(shape) < rng.uniform(0.3, 1, 8)[token])

    i, j = fires(), fires()
    shared = rng.random(shape) < both
    row = np.repeat(np.arange(shape[0]), shape[1])
    return LoggedFirings(token.reshape(-1), row, (i | shared).reshape(-1), (j | shared).reshape(-1), shape[0])


@pytest.mark.parametrize(("runs", "rate"), [(1, 0.2), (4, 0.3), (12, 0.3), (1, 0.02)])
def test_at_most_18_of_200_null_tries_reach_5_percent(runs, rate):
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        strata = _firings(rng, runs, rate).given_token(rng)
        seen += strata is not None and max(strata.p_positions, strata.p_rows) <= 0.05
    assert seen <= 18


def test_positions_alone_would_not_do():
    """Runs of firings make positions dependent: the test over rows is there for a reason."""
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        seen += _firings(rng, 12, 0.3).given_token(rng).p_positions <= 0.05
    assert seen > 18


def test_95_percent_of_real_associations_are_found():
    seen = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        strata = _firings(rng, 2, 0.2, both=0.05).given_token(rng)
        seen += max(strata.p_positions, strata.p_rows) <= 0.05 and strata.odds_ratio.low > 1
    assert seen >= 95


tables = st.tuples(*[st.integers(1, 40)] * 4)


def _tables(*cells: tuple[int, int, int, int]) -> Tables:
    both, only_i, only_j, neither = np.array(cells, np.float64).T
    return Tables(both, both + only_i, both + only_j, both + only_i + only_j + neither)


@given(tables)
def test_one_stratum_gives_the_plain_odds_ratio_and_its_interval(cells):
    found = _tables(cells).odds_ratio(1.0)
    both, only_i, only_j, neither = cells
    expected = both * neither / (only_i * only_j)
    half = 1.959964 * math.sqrt(sum(1 / cell for cell in cells))  # Woolf's, which Robins et al. reduce to
    assert found.value == pytest.approx(expected)
    assert found.low == pytest.approx(expected * math.exp(-half), rel=1e-5)
    assert found.high == pytest.approx(expected * math.exp(half), rel=1e-5)


@given(tables)
def test_one_stratum_gives_the_hypergeometric_moments(cells):
    from scipy.stats import hypergeom

    found = _tables(cells)
    reference = hypergeom(sum(cells), cells[0] + cells[1], cells[0] + cells[2])
    assert found.expected.sum() == pytest.approx(reference.mean())
    assert found.variance == pytest.approx(reference.var())


@given(st.lists(tables, min_size=1, max_size=5))
def test_the_test_does_not_care_which_component_comes_first(cells):
    turned = [(both, only_j, only_i, neither) for both, only_i, only_j, neither in cells]
    assert _tables(*cells).p_value == pytest.approx(_tables(*turned).p_value)
    assert _tables(*cells).odds_ratio(1.0).value == pytest.approx(_tables(*turned).odds_ratio(1.0).value)


def test_an_odds_ratio_without_bound_is_absent():
    assert _tables((5, 0, 0, 5)).odds_ratio(1.0) is None
    assert _tables((0, 5, 5, 0)).odds_ratio(1.0) is None


def test_counts_are_those_of_the_harvest(subject):
    found = cofiring(subject, "negated-verb", "recent-negation")
    harvest, keys = subject.harvest, (found.request.key, found.request.other)
    logs = [set(harvest.activations(key).token.tolist()) for key in keys]
    assert (found.n_i, found.n_j, found.n_ij) == (len(logs[0]), len(logs[1]), len(logs[0] & logs[1]))
    assert found.effect.value == found.n_ij / found.n_i
    assert found.n == found.n_i


def test_strata_are_those_of_plain_counting(tmp_path):
    write_reference_store(tmp_path / "made-up", random_input(3, rows=40))
    harvest = Harvest.open(tmp_path / "made-up")
    keys = [harvest.keys.key(flat) for flat in (2, 7)]
    cells = collections.defaultdict(lambda: np.zeros((2, 2)))
    logs = [set(harvest.activations(key).token.tolist()) for key in keys]
    for row in harvest.logged_rows.tolist():
        for position in range(harvest.row_lengths[row]):
            if not harvest.excluded[row, position]:
                at = row * harvest.seq_len + position
                cells[int(harvest.tokens()[row, position])][int(at in logs[0]), int(at in logs[1])] += 1
    firings = LoggedFirings.of(Subject(harvest), *keys)
    strata = firings.given_token(np.random.default_rng(0))
    tables = [table for table in cells.values() if min(*table.sum(0), *table.sum(1)) > 0]
    assert len(firings.token) == sum(table.sum() for table in cells.values())
    assert (strata.n_tokens, strata.n_informative) == (len(cells), len(tables))
    assert strata.n_positions == sum(table.sum() for table in tables)
    assert (strata.n_firings, strata.n_common) == (
        sum(table[1].sum() for table in tables),
        sum(table[1, 1] for table in tables),
    )
    assert strata.expected == pytest.approx(sum(t[1].sum() * t[:, 1].sum() / t.sum() for t in tables))
    odds = sum(t[1, 1] * t[0, 0] / t.sum() for t in tables) / sum(t[1, 0] * t[0, 1] / t.sum() for t in tables)
    assert strata.odds_ratio.value == pytest.approx(odds)


@given(st.integers(1, 5000))
def test_blocks_hold_whole_rows_in_order(n_rows):
    found = blocks(np.arange(n_rows), n_rows)
    assert np.array_equal(np.unique(found), np.arange(min(n_rows, MAX_BLOCKS)))
    sizes = np.bincount(found)
    assert sizes.max() - sizes.min() <= 1


def test_cosines_are_absent_with_a_reason_when_the_weights_are_gone(subject, monkeypatch):
    def gone(_):
        raise SpdToolsError("The weights are gone; bring them back.")

    monkeypatch.setattr("spd_tools.experiments.subject.decomposition_of", gone)
    found = run(
        Subject(subject.harvest),
        make_request("cofiring", {"key": key_of(subject, "duplicate-a"), "other": key_of(subject, "duplicate-b")}),
    )
    assert found.read_cosine is None
    assert found.write_cosine is None
    assert found.cosines_absent == "The weights are gone; bring them back."


def test_vectors_of_other_widths_have_no_cosine(subject):
    found = cofiring(subject, "after-the", "after-quality")
    assert found.read_cosine is None
    assert found.write_cosine is not None
    assert "different spaces" in found.cosines_absent


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [("category", "category", "fires with itself"), ("category", "dead-impossible", "does not fire")],
)
def test_what_cannot_be_compared_is_said(subject, first, second, message):
    with pytest.raises(SpdToolsError, match=message):
        cofiring(subject, first, second)


def test_results_replay_and_survive_json(subject):
    found = cofiring(subject, "after-quality", "mood")
    assert read_result(found.model_dump_json()) == found
    assert replay(subject, found).identical
