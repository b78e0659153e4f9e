"""What the answers to a component's trials are worth: scores with intervals that stay valid with early stopping.

Judgements of one trial are not independent (the judge sees them at once), so trials are the sampling unit. Intervals
hold at least 95 % of the time for judges whose trials vary moderately (correlations within trials up to about 0.3); a
judge that is always right but fails whole trials at random, now and then, can have shown none of that in 20 trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from spd_tools.evaluate.dealing import LEVELS, OWN
from spd_tools.evaluate.trials import MIN_TRIALS, ScoreName, Trial
from spd_tools.experiments.records import CONFIDENCE
from spd_tools.experiments.statistics import wilson_bounds
from spd_tools.store.records import Record
from spd_tools.store.scores import at_least

LOOKS = (5, 10, 20)
"""After so many trials of a component one looks whether its interval is narrow enough; then after twice as many each
time."""
CHANCE: dict[ScoreName, float] = {"intruder": 1 / (OWN + 1), "detection": 0.5, "fuzzing": 0.5, "simulation": 0.0}
_LARGEST_R = 1 - 1e-9


class Graded(Record):
    """One trial's answer beside the truth."""

    pairs: list[tuple[float, float]] | None
    """(truth, answer) of each judgement; None: the trial failed. "intruder": numbers of the window (0 to 4), one pair;
    "detection" and "fuzzing": 0 or 1, window by window; "simulation": levels of 0 to 10, token by token."""
    reason: str | None = None
    """Why it failed, one sentence."""


class Score(Record):
    """A component's score with its interval."""

    score: ScoreName
    value: float | None
    """"intruder": share of trials in which the intruder is named; "detection" and "fuzzing": balanced accuracy;
    "simulation": Pearson's r over all tokens. None: there is no score, and ``reason`` says why."""
    low: float | None
    high: float | None
    """95 % interval, valid with early stopping at ``looks``."""
    chance: float
    n_trials: int
    """Trials that the score is made of."""
    n_judgements: int
    """Judgements in those trials."""
    n_failed: int
    """Trials without an answer that could be graded; they count neither for nor against."""
    looks: list[int]
    """Numbers of trials after which stopping was to be considered; the allowance for error is divided among them."""
    look: int
    """How many of them were used up, this one included."""
    reason: str | None
    """One sentence: why there is no score."""


def grade(trial: Trial, answer: int | Sequence[bool] | Sequence[float]) -> Graded:
    """Put an answer beside the truth; one that does not fit its trial fails it.

    Args:
        trial: what was asked.
        answer: "intruder": the number (0 to 4) of the window; "detection" and "fuzzing": for each window whether the
            judge says yes; "simulation": a level of 0 to 10 for each token.
    """
    if trial.score == "intruder":
        if not isinstance(answer, int) or not 0 <= answer < len(trial.windows):
            return Graded(pairs=None, reason=f"The answer names no window from 0 to {len(trial.windows) - 1}.")
        return Graded(pairs=[(float(trial.truth.index(True)), float(answer))])
    truth = trial.levels if trial.score == "simulation" else trial.truth
    most = LEVELS if trial.score == "simulation" else 1
    if isinstance(answer, int) or len(answer) != len(truth):
        return Graded(pairs=None, reason=f"The answer does not hold {len(truth)} judgements.")
    if not all(0 <= value <= most for value in answer):
        return Graded(pairs=None, reason=f"The answer holds a number outside 0 to {most}.")
    pairs = zip(truth, answer, strict=True)
    return Graded(pairs=[(float(true), float(value)) for true, value in pairs if true is not None])


def planned_looks(n_trials: int, *, early_stopping: bool) -> list[int]:
    """Numbers of trials after which one looks at the interval: 5, 10, 20, 40, ... and the last one, n_trials.

    Args:
        n_trials: all trials that there are for the component and score. To be fixed before the first answer.
        early_stopping: without it there is one look, at the end.

    Raises:
        SpdToolsError: for less than one trial.
    """
    at_least(n_trials, 1, "The number of trials")
    looks: list[int] = []
    look = LOOKS[0]
    while early_stopping and look < n_trials:
        looks.append(look)
        look *= 2
    return [*looks, n_trials]


def precise(score: Score, precision: float) -> bool:
    """Whether a score's interval is narrow enough to stop: half its width is at most ``precision``."""
    return score.low is not None and score.high is not None and (score.high - score.low) / 2 <= precision


