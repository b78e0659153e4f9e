"""Controls are like what they stand beside."""

from __future__ import annotations

import numpy as np
import pytest
from planted_subjects import key_of, token_of

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.matching import ControlTokens, matched_components, matched_tokens
from spd_tools.keys import ComponentKey


def nearest(counts, of, usable, n):
    distance = np.abs(np.log(counts[usable]) - np.log(counts[of]))
    return set(np.asarray(usable)[np.argsort(distance, kind="stable")[:n]].tolist())


def test_control_tokens_are_drawn_from_the_nearest_in_frequency(subject):
    counts = np.asarray(subject.harvest.vocabulary("input"))
    token, excluded = token_of(subject, "because"), token_of(subject, "and")
    usable = [t for t in np.flatnonzero(counts) if t not in (token, excluded)]
    pool = nearest(counts, token, usable, 12)
    seen = set()
    for seed in range(50):
        drawn = matched_tokens(subject.harvest, token, 3, np.random.default_rng(seed), exclude=[excluded]).tolist()
        assert len(set(drawn)) == 3
        assert set(drawn) <= pool
        seen.update(drawn)
    assert seen == pool


def test_control_components_are_drawn_from_the_nearest_in_density(subject):
    harvest = subject.harvest
    own, other = harvest.keys.flat(key_of(subject, "because")), ComponentKey.parse(key_of(subject, "mood"))
    usable = [c for c in np.flatnonzero(harvest.firing_counts) if c not in (own, harvest.keys.flat(other))]
    pool = nearest(harvest.firing_counts, own, usable, 16)
    drawn = matched_components(harvest, key_of(subject, "because"), 4, np.random.default_rng(0), exclude=[other])
    assert len(set(drawn)) == 4
    assert {harvest.keys.flat(key) for key in drawn} <= pool


def test_a_dead_component_is_no_control_and_can_have_some(subject):
    drawn = matched_components(subject.harvest, key_of(subject, "dead-impossible"), 10, np.random.default_rng(0))
    assert all(subject.harvest.firing_counts[subject.harvest.keys.flat(key)] for key in drawn)


def test_too_few_controls_are_an_error(subject):
    with pytest.raises(SpdToolsError, match=r"only \d+ tokens to compare with, not 5000"):
        matched_tokens(subject.harvest, 3, 5000, np.random.default_rng(0))
    with pytest.raises(SpdToolsError, match=r"Only \d+ other components fire in this harvest, not 61"):
        matched_components(subject.harvest, key_of(subject, "because"), 61, np.random.default_rng(0))


def test_candidates_of_like_frequency_share_controls_and_are_none(subject):
    harvest = subject.harvest
    counts = np.asarray(harvest.vocabulary("input"))
    candidates = [token_of(subject, word) for word in ("the", "because", "but", "plane")]
    controls = ControlTokens.like(harvest, candidates, 3, np.random.default_rng(0))
    for a, one in enumerate(candidates):
        for b, other in enumerate(candidates):
            if controls.group[a] == controls.group[b]:
                assert 0.5 < counts[one] / counts[other] < 2
    assert len(controls.pools) == len(set(controls.group))
    assert all(not set(pool.tolist()) & set(candidates) for pool in controls.pools)
    drawn = controls.draw(40).reshape(40, len(controls.pools), 3)
    for group, pool in enumerate(controls.pools):
        assert set(drawn[:, group].ravel().tolist()) == set(pool.tolist())
        assert all(len(set(row)) == 3 for row in drawn[:, group].tolist())


def test_many_candidates_leave_a_small_pool(subject):
    counts = np.asarray(subject.harvest.vocabulary("input"))
    candidates = np.flatnonzero(counts)[:-3].tolist()
    controls = ControlTokens.like(subject.harvest, candidates, 3, np.random.default_rng(0))
    assert all(len(pool) == 3 for pool in controls.pools)
    with pytest.raises(SpdToolsError, match="only 3 tokens"):
        ControlTokens.like(subject.harvest, candidates, 4, np.random.default_rng(0))
