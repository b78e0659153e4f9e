"""Controls are like what they stand beside."""

from __future__ import annotations

import numpy as np
import pytest
from planted_subjects import key_of, token_of

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.matching import ControlTokens, matched_components, matched_tokens, unlike_said
from spd_tools.keys import ComponentKey


def like(counts, usable, of):
    return {int(one) for one in usable if of / 2 <= counts[one] <= 2 * of}


def test_control_tokens_are_drawn_from_all_of_like_frequency(subject):
    counts = np.asarray(subject.harvest.vocabulary("input"))
    token, excluded = token_of(subject, "because"), token_of(subject, "and")
    usable = [t for t in np.flatnonzero(counts) if t not in (token, excluded)]
    pool = like(counts, usable, counts[token])
    assert len(pool) > 6
    seen = set()
    for seed in range(100):
        found = matched_tokens(subject.harvest, token, 3, np.random.default_rng(seed), exclude=[excluded])
        drawn = found.items.tolist()
        assert len(set(drawn)) == 3
        assert set(drawn) <= pool
        ratios = counts[found.items] / counts[token]
        assert (found.ratio.low, found.ratio.high) == (ratios.min(), ratios.max())
        assert unlike_said(found.ratio, "frequency") == ""
        seen.update(drawn)
    assert seen == pool


def test_where_few_are_alike_all_of_them_and_the_nearest_are_taken(subject):
    counts = np.asarray(subject.harvest.vocabulary("input"))
    token = token_of(subject, "because")
    usable = np.array([t for t in np.flatnonzero(counts) if t != token])
    found = matched_tokens(subject.harvest, token, 150, np.random.default_rng(0))
    distance = np.abs(np.log(counts / counts[token], where=counts > 0, out=np.full(len(counts), np.inf)))
    assert like(counts, usable, counts[token]) <= set(found.items.tolist())
    left = np.setdiff1d(usable, found.items)
    assert distance[found.items].max() <= distance[left].min() + 1e-12
    assert found.ratio.low < 0.5
    said = unlike_said(found.ratio, "frequency")
    assert (
        said
        == f"controls of {found.ratio.low:.2g} to {found.ratio.high:.2g} times its frequency: none nearer were left"
    )
    assert unlike_said(None, "frequency") == ""


def test_control_components_are_drawn_from_those_of_like_density(subject):
    harvest = subject.harvest
    own, other = harvest.keys.flat(key_of(subject, "because")), ComponentKey.parse(key_of(subject, "mood"))
    usable = [c for c in np.flatnonzero(harvest.firing_counts) if c not in (own, harvest.keys.flat(other))]
    pool = like(harvest.firing_counts, usable, harvest.firing_counts[own])
    assert len(pool) > 4
    found = matched_components(harvest, key_of(subject, "because"), 4, np.random.default_rng(0), exclude=[other])
    drawn = {harvest.keys.flat(key) for key in found.items}
    assert len(drawn) == 4
    assert drawn <= pool
    all_others = matched_components(harvest, key_of(subject, "because"), len(usable), np.random.default_rng(0), [other])
    ratios = harvest.firing_counts[usable] / harvest.firing_counts[own]
    assert (all_others.ratio.low, all_others.ratio.high) == (ratios.min(), ratios.max())


def test_a_dead_component_is_no_control_and_can_have_some(subject):
    drawn = matched_components(subject.harvest, key_of(subject, "dead-impossible"), 10, np.random.default_rng(0))
    assert all(subject.harvest.firing_counts[subject.harvest.keys.flat(key)] for key in drawn.items)


def test_too_few_controls_are_an_error(subject):
    with pytest.raises(SpdToolsError, match=r"only \d+ tokens to compare with, not 5000"):
        matched_tokens(subject.harvest, 3, 5000, np.random.default_rng(0))
    with pytest.raises(SpdToolsError, match=r"Only \d+ other components fire in this harvest, not 61"):
        matched_components(subject.harvest, key_of(subject, "because"), 61, np.random.default_rng(0))


def test_candidates_of_like_frequency_share_controls_and_are_none(subject):
    harvest = subject.harvest
    counts = np.asarray(harvest.vocabulary("input"))
    candidates = [token_of(subject, word) for word in ("the", "because", "but", "plane")]
    controls = ControlTokens.like(harvest, candidates, 19, np.random.default_rng(0))
    for a, one in enumerate(candidates):
        for b, other in enumerate(candidates):
            if controls.group[a] == controls.group[b]:
                assert 0.5 < counts[one] / counts[other] < 2
    assert len(controls.tokens) == len(set(controls.group)) > 1
    assert all(not set(tokens.tolist()) & set(candidates) for tokens in controls.tokens)
    assert all(len(set(tokens.tolist())) == controls.k == 19 for tokens in controls.tokens)
    ratios = np.concatenate(
        [counts[controls.tokens[group]] / counts[one] for one, group in zip(candidates, controls.group, strict=True)]
    )
    assert (controls.ratio.low, controls.ratio.high) == (ratios.min(), ratios.max())


def test_the_controls_of_a_group_are_alike_to_each_of_its_members(subject):
    counts = np.asarray(subject.harvest.vocabulary("input"))
    order = np.argsort(counts, kind="stable")
    one = int(order[np.searchsorted(counts[order], 24)])
    other = int(order[np.searchsorted(counts[order], 32)])
    controls = ControlTokens.like(subject.harvest, [one, other], 19, np.random.default_rng(0))
    assert len(controls.tokens) == 1
    assert controls.ratio.low >= 0.5
    assert controls.ratio.high <= 2


def test_controls_are_as_many_as_the_harvest_has_but_not_too_few(subject):
    seen = np.flatnonzero(subject.harvest.vocabulary("input")).tolist()
    rng = np.random.default_rng(0)
    controls = ControlTokens.like(subject.harvest, seen[20:], 999, rng)
    assert controls.k == 20
    assert all(tokens.tolist() == seen[:20] for tokens in controls.tokens)
    with pytest.raises(SpdToolsError, match="only 18 tokens to compare with"):
        ControlTokens.like(subject.harvest, seen[18:], 999, rng)
    with pytest.raises(SpdToolsError, match="Among 18 controls no p-value"):
        ControlTokens.like(subject.harvest, seen[:1], 18, rng)
