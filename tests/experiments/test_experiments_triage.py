"""What is dead, what does nothing, and what is worth a look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from planted_subjects import MOST_FALSE_POSITIVES, NULL_TRIES, key_of, planted

from spd_tools.experiments import make_request, read_result, registry
from spd_tools.experiments.triage import TriageRequest, triage
from spd_tools.keys import ComponentKey


@pytest.fixture
def scaled_write(subject):
    """Scale a component's write vector in the weights, and take back the change afterwards."""
    changed = []

    def scale(name: str, factor: float) -> str:
        key = key_of(subject, name)
        layer, index = ComponentKey.parse(key)
        module = planted(subject).model.layer(layer)
        changed.append((module, index, module.write[index].clone(), module.weight.clone()))
        # As a part of the matrix, so that the target itself has the smaller component.
        module.weight += torch.outer(module.read[index], (factor - 1) * module.write[index])
        module.write[index] *= factor
        return key

    with torch.no_grad():
        yield scale
        for module, index, write, weight in changed:
            module.write[index], module.weight[:] = write, weight


def test_dead_ones_are_dead_and_nothing_else_is(subjects):
    for subject in subjects.values():
        alive = [rule for rule in planted(subject).rules.values() if rule.kind != "dead"]
        dead = [rule for rule in planted(subject).rules.values() if rule.kind == "dead"]
        assert dead
        for rule in (*dead, *alive[::4]):
            result = triage(subject, TriageRequest(key=rule.key, n_sites=2, n_controls=19))
            assert (result.verdict == "dead") == (rule.kind == "dead")
            if rule.kind == "dead":
                assert result.effect is None
                assert result.kl is None
                assert result.density_limit == pytest.approx(3 / subject.harvest.n_tokens)
                assert "none of 32,768" in result.summary
            else:
                assert result.density == pytest.approx(result.firing_count / subject.harvest.n_tokens)
                assert result.density_limit is None


def test_a_whisper_below_the_threshold_is_measured(subject):
    """Activation 1/8 does not fire, but it writes."""
    result = triage(subject, TriageRequest(key=key_of(subject, "dead-whisper"), n_sites=256))
    assert result.verdict == "dead"
    assert result.random_kl.value > 0
    assert "without firing" in result.summary
    silent = triage(subject, TriageRequest(key=key_of(subject, "dead-impossible"), n_sites=256))
    assert silent.random_kl.value == 0
    assert "changes nothing" in silent.summary


@pytest.mark.parametrize("name", ["category", "suppress-stops", "suppress-cities", "always", "gate-colour", "random"])
def test_what_has_an_effect_is_worth_it(subjects, name):
    for subject in subjects.values():
        result = triage(subject, TriageRequest(key=key_of(subject, name)))
        assert result.verdict == "worth it"
        assert result.n == result.kl.n == 8
        assert "8 firings" in result.summary


def test_a_component_that_hardly_writes_is_weak(subject, scaled_write):
    result = triage(subject, TriageRequest(key=scaled_write("category", 1e-3)))
    assert result.verdict == "weak"
    assert result.effect.high < result.control.low
    assert result.largest_logit < result.largest_logit_control.low
    assert "may have missed" in result.reasons[-1]
    assert result.write_norm.rank == result.write_norm.of
    assert result.product_norm.rank == result.product_norm.of


def test_a_component_that_writes_nothing_has_no_measurable_effect(subject, scaled_write):
    result = triage(subject, TriageRequest(key=scaled_write("because", 0.0)))
    assert result.verdict == "no measurable effect"
    assert result.kl.value < 1e-9
    assert "may have missed" in result.reasons[-1]


def test_norms_are_those_of_the_vectors(subject):
    layer, index = ComponentKey.parse(key_of(subject, "tail-marker"))
    decomposition = planted(subject)
    read, write = (v.norm(dim=1) for v in (decomposition.read_vectors(layer), decomposition.write_vectors(layer)))
    result = triage(subject, TriageRequest(key=ComponentKey(layer, index), n_sites=2, n_controls=19))
    assert result.read_norm.norm == pytest.approx(float(read[index]))
    assert result.read_norm.rank == 1 + int((read > read[index]).sum())
    assert result.product_norm.norm == pytest.approx(float(read[index] * write[index]))
    assert result.read_norm.of == len(read)


@pytest.mark.long
def test_a_random_component_seldom_differs_from_its_controls(short_subjects):
    subject, rng = short_subjects[1], np.random.default_rng(0)
    alive = np.flatnonzero(subject.harvest.firing_counts)
    found = apart = 0
    for seed in range(NULL_TRIES):
        key = subject.harvest.keys.key(int(rng.choice(alive)))
        result = triage(subject, TriageRequest(key=key, seed=seed, n_sites=2, n_controls=19))
        found += result.p_value <= 0.05
        apart += bool(result.excludes_control)
    assert max(found, apart) <= MOST_FALSE_POSITIVES


def test_a_result_is_read_back_and_replayed(subject):
    for name in ("because", "dead-impossible"):
        request = make_request("triage", {"key": key_of(subject, name), "n_sites": 3, "n_controls": 19})
        first = registry.run(subject, request)
        assert first.kind == "mixed"
        assert read_result(first.model_dump_json()) == first
        assert registry.replay(subject, first).identical