def score_of(score: ScoreName, graded: Sequence[Graded], looks: Sequence[int]) -> Score:
    """The score after some trials.

    Each look may err with the share of 5 % that its new trials are of all planned ones (alpha spending, linear in the
    number of trials; added up, so that it holds whatever the stopping rule).

    "intruder": Wilson's interval. "detection", "fuzzing": two Wilson intervals joined by square-and-add (MOVER; Zou and
    Donner 2008), widened by the design effect between trials with a t quantile where that is more. "simulation":
    Fisher's z with the jackknife over trials and a t quantile.

    Args:
        score: which.
        graded: all trials asked so far, failed ones too, in their order.
        looks: ``planned_looks``. Between two looks (the budget ran out) what the next one may err counts.
    """
    assert len(graded) <= looks[-1]
    look = next(number for number, planned in enumerate(looks) if len(graded) <= planned)
    error = (1 - CONFIDENCE) * (looks[look] - (looks[look - 1] if look else 0)) / looks[-1]
    good = [trial.pairs for trial in graded if trial.pairs is not None]
    value: tuple[float, float, float] | None = None
    reason = None
    if len(good) < MIN_TRIALS:
        failed = len(graded) - len(good)
        reason = f"Only {len(good)} trials are good ({failed} failed), and a score needs {MIN_TRIALS}."
    elif score == "intruder":
        value = _share([pairs[0][0] == pairs[0][1] for pairs in good], error)
    elif score == "simulation":
        value = _correlation([np.array(pairs) for pairs in good], error)
        if value is None:
            reason = "The answers, or the true levels, are the same on every token, so nothing can correlate."
    else:
        value = _balanced_accuracy(np.array(good), error)
    estimate, low, high = value or (None, None, None)
    return Score(
        score=score,
        value=estimate,
        low=low,
        high=high,
        chance=CHANCE[score],
        n_trials=len(good),
        n_judgements=sum(map(len, good)),
        n_failed=len(graded) - len(good),
        looks=list(looks),
        look=look + 1,
        reason=reason,
    )


def _share(right: list[bool], error: float) -> tuple[float, float, float]:
    share = sum(right) / len(right)
    return share, *wilson_bounds(share, len(right), _normal(error))


def _balanced_accuracy(pairs: NDArray[np.float64], error: float) -> tuple[float, float, float]:
    """(value, low, high). pairs: [trials, windows, 2]"""
    n_trials = len(pairs)
    true, said = pairs[..., 0] == 1, pairs[..., 1] == 1
    right_yes, right_no = (true & said).sum(1) / true.sum(1), (~true & ~said).sum(1) / (~true).sum(1)
    by_trial = (right_yes + right_no) / 2
    shares = ((float(right_yes.mean()), int(true.sum())), (float(right_no.mean()), int((~true).sum())))
    binomial = sum(share * (1 - share) / n for share, n in shares) / 4
    between = float(by_trial.var(ddof=1)) / n_trials
    quantile = _normal(error)
    if binomial:
        quantile = max(quantile, _student(error, n_trials - 1) * math.sqrt(between / binomial))
    value = float(by_trial.mean())
    bounds = [(share, *wilson_bounds(share, n, quantile)) for share, n in shares]
    below = math.hypot(*(share - low for share, low, _ in bounds)) / 2
    above = math.hypot(*(high - share for share, _, high in bounds)) / 2
    return value, max(0.0, value - below), min(1.0, value + above)


def _correlation(trials: list[NDArray[np.float64]], error: float) -> tuple[float, float, float] | None:
    """(r, low, high); None where one side does not vary. trials: each [tokens, 2]"""
    centre = np.concatenate(trials).mean(0)
    sums = np.array([_sums(trial - centre) for trial in trials])
    r = _pearson(sums.sum(0))
    if math.isnan(r):
        return None
    left_out = _pearson(sums.sum(0) - sums)
    z = math.atanh(_inside(r))
    # A trial without which nothing varies says as much as no correlation without it.
    changes = np.arctanh(_inside(np.nan_to_num(left_out))) - z
    n = len(trials)
    by_trial = math.sqrt((n - 1) / n * float(((changes - changes.mean()) ** 2).sum()))
    by_token = 1 / math.sqrt(max(1.0, sums[:, 0].sum() - 3))
    half = max(_student(error, n - 1) * by_trial, _normal(error) * by_token)
    return float(r), min(float(r), math.tanh(z - half)), max(float(r), math.tanh(z + half))


def _sums(pairs: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = pairs.T
    return np.array([np.ones(len(pairs)), x, y, x * x, y * y, x * y]).sum(1)


def _pearson(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """[...] r from [..., 6] sums of 1, x, y, xx, yy, xy; NaN where one side does not vary."""
    n, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        vary_x, vary_y = xx - x * x / n, yy - y * y / n
        r = (xy - x * y / n) / np.sqrt(vary_x * vary_y)
    # What is left of numbers that do not vary is rounding.
    flat = (vary_x <= 1e-12 * n) | (vary_y <= 1e-12 * n)
    return np.where(flat, np.nan, np.clip(r, -1, 1))


def _inside(r: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(r, -_LARGEST_R, _LARGEST_R)


def _normal(error: float) -> float:
    return -float(ndtri(error / 2))


def _student(error: float, freedom: int) -> float:
    return -float(stdtrit(freedom, error / 2))
