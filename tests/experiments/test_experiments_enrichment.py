"""Token enrichment: rate and size per token against plain counting, and calibrated under the null."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_subjects import key_of, planted, token_of
from reference_store import random_input, write_reference_store

from spd_tools.decompositions.planted import load_planted
from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, read_result, replay, run
from spd_tools.experiments.enrichment import EnrichmentResult, binomial_test
from spd_tools.experiments.statistics import holm
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.store.harvest import Harvest
from spd_tools.store.reader import open_harvest


def enrichment(subject: Subject, name: str, **parameters) -> EnrichmentResult:
    found = run(subject, make_request("enrichment", {"key": key_of(subject, name), **parameters}))
    assert isinstance(found, EnrichmentResult)
    return found


def test_every_token_trigger_is_recovered(subjects):
    tried = found_ = 0
    for subject in subjects.values():
        counts = subject.harvest.vocabulary("input")
        for rule in planted(subject).rules.values():
            if rule.kind not in ("token", "category", "tail_marker", "duplicate") or "-after-" in rule.name:
                continue
            fires = {word for word in rule.tokens if rule.fires([token_of(subject, word)], 0)}
            frequent = {word for word in fires if counts[token_of(subject, word)] >= 10}
            if not frequent:
                continue
            found = enrichment(subject, rule.name, limit=len(rule.tokens))
            leading = [token for token in found.strongest if token.p_value <= 0.05]
            assert {token.text for token in leading} <= fires
            tried += len(frequent)
            found_ += sum(token.text in frequent for token in leading)
            assert found.excludes_control
            assert found.p_value <= 0.05
    assert tried > 100
    assert found_ >= 0.95 * tried


def test_the_extreme_member_of_a_tail_marker_is_rare_and_large(subject):
    rule = planted(subject).rule("tail-marker")
    found = enrichment(subject, "tail-marker")
    rare = next(token for token in found.strongest if token.text == rule.tokens[-1])
    assert rare.rate.value == 1
    assert rare.size.value == 10
    assert rare.mean == 10
    assert rare.size_elsewhere < 3
    common = next(token for token in found.strongest if token.text == rule.tokens[0])
    assert common.total > rare.total


def test_numbers_are_those_of_plain_counting(subject):
    key = key_of(subject, "plain-act")
    harvest = subject.harvest
    tokens = harvest.tokens().reshape(-1)
    log = harvest.activations(key)
    values = np.zeros(len(tokens))
    fires = np.zeros(len(tokens), bool)
    fires[log.token] = True
    values[log.token] = np.abs(log.values[harvest.ranking_kind])
    for token in enrichment(subject, "plain-act", limit=30).strongest:
        here = tokens == token.token_id
        assert (token.count, token.total) == (fires[here].sum(), here.sum())
        assert token.rate.value == fires[here].mean()
        assert token.rate_elsewhere == pytest.approx(fires[~here].mean())
        assert token.mean == pytest.approx(values[here].mean())
        assert token.mean_elsewhere == pytest.approx(values[~here].mean())
        if token.count:
            assert token.size.value == pytest.approx(values[here & fires].mean())
        else:
            assert token.size is None
            assert token.mean == 0


def test_dense_components_have_silent_tokens(tmp_path):
    made_up = random_input(0, rows=200)
    fires = made_up.activations[made_up.gating]
    always = fires.shape[-1] - 2
    fires[..., always] = np.where(made_up.tokens == 3, 0, fires[..., always])
    write_reference_store(tmp_path / "made-up", made_up)
    harvest = Harvest.open(tmp_path / "made-up")
    request = make_request("enrichment", {"key": str(harvest.keys.key(always))})
    found = run(Subject(harvest), request)
    assert [(token.token_id, token.count, token.rate.value) for token in found.silent] == [(3, 0, 0.0)]
    assert found.silent[0].p_value <= 0.05
    assert found.silent[0].size is None
    assert found.silent[0].mean == 0


def test_a_component_that_is_always_on_goes_with_no_token(subject):
    found = enrichment(subject, "always")
    assert found.silent == []
    assert found.n_enriched == 0
    assert found.p_value == 1
    assert not found.excludes_control


def test_sparse_components_are_silent_on_most_tokens(subject):
    assert enrichment(subject, "category").silent is None


def test_single_sightings_do_not_lead(subject):
    found = enrichment(subject, "random", limit=200)
    assert found.strongest[0].total > 20


def test_a_component_that_never_fired_is_said(subject):
    with pytest.raises(SpdToolsError, match="never fired"):
        enrichment(subject, "dead-impossible")


def test_at_most_18_of_200_null_tries_reach_5_percent():
    """The smallest corrected p-value of all tokens, as the leading one is chosen among them."""
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        tokens = rng.zipf(1.3, 5000) % 200
        fires = rng.random(5000) < rng.choice([0.01, 0.1, 0.6])
        total = np.bincount(tokens)
        count = np.bincount(tokens[fires], minlength=len(total))
        occurs = total > 0
        p_values = holm(binomial_test(count[occurs], total[occurs], fires.mean()).tolist())
        seen += min(p_values) <= 0.05
    assert seen <= 18


def test_95_percent_of_enriched_tokens_are_found():
    seen = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        tokens = rng.integers(0, 100, 5000)
        fires = rng.random(5000) < np.where(tokens == 7, 0.6, 0.1)
        total = np.bincount(tokens)
        p_values = holm(binomial_test(np.bincount(tokens[fires], minlength=100), total, fires.mean()).tolist())
        seen += p_values[7] <= 0.05
    assert seen >= 95


@given(st.integers(0, 40), st.integers(1, 40), st.floats(0.01, 0.99))
def test_the_test_sums_exact_tails(count, extra, rate):
    total = count + extra - 1
    total = max(total, 1)
    count = min(count, total)
    weights = [math.comb(total, k) * rate**k * (1 - rate) ** (total - k) for k in range(total + 1)]
    expected = min(1.0, 2 * min(sum(weights[: count + 1]), sum(weights[count:])))
    assert binomial_test(np.array([count]), np.array([total]), rate)[0] == pytest.approx(expected, rel=1e-6)


def test_results_replay_and_survive_json(subject):
    found = enrichment(subject, "weekday", limit=3)
    assert len(found.strongest) == 3
    assert read_result(found.model_dump_json()) == found
    assert replay(subject, found).identical


def test_without_logged_firings_the_rate_alone_leads(tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))
    made = run_harvest(HarvestRequest(run="planted", n_batches=8, batch_size=32, log_tokens=0), progress=False)
    subject = Subject(open_harvest(made.run_id))
    decomposition = load_planted(0)
    rule = decomposition.rule("city-0")
    assert not len(subject.harvest.activations(rule.key).token)
    found = run(subject, make_request("enrichment", {"key": rule.key}))
    assert found.strongest[0].text.strip() == rule.tokens[0]
