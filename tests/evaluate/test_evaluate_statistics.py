"""Rule 7: scores, intervals that hold, early stopping at fixed points. Rule 6: a failed trial is no zero."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.statistics import Graded, Score, grade, planned_looks, precise, score_of
from spd_tools.evaluate.trials import make_trials
from spd_tools.experiments import statistics as shared
from spd_tools.store.records import Record

RUNS = 1000
TRUTH = np.repeat([1, 0], 5)
Judge = Callable[[np.random.Generator], np.ndarray]
"""Makes the judgements (0 or 1) of a trial whose truth is TRUTH."""


def graded(answer: np.ndarray, truth: np.ndarray = TRUTH) -> Graded:
    return Graded(pairs=list(zip(truth.tolist(), answer.tolist(), strict=True)))


FAILED = Graded(pairs=None, reason="The answer is cut off.")


def run_until_precise(score, trial: Callable[[], Graded], precision: float | None, n_trials: int = 20) -> Score:
    """Ask trial after trial, look at the fixed points, stop when precise."""
    looks = planned_looks(n_trials, early_stopping=precision is not None)
    asked: list[Graded] = []
    for look in looks:
        asked += [trial() for _ in range(look - len(asked))]
        found = score_of(score, asked, looks)
        if look == n_trials or (precision is not None and precise(found, precision)):
            return found
    raise AssertionError


def coverage(score, judge: Callable[[np.random.Generator], Graded], true: float, precision: float | None) -> float:
    """Share of 1,000 seeded runs whose interval holds the truth."""
    held = stopped = 0
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        found = run_until_precise(score, lambda rng=rng: judge(rng), precision)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= true <= found.high
        stopped += found.n_trials < 20
    if precision is not None:
        assert stopped > 10, "stopping early was never put to the test"
    return held / RUNS


# --- coverage -------------------------------------------------------------------------------------------------------


def says_yes(share: float) -> Callable[[np.random.Generator], Graded]:
    """A judge that guesses."""
    return lambda rng: graded(rng.random(10) < share)


def skilled(mean: float, correlation: float) -> Callable[[np.random.Generator], Graded]:
    """A judge whose skill varies from trial to trial (beta-binomial)."""
    size = 1 / correlation - 1

    def judge(rng: np.random.Generator) -> Graded:
        right = rng.random(10) < rng.beta(mean * size, (1 - mean) * size)
        return graded(np.where(right, TRUTH, 1 - TRUTH))

    return judge


def moody(correlation: float) -> Callable[[np.random.Generator], Graded]:
    """A judge that guesses, and in some trials says yes to nearly all."""
    size = 1 / correlation - 1
    return lambda rng: graded(rng.random(10) < rng.beta(size / 2, size / 2))


@pytest.mark.parametrize("precision", [0.2, 0.15])
@pytest.mark.parametrize("share", [0.5, 0.2])
def test_intervals_hold_chance_for_a_judge_that_guesses(share, precision):
    assert coverage("detection", says_yes(share), 0.5, precision) >= 0.93


@pytest.mark.parametrize(
    ("mean", "correlation", "precision"),
    [(0.5, 0.1, 0.2), (0.5, 0.3, 0.2), (0.7, 0.3, 0.15), (0.9, 0.1, 0.1), (0.9, 0.3, 0.1), (0.7, 0.2, None)],
)
def test_intervals_hold_the_truth_for_judges_that_vary_between_trials(mean, correlation, precision):
    assert coverage("detection", skilled(mean, correlation), mean, precision) >= 0.93


def test_intervals_hold_chance_for_a_judge_of_moods():
    assert coverage("fuzzing", moody(0.3), 0.5, 0.2) >= 0.93


@pytest.mark.parametrize(("share", "precision"), [(0.2, 0.2), (0.8, 0.25), (0.2, None)])
def test_intervals_of_intruders_named_hold(share, precision):
    judge = lambda rng: Graded(pairs=[(0.0, 0.0 if rng.random() < share else 1.0)])  # noqa: E731
    assert coverage("intruder", judge, share, precision) >= 0.93


def test_intervals_of_correlations_hold_zero_for_a_judge_that_guesses():
    def judge(rng: np.random.Generator) -> Graded:
        truth = np.where(rng.random(33) < 0.1, rng.random(33) * 10, 0)
        return graded(np.where(rng.random(33) < 0.1, rng.integers(1, 11, 33), 0), truth)

    assert coverage("simulation", judge, 0.0, 0.2) >= 0.93


def test_intervals_of_correlations_hold_the_truth_for_a_judge_that_sees_most():
    def judge(rng: np.random.Generator) -> Graded:
        truth = np.where(rng.random(33) < 0.1, rng.random(33) * 10, 0)
        seen = np.where(rng.random(33) < 0.8, truth, 0)
        return graded(np.clip(np.round(seen + rng.normal(0, 1, 33)), 0, 10), truth)

    rng = np.random.default_rng(RUNS)
    pairs = np.concatenate([judge(rng).pairs for _ in range(5000)])
    assert coverage("simulation", judge, float(np.corrcoef(pairs.T)[0, 1]), 0.2) >= 0.93


def test_intervals_are_not_wider_than_need_be():
    # 200 independent guesses: plain square-and-add gives 0.069 to each side.
    widths = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        found = run_until_precise("detection", lambda rng=rng: says_yes(0.5)(rng), None)
        widths.append((found.high - found.low) / 2)
    assert np.mean(widths) < 0.08


# --- values and intervals, recomputed -------------------------------------------------------------------------------


@given(st.integers(1, 60), st.data())
def test_wilson_is_the_shared_one_at_95_percent(n, data):
    right = data.draw(st.integers(0, n))
    expected = shared.wilson(right, n)
    assert shared.wilson_bounds(right / n, n, 1.959963984540054) == pytest.approx((expected.low, expected.high))


def test_balanced_accuracy_without_variation_between_trials_is_the_shared_interval():
    answer = np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1])
    found = score_of("detection", [graded(answer)] * 8, [8])
    expected = shared.mean_of_shares(shared.wilson(32, 40), shared.wilson(24, 40))
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert (found.n_trials, found.n_judgements, found.n_failed, found.chance) == (8, 80, 0, 0.5)


def test_the_design_effect_widens_the_interval():
    good, bad = TRUTH, 1 - TRUTH
    together = score_of("detection", [graded(good)] * 5 + [graded(bad)] * 5, [10])
    apart = score_of("detection", [graded(np.array([1, 1, 0, 0, 1, 0, 0, 1, 1, 0]))] * 10, [10])
    assert together.value == pytest.approx(0.5)
    assert together.high - together.low > 2 * (apart.high - apart.low)


def test_correlation_is_the_obvious_one_and_its_jackknife_too():
    rng = np.random.default_rng(3)
    trials = [(rng.random(20 + at) * 10, rng.random(20 + at) * 10) for at in range(7)]
    trials = [(truth, np.clip(truth + answer - 5, 0, 10)) for truth, answer in trials]

    def r(some) -> float:
        return float(np.corrcoef(np.concatenate([t for t, _ in some]), np.concatenate([a for _, a in some]))[0, 1])

    found = score_of("simulation", [graded(answer, truth) for truth, answer in trials], [7])
    left_out = [math.atanh(r(trials[:at] + trials[at + 1 :])) for at in range(7)]
    error = math.sqrt(6 / 7 * sum((z - sum(left_out) / 7) ** 2 for z in left_out))
    half = max(2.446911851144969 * error, 1.959963984540054 / math.sqrt(sum(range(20, 27)) - 3))
    assert found.value == pytest.approx(r(trials))
    assert found.low == pytest.approx(math.tanh(math.atanh(r(trials)) - half))
    assert found.high == pytest.approx(math.tanh(math.atanh(r(trials)) + half))
    assert (found.n_trials, found.n_judgements) == (7, sum(range(20, 27)))


@given(st.lists(st.lists(st.booleans(), min_size=10, max_size=10), min_size=5, max_size=12))
def test_the_interval_holds_the_value_and_stays_within_0_and_1(answers):
    found = score_of("fuzzing", [graded(np.array(answer)) for answer in answers], [5, 12])
    right = [[said == true for said, true in zip(answer, TRUTH, strict=True)] for answer in answers]
    assert found.value == pytest.approx(np.mean(right))
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize("answer", [TRUTH, 1 - TRUTH])
def test_a_judge_that_is_always_right_or_wrong_has_an_interval_of_some_width(answer):
    found = score_of("detection", [graded(answer)] * 5, [5, 10, 20])
    assert 0.05 < found.high - found.low < 0.2


def test_a_perfect_simulation_is_1():
    found = score_of("simulation", [graded(np.arange(10), np.arange(10))] * 5, [5])
    assert found.value == pytest.approx(1)
    assert found.low <= found.value <= found.high <= 1


# --- looks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "looks"), [(3, [3]), (5, [5]), (12, [5, 10, 12]), (20, [5, 10, 20]), (50, [5, 10, 20, 40, 50])]
)
def test_looks_are_fixed_before_the_first_answer(n, looks):
    assert planned_looks(n, early_stopping=True) == looks
    assert planned_looks(n, early_stopping=False) == [n]


def test_no_trials_are_no_plan():
    with pytest.raises(SpdToolsError, match="at least 1"):
        planned_looks(0, early_stopping=True)


def test_intervals_are_wider_where_more_looks_were_planned():
    rng = np.random.default_rng(1)
    trials = [graded(rng.random(10) < 0.5) for _ in range(20)]
    once, thrice = score_of("detection", trials, [20]), score_of("detection", trials, [5, 10, 20])
    assert thrice.low < once.low < once.high < thrice.high
    assert (once.look, thrice.look, thrice.looks) == (1, 3, [5, 10, 20])


def test_between_two_looks_counts_what_the_next_one_may_err():
    rng = np.random.default_rng(1)
    trials = [graded(rng.random(10) < 0.5) for _ in range(7)]
    found = score_of("detection", trials, [5, 10, 20])
    assert found.look == 2
    assert (found.low, found.high) == (lambda s: (s.low, s.high))(score_of("detection", trials, [10, 20, 30, 40]))


def test_precise_is_about_half_the_width():
    found = score_of("detection", [graded(TRUTH)] * 5, [5])
    half = (found.high - found.low) / 2
    assert precise(found, half)
    assert not precise(found, half * 0.99)
    assert not precise(score_of("detection", [], [5]), 1)


# --- failed trials --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["detection", "fuzzing"])
def test_failed_trials_count_neither_for_nor_against(score):
    good = [graded(np.array([1, 1, 1, 1, 0, 0, 0, 0, 1, 1]))] * 6
    with_failures, without = score_of(score, [FAILED, *good, FAILED], [8]), score_of(score, good, [8])
    assert with_failures.n_failed == 2
    assert with_failures.model_copy(update={"n_failed": 0}) == without


def test_too_few_good_trials_have_no_score_but_a_reason():
    found = score_of("intruder", [Graded(pairs=[(1, 1)])] * 4 + [FAILED] * 3, [7])
    assert (found.value, found.low, found.high) == (None, None, None)
    assert found.reason == "Only 4 trials are good (3 failed), and a score needs 5."
    assert (found.n_trials, found.n_judgements, found.n_failed) == (4, 4, 3)


def test_what_does_not_vary_correlates_with_nothing():
    found = score_of("simulation", [graded(np.full(8, 3), np.arange(8))] * 6, [6])
    assert found.value is None
    assert found.reason is not None
    assert "same on every token" in found.reason


# --- grading --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trials(planted):
    """Score -> a trial."""
    key = planted.decomposition.rule("category").key
    return {
        score: make_trials(planted.split, key, score, 1).trials[0]
        for score in ("intruder", "detection", "fuzzing", "simulation")
    }


def test_answers_are_put_beside_the_truth(trials):
    place = trials["intruder"].truth.index(True)
    assert grade(trials["intruder"], 2).pairs == [(place, 2)]
    for score in ("detection", "fuzzing"):
        said = [True] * 10
        assert grade(trials[score], said).pairs == [(truth, 1) for truth in trials[score].truth]
    levels = trials["simulation"].levels
    assert grade(trials["simulation"], [3] * len(levels)).pairs == [(level, 3) for level in levels]


def test_excluded_tokens_are_not_judged(trials):
    trial = trials["simulation"].model_copy(update={"levels": [None, 0.0, 5.0]})
    assert grade(trial, [9, 1, 4]).pairs == [(0, 1), (5, 4)]


@pytest.mark.parametrize(
    ("score", "answer"),
    [
        ("intruder", 5),
        ("intruder", -1),
        ("intruder", [1]),
        ("detection", [True] * 9),
        ("detection", [2] * 10),
        ("fuzzing", 1),
        ("simulation", [1, 2]),
        ("simulation", [float("nan")] * 33),
        ("simulation", [11] * 33),
    ],
)
def test_an_answer_that_does_not_fit_fails_its_trial(trials, score, answer):
    trial = trials[score]
    if isinstance(answer, list) and len(answer) == 33:
        answer = answer[: len(trial.levels)]
    failed = grade(trial, answer)
    assert failed.pairs is None
    assert failed.reason is not None
    assert failed.reason.startswith("The answer ")


def test_records_survive_json():
    found: Record = score_of("detection", [graded(TRUTH)] * 5, [5])
    assert Score.model_validate_json(found.model_dump_json()) == found
