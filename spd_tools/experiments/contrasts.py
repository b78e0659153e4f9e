"""Arms of an experiment, each against its control, and an honest number for the arm that stands out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.experiments.records import Estimate
from spd_tools.experiments.statistics import bootstrap_mean


@dataclass(frozen=True)
class Arm:
    """What one thing that was tried (a token, an offset, a distance) does in every context in which it could be."""

    context: NDArray[np.int64]
    """[n] numbers of the contexts."""
    response: NDArray[np.floating]
    """[n]"""
    control: NDArray[np.floating]
    """[n]"""


@dataclass(frozen=True)
class Standout:
    """The arm that stands out."""

    arm: int
    """Which."""
    effect: Estimate | None
    """Its mean response; None where there are no contexts besides those in which it was chosen."""
    control: Estimate | None
    """The mean of its control in the same contexts."""


def stands_out(arms: Sequence[Arm], rng: np.random.Generator) -> Standout:
    """The arm with the largest absolute mean difference from its control.

    The largest of many differences is too large. With more than one arm, the arm is therefore chosen in the contexts
    with even numbers, and effect and control are measured in the others.
    """
    if len(arms) == 1:
        number, measured = 0, np.ones(len(arms[0].context), np.bool_)
    else:
        number = max(range(len(arms)), key=lambda at: _difference(arms[at], arms[at].context % 2 == 0))
        measured = arms[number].context % 2 == 1
    arm = arms[number]
    effect, control = (bootstrap_mean(values[measured], rng) for values in (arm.response, arm.control))
    return Standout(number, effect, control)


def _difference(arm: Arm, chosen: NDArray[np.bool_]) -> float:
    difference = (arm.response - arm.control)[chosen]
    return abs(float(difference.mean(dtype=np.float64))) if len(difference) else -1.0


def mean_of(values: NDArray[np.floating], rng: np.random.Generator) -> Estimate:
    """Mean with its interval of values of which there is at least one."""
    estimate = bootstrap_mean(values, rng)
    assert estimate is not None
    return estimate


def mean_beside(own: NDArray[np.floating], control: NDArray[np.floating], rng: np.random.Generator) -> Estimate:
    """The mean of ``mean_and_difference``."""
    return mean_and_difference(own, control, rng)[0]


def mean_and_difference(
    own: NDArray[np.floating], control: NDArray[np.floating], rng: np.random.Generator
) -> tuple[Estimate, Estimate]:
    """Mean, and mean difference from a control that was measured in the same contexts, with their intervals.

    What contexts do to both says nothing about their difference. The interval of the mean is therefore that of the
    difference, around the mean (as within-subject intervals are, Cousineau 2005), so that it can be held against the
    control; it ends at the smallest and largest value that was seen.

    Args:
        own: [contexts]
        control: [contexts] mean over the controls.
        rng: draws contexts.
    """
    difference, mean = mean_of(np.asarray(own, np.float64) - control, rng), float(np.mean(own, dtype=np.float64))
    if difference.low is None or difference.high is None:
        return Estimate(value=mean, low=None, high=None, n=difference.n), difference
    low = max(mean - (difference.value - difference.low), float(np.min(own)))
    high = min(mean + (difference.high - difference.value), float(np.max(own)))
    return Estimate(value=mean, low=min(low, mean), high=max(high, mean), n=difference.n), difference


def said(estimate: Estimate | None) -> str:
    """An estimate for a summary: "1.5 [1.2, 1.8]"."""
    if estimate is None:
        return "unknown"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3g} (no interval)"
    return f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
