"""Ablation against planted effects, against weights changed by hand, and where there is nothing to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from planted_subjects import (
    MOST_FALSE_POSITIVES,
    NULL_TRIES,
    assert_detected,
    dense_nulls,
    key_of,
    planted,
    seen_tokens,
)

from spd_tools.decompositions.planted import Rule
from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.experiments import Subject, make_request, read_result, registry
from spd_tools.experiments import intervention as interventions
from spd_tools.experiments.ablate import AblateRequest, AblateResult, ablate
from spd_tools.experiments.ablate_measure import places_of
from spd_tools.experiments.intervention import Intervention, kl_nats, logit_pair, measure, measure_each
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

GOLDEN = Path(__file__).parents[1] / "golden" / "spd"
RUNS = sorted(path.name for path in GOLDEN.iterdir())
SUPPRESSORS = ("suppress-stops", "suppress-after-and", "suppress-cities")


def words_of(effects: dict[str, float], sign: int) -> list[str]:
    return [word for word, effect in effects.items() if effect * sign > 0]


def listed(lines) -> set[str]:
    return {line.text for line in lines}


# --- what is there is found -------------------------------------------------------------------------------------------


def planted_effects(subject: Subject) -> list[tuple[Rule, int, list[str]]]:
    """Components that fire, with the words that they raise (1) and those that they lower (-1)."""
    fires = {str(record.key) for record in subject.harvest.components() if record.firing_count}
    rules = [rule for rule in planted(subject).rules.values() if rule.key in fires]
    pairs = [(rule, direction, words_of(rule.effects, direction)) for rule in rules for direction in (1, -1)]
    return [(rule, direction, words) for rule, direction, words in pairs if words]


def asked(rule: Rule, **parameters) -> AblateRequest:
    """Sites with activations of one sign: what a component does turns with it."""
    sign = "positive" if rule.kind == "polarity" else "any"
    return AblateRequest(key=rule.key, n_sites=6, limit=20, sign=sign, **parameters)


@pytest.fixture(scope="module")
def on_planted(short_subjects) -> list[tuple[str, Rule, int, list[str], AblateResult]]:
    """Every planted effect, asked for by name."""
    return [
        (f"{rule.name}, seed {seed}", rule, direction, words, ablate(subject, asked(rule, tokens=words, n_controls=39)))
        for seed, subject in short_subjects.items()
        for rule, direction, words in planted_effects(subject)
    ]


@pytest.mark.long
def test_every_planted_effect_is_listed(on_planted):
    for name, rule, direction, words, result in on_planted:
        found = listed(result.raises if direction > 0 else result.lowers)
        # Notes are read by later components, which then write words of their own.
        assert found >= set(words) if rule.notes else found == set(words), name


@pytest.mark.long
def test_planted_effects_stand_out_from_what_like_components_do(on_planted):
    assert_detected(
        (name, result.effect.value * direction > 0 and result.p_value <= 0.05 and result.excludes_control)
        for name, _, direction, _, result in on_planted
    )


@pytest.mark.parametrize("name", SUPPRESSORS)
def test_a_suppressor_lowers_exactly_its_words(subjects, name):
    for subject in subjects.values():
        rule = planted(subject).rule(name)
        result = ablate(subject, AblateRequest(key=rule.key, tokens=list(rule.effects), n_sites=20))
        assert listed(result.lowers) == set(rule.effects)
        assert result.raises == []
        assert result.effect.high < result.control.low
        assert result.p_value < 0.05
        assert f"lowers the {len(rule.effects)} tokens" in result.summary
        for line in result.tokens:
            per_unit = rule.effects[line.text]
            assert line.effect.value == pytest.approx(per_unit * result.activation.value, abs=1e-5)
            assert line.probability_after > line.probability_before


def test_few_sites_claim_no_suppression(subject):
    rule = planted(subject).rule("suppress-stops")
    for tokens in ([], list(rule.effects)):
        summary = ablate(subject, AblateRequest(key=rule.key, tokens=tokens, n_sites=19)).summary
        assert "19 sites are too few to claim suppression" in summary
        assert "lowers" not in summary


def assert_seldom_found(results: list[AblateResult]) -> None:
    kl_apart = [result.kl.low > result.kl_control.high for result in results]
    for found in (
        [result.p_value <= 0.05 for result in results],
        [result.kl_p_value <= 0.05 for result in results],
        [bool(result.excludes_control) for result in results],
        kl_apart,
    ):
        assert len(found) == NULL_TRIES
        assert sum(found) <= MOST_FALSE_POSITIVES


@pytest.mark.long
def test_nothing_is_found_where_nothing_was_planted(short_subjects):
    """Random components and random tokens: which of them is asked about is arbitrary."""
    subject = short_subjects[0]
    harvest, rng = subject.harvest, np.random.default_rng(0)
    alive, seen = np.flatnonzero(harvest.firing_counts), np.flatnonzero(harvest.vocabulary("input"))
    small = {"n_sites": 2, "n_controls": 39, "limit": 1}
    results = []
    for seed in range(NULL_TRIES):
        key = harvest.keys.key(int(rng.choice(alive)))
        tokens = rng.choice(seen, int(rng.integers(1, 5)), replace=False).tolist()
        results.append(ablate(subject, AblateRequest(key=key, tokens=tokens, seed=seed, **small)))
    assert_seldom_found(results)


@pytest.mark.long
def test_nothing_is_found_where_every_component_moves_every_token(dense):
    small = {"n_sites": 2, "n_controls": 39, "limit": 1}
    results = dense_nulls(
        dense, "ablate", lambda rng: {"tokens": seen_tokens(dense, rng, int(rng.integers(1, 5))), **small}
    )
    assert_seldom_found(results)
    # Not because nothing moves: most effects are larger than rounding by far, and many intervals do not hold 0.
    assert sum(abs(result.effect.value) > 1e-3 for result in results) > NULL_TRIES / 2
    assert sum(result.effect.low > 0 or result.effect.high < 0 for result in results) > NULL_TRIES / 4


def test_a_smaller_kl_than_others_have_is_no_finding(subject):
    names = ("random-rare", "weak-token")
    results = [ablate(subject, AblateRequest(key=key_of(subject, name), n_sites=4)) for name in names]
    weakest = min(results, key=lambda result: result.kl.value)
    assert weakest.kl.value < weakest.kl_control.value
    assert weakest.p_value > 0.5
    assert not weakest.excludes_control


# --- in words ---------------------------------------------------------------------------------------------------------


def test_tokens_that_rise_as_much_as_those_that_are_named_are_counted(subject):
    rule = planted(subject).rule("always")
    for limit in (3, 5, 16, 20):
        result = ablate(subject, AblateRequest(key=rule.key, n_sites=4, n_controls=19, limit=limit))
        assert len(result.raises) == min(limit, 16)
        assert result.raises_alike == 16 - len(result.raises)
        assert f"'{result.raises[2].text}' and 13 more as much" in result.summary
    one = ablate(subject, AblateRequest(key=rule.key, n_sites=4, n_controls=19, limit=1))
    assert f"most raises '{one.raises[0].text}' and 15 more as much" in one.summary


def test_tokens_that_rise_less_are_not_counted_as_equals(subject):
    """Three words that differ in how much they rise, or fewer than three, leave no one else as much."""
    for name in ("category", "because"):
        result = ablate(subject, AblateRequest(key=key_of(subject, name), n_sites=8, n_controls=19))
        values = [round(line.effect.value, 3) for line in result.raises]
        equals = sum(value == values[:3][-1] for value in values[3:])
        assert ("more as much" in result.summary) == (equals > 0)
        assert result.raises_alike == 0


def test_a_token_whose_interval_holds_zero_is_not_named(dense):
    named = unsure = 0
    for at in range(8):
        key = dense.harvest.keys.key(at)
        result = ablate(dense, AblateRequest(key=key, n_sites=20, n_controls=19, limit=3))
        said = result.summary.partition("; p is")[0]
        for lines, sign in ((result.raises, 1), (result.lowers, -1)):
            for line in lines:
                sure = sign * (line.effect.low if sign > 0 else line.effect.high) > 0
                named, unsure = named + sure, unsure + (not sure)
                assert (dense.shown(line.token_id) in said) == sure
    assert named
    assert unsure


def test_it_says_what_each_p_value_is_against(subject):
    key = key_of(subject, "category")
    plain = ablate(subject, AblateRequest(key=key, n_sites=4, n_controls=19)).summary
    assert plain.endswith("p is the rank of its KL among theirs (one-sided).")
    asked_for = ablate(subject, AblateRequest(key=key, n_sites=4, n_controls=19, tokens=["the", "fox"])).summary
    assert asked_for.count("p = ") == 2
    assert "The first p is the rank of its KL among theirs (one-sided), the second that of its logits" in asked_for


def test_fewer_controls_than_asked_for_are_said(subject):
    alive = int(np.count_nonzero(subject.harvest.firing_counts))
    result = ablate(subject, AblateRequest(key=key_of(subject, "category"), n_sites=2))
    assert len(result.controls) == result.kl_control.n == alive - 1
    assert f"{alive - 1} components of like density, all that can be compared" in result.summary
    assert f"controls of {result.matching.low:.2g} to {result.matching.high:.2g} times its density" in result.summary
    fewer = ablate(subject, AblateRequest(key=key_of(subject, "category"), n_sites=2, n_controls=19, tokens=["the"]))
    assert "all that can be compared" not in fewer.summary
    assert (fewer.token_matching.low < 0.5) == ("times its frequency" in fewer.summary)


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_removing_clamping_and_keeping_alone_move_logits_by_the_rule(subject):
    rule = planted(subject).rule("category")
    words = list(rule.effects)
    common = {"key": rule.key, "tokens": words, "n_sites": 5, "n_controls": 19}
    for mode, factor in (("remove", None), ("alone", None), ("clamp", 3.0)):
        result = ablate(subject, AblateRequest(**common, mode=mode, value=factor))
        moved = result.activation.value if factor is None else factor - result.activation.value
        for line in result.tokens:
            assert line.effect.value == pytest.approx(rule.effects[line.text] * moved, abs=1e-4)
    assert result.later_kl is None


def test_only_at_the_site_means_that_nothing_is_missing_later(subject):
    key = key_of(subject, "sentence-end")
    at_site, everywhere = (
        ablate(subject, AblateRequest(key=key, where=where, n_controls=19, seed=1)) for where in ("site", "everywhere")
    )
    assert at_site.kl == everywhere.kl
    assert at_site.later_kl.value == 0
    assert everywhere.later_kl.value > 0


def test_a_component_that_always_fires_is_silent_nowhere(subject):
    result = ablate(subject, AblateRequest(key=key_of(subject, "always"), limit=16, n_sites=8))
    assert listed(result.raises) == set(planted(subject).rule("always").effects)
    assert result.silent_kl is None
    silent = ablate(subject, AblateRequest(key=key_of(subject, "category"), n_sites=8))
    assert silent.silent_kl.value == 0


def test_signs_are_told_apart(subject):
    rule = planted(subject).rule("mood")
    up, down = words_of(rule.effects, 1), words_of(rule.effects, -1)
    for sign, raised, lowered in (("positive", up, down), ("negative", down, up)):
        result = ablate(subject, AblateRequest(key=rule.key, sign=sign, n_controls=19))
        assert listed(result.raises) == set(raised)
        assert listed(result.lowers) == set(lowered)
        assert result.n_negative == (0 if sign == "positive" else result.n)
    mixed = ablate(subject, AblateRequest(key=rule.key, n_controls=19))
    assert 0 < mixed.n_negative < mixed.n
    assert f"negative at {mixed.n_negative} of the sites" in mixed.summary


def test_silent_sites_of_something_silent(subject):
    result = ablate(subject, AblateRequest(key=key_of(subject, "dead-whisper-day"), base="silent", n_sites=64))
    assert result.kl.n == 64
    assert planted(subject).rule("always").key not in map(str, result.controls)
    assert result.silent_kl is None


def test_batches_do_not_matter(subject, monkeypatch):
    harvest, keys = subject.harvest, ["category", "because", "weekday", "late-position"]
    asked = [AblateRequest(key=key_of(subject, name), n_sites=9) for name in keys]
    arms = [(request.key, places_of(subject, request)) for request in asked]
    columns = np.arange(harvest.manifest.decomposition.vocab_size)
    change = Intervention("clamp", "site", 2.5)
    together = measure_each(subject, arms, change, columns)
    monkeypatch.setattr(interventions, "_NUMBERS_AT_ONCE", 1)
    for (key, places), one in zip(arms, together, strict=True):
        alone = measure(subject, key, places, change, columns)
        np.testing.assert_allclose(one.kl, alone.kl, atol=1e-6)
        np.testing.assert_allclose(one.logits, alone.logits, atol=1e-5)
        np.testing.assert_allclose(one.mean_logits, one.logits.mean(0), atol=1e-5)


# --- SPD runs ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=RUNS)
def golden(request, tmp_path_factory) -> Subject:
    folder = tmp_path_factory.mktemp("golden")
    ids = np.random.default_rng(0).integers(0, 96, (16, 16))
    pq.write_table(pa.table({"text": pa.array(ids.tolist(), pa.list_(pa.int64()))}), folder / "data.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder))
        wanted = HarvestRequest(
            run=str(GOLDEN / request.param), n_batches=None, batch_size=16, data=str(folder / "data.parquet")
        )
        harvest = Harvest.open(run_harvest(wanted, progress=False).folder)
    return Subject(harvest, load_decomposition(GOLDEN / request.param))


def by_hand(decomposition, tokens, layer, index, position, change: Intervention) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits with the module's output corrected by raw V and U in a hook; rows one by one."""
    V, U = decomposition.component_vectors(layer)
    module = decomposition.target.module.get_submodule(layer)
    bias = getattr(module, "bias", None)

    def run(row: torch.Tensor, at: int, *, nothing: bool = False, as_is: bool = False) -> torch.Tensor:
        def hook(_module, args, output):
            x = args[0]
            inner = V[x][..., index] if isinstance(module, torch.nn.Embedding) else x @ V[:, index]
            own = inner[..., None] * U[index]
            if nothing or change.mode == "alone":
                own = torch.zeros_like(own) if nothing else own
                return own if bias is None else own + bias
            wanted = 0.0 if change.mode == "remove" else change.value * U[index] / U[index].norm()
            changed = output - own + wanted
            if change.where == "site":
                mask = torch.arange(row.shape[1])[:, None] == at
                return torch.where(mask, changed, output)
            return changed

        if as_is:
            return decomposition._logits(row)
        with module.register_forward_hook(hook):
            return decomposition._logits(row)

    alone = change.mode == "alone"
    rows = list(zip(tokens.split(1), position.tolist(), strict=True))
    base = torch.cat([run(row, at, nothing=alone, as_is=not alone) for row, at in rows])
    return base, torch.cat([run(row, at) for row, at in rows])


