"""Components that one is held against: like it in density, and with places to be changed at."""

from __future__ import annotations

import numpy as np
import pytest
from planted_subjects import key_of, planted
from reference_store import random_input, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject
from spd_tools.experiments.ablate import AblateRequest, ablate
from spd_tools.experiments.like_components import around_zero, like_components, typical
from spd_tools.experiments.population import LEVEL, signed_test
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest


def test_all_others_are_taken_where_they_are_fewer_than_asked_for(subject):
    harvest, key = subject.harvest, ComponentKey.parse(key_of(subject, "because"))
    found = like_components(harvest, key, 999, "firing", np.random.default_rng(0))
    alive = {harvest.keys.key(int(flat)) for flat in np.flatnonzero(harvest.firing_counts)}
    assert set(found.items) == alive - {key}
    assert len(like_components(harvest, key, 19, "firing", np.random.default_rng(0)).items) == 19


def test_too_few_for_any_p_value_are_refused(tmp_path, subject):
    write_reference_store(tmp_path / "harvest", random_input(0))
    small = Harvest.open(tmp_path / "harvest")
    with pytest.raises(SpdToolsError, match=r"Only \d+ other components can be compared with .* harvest more text"):
        like_components(small, small.keys.key(0), 99, "firing", np.random.default_rng(0))
    with pytest.raises(SpdToolsError, match="at least 19"):
        like_components(subject.harvest, subject.harvest.keys.key(0), 18, "firing", np.random.default_rng(0))


def test_what_always_fires_has_no_silent_places(subject):
    harvest, always = subject.harvest, ComponentKey.parse(planted(subject).rule("always").key)
    key = ComponentKey.parse(key_of(subject, "because"))
    assert always in like_components(harvest, key, 999, "random", np.random.default_rng(0)).items
    assert always not in like_components(harvest, key, 999, "silent", np.random.default_rng(0)).items


@pytest.fixture(scope="module")
def briefly_logged(dense_with) -> Subject:
    """A harvest of which one row is logged."""
    return dense_with(log_tokens=64)


def test_what_fires_at_every_logged_position_is_no_control_of_silent_places(briefly_logged):
    """The log knows no silent place of it, though it is silent in rows that are not logged."""
    harvest = briefly_logged.harvest
    logged = int(harvest.logged_positions.sum())
    fires = [record for record in harvest.components() if len(harvest.activations(record.key)) == logged]
    apparent = {record.key for record in fires if record.firing_count < harvest.n_tokens}
    assert apparent
    key = next(record.key for record in harvest.components() if 0 < len(harvest.activations(record.key)) < logged)
    request = AblateRequest(key=key, base="silent", n_sites=2, n_controls=99)
    result = ablate(briefly_logged, request)
    assert not apparent & set(result.controls)
    assert len(result.controls) == int(np.count_nonzero(harvest.firing_counts)) - 1 - len(fires)


def test_what_has_no_known_firing_is_no_control_at_firings(dense_with):
    found = dense_with(log_tokens=64, n_uniform=0)
    harvest = found.harvest
    unknown = {
        record.key
        for record in harvest.components()
        if record.firing_count and not len(harvest.activations(record.key))
    }
    assert unknown
    key = next(record.key for record in harvest.components() if len(harvest.activations(record.key)))
    result = ablate(found, AblateRequest(key=key, n_sites=2, n_controls=99))
    assert not unknown & set(result.controls)


def test_limits_hold_nineteen_of_twenty():
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.normal(size=9999))
    found = typical(sizes)
    assert found.value == np.median(sizes)
    assert np.mean((sizes < found.low) | (sizes > found.high)) == pytest.approx(0.05, abs=1e-3)
    signed = rng.normal(size=(999, 4))
    limits = around_zero(signed)
    assert limits.low == -limits.high
    assert np.mean(np.abs(signed) > limits.high) == pytest.approx(0.05, abs=1e-3)


def test_what_is_found_on_named_tokens_lies_outside_the_limits():
    rng = np.random.default_rng(1)
    found = 0
    for _ in range(300):
        pool = rng.standard_t(2, (39, 4)) + 0.5
        value = float(rng.normal() * 6)
        if signed_test(value, pool) <= LEVEL:
            found += 1
            assert abs(value) > around_zero(pool).high
    assert found > 20