@pytest.mark.parametrize(
    "change",
    [
        Intervention("remove", "everywhere"),
        Intervention("remove", "site"),
        Intervention("alone", "everywhere"),
        Intervention("clamp", "everywhere", 1.5),
        Intervention("clamp", "site", -2.0),
    ],
)
def test_logits_are_those_of_weights_changed_by_hand(golden, change):
    decomposition = golden.decomposition
    tokens = torch.from_numpy(np.asarray(golden.harvest.tokens()[:4], np.int64))
    position = torch.tensor([3, 7, 15, 0])
    with torch.no_grad():
        for layer in decomposition.layers:
            index = decomposition.layers[layer] // 2
            pair = logit_pair(decomposition, tokens, layer, torch.full((4,), index), position, change)
            for ours, theirs in zip(pair, by_hand(decomposition, tokens, layer, index, position, change), strict=True):
                torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-5)


def test_results_on_a_run_are_those_of_weights_changed_by_hand(golden):
    harvest = golden.harvest
    for layer in golden.decomposition.layers:
        key = next(r.key for r in harvest.components() if r.key.layer == layer and r.firing_count > 8)
        request = AblateRequest(key=key, n_sites=8, n_controls=19, tokens=[5])
        places, result = places_of(golden, request), ablate(golden, request)
        tokens = torch.from_numpy(places.contexts(harvest))
        position = torch.from_numpy(places.position)
        with torch.no_grad():
            base, changed = by_hand(golden.decomposition, tokens, layer, key.index, position, Intervention())
        p, q = base.double().softmax(-1), changed.double().softmax(-1)
        kl = (p * (p / q).log()).sum(-1)
        site = torch.arange(len(places)), position
        assert result.kl.value == pytest.approx(float(kl[site].mean()), abs=1e-7, rel=1e-4)
        later = torch.stack([row[at + 1 :].sum() for row, at in zip(kl, position.tolist(), strict=True)])
        assert result.later_kl.value == pytest.approx(float(later.mean()), abs=1e-6, rel=1e-3)
        brought = (base - changed)[site]
        expected = (brought[:, 5] - brought.median(-1).values).mean()
        assert result.tokens[0].effect.value == pytest.approx(float(expected), abs=2e-5)
        assert np.isfinite(result.later_kl.value)


def test_kl_is_never_negative_and_of_equal_logits_nothing():
    logits = torch.randn(3, 5, 100, generator=torch.Generator().manual_seed(0))
    assert (kl_nats(logits, logits) == 0).all()
    assert (kl_nats(logits, logits + 1e-7) >= 0).all()


# --- what is asked wrongly, and asked again ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "clamp"}, "give value"),
        ({"value": 2.0}, "leave it out"),
        ({"mode": "alone", "where": "site"}, "whole rows"),
        ({"tokens": [3, 3]}, "twice"),
        ({"tokens": ["no such word"]}, "vocabulary"),
        ({"n_controls": 18}, "n_controls of at least 19"),
        ({"sign": "negative"}, "other sign"),
        ({"sign": "negative", "base": "silent"}, "by sign"),
    ],
)
def test_what_cannot_be_done_is_refused(subject, changes, message):
    request = AblateRequest(**({"key": key_of(subject, "category"), "n_sites": 2, "n_controls": 19} | changes))
    with pytest.raises(SpdToolsError, match=message):
        ablate(subject, request)


def test_a_dead_component_has_no_sites(subject):
    with pytest.raises(SpdToolsError, match="knows no firing"):
        ablate(subject, AblateRequest(key=key_of(subject, "dead-impossible")))


def test_unknown_components_are_refused(subject):
    with pytest.raises(SpdToolsError):
        ablate(subject, AblateRequest(key=ComponentKey("h.0.mlp.down_proj", 999)))


@pytest.mark.parametrize("changes", [{}, {"mode": "clamp", "value": 1, "tokens": ["the", 5]}, {"mode": "alone"}])
def test_a_result_is_read_back_and_replayed(subject, changes):
    request = make_request("ablate", {"key": key_of(subject, "because"), "n_sites": 3, "n_controls": 19, **changes})
    first = registry.run(subject, request)
    again = read_result(first.model_dump_json())
    assert again == first
    replay = registry.replay(subject, again)
    assert replay.identical
    assert replay.holds


def test_with_few_sites_nothing_is_listed(subject):
    result = ablate(subject, AblateRequest(key=key_of(subject, "because"), n_sites=3, n_controls=19))
    assert result.raises is None
    assert result.lowers is None
