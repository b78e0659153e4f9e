"""Values and gradients of every loss against the slow version, in f64."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training.slow_losses import BATCH, LAYERS, SEQ, VOCAB, ScriptedNoise, Slow, spread, subset_rule, tiny_model

from spd_tools.training.config import parse_training_config
from spd_tools.training.distributed import World
from spd_tools.training.loss_configs import CLASSES
from spd_tools.training.losses import build_loss
from spd_tools.training.step import WeightedLoss, backward_step

TOKENS = torch.randint(VOCAB, (BATCH, SEQ), generator=torch.Generator().manual_seed(5))
COEFF = 0.7
PGD = {"init": "random", "step_size": 0.2, "n_steps": 2, "mask_scope": "unique_per_datapoint"}


def everywhere(_name, _p):
    return True


def config_of(*entries, **fields):
    return parse_training_config(
        {
            "pretrained_model_class": "x.Y",
            "module_info": [{"module_pattern": "x", "C": 1}],
            "ci_config": {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [2]},
            "lr_schedule": {"start_val": 1e-3},
            "steps": 11,
            "batch_size": 2,
            "loss_metric_configs": [{"coeff": COEFF, **entry} for entry in entries],
        }
        | fields,
        "test",
    )


def fast(model, entry, noise, step=0, **fields):
    """Loss and gradients of one entry as training computes them."""
    config = config_of(entry, **fields)
    losses = [WeightedLoss(entry["classname"], COEFF, build_loss(config.loss_metric_configs[0]))]
    values = backward_step(model, losses, config, TOKENS, noise=noise, step=step, world=World())
    parameters = model.component_parameters() + model.ci_parameters()
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return values[entry["classname"]], gradients, losses[0].loss


def check(model, entry, slow_loss, noise, **fields):
    value, gradients, loss = fast(model, entry, noise, **fields)
    expected = slow_loss(noise.drawn)
    torch.testing.assert_close(value.double(), expected.detach(), rtol=1e-6, atol=1e-12)
    parameters = model.component_parameters() + model.ci_parameters()
    slow_gradients = torch.autograd.grad(COEFF * expected, parameters, allow_unused=True)
    for ours, theirs in zip(gradients, slow_gradients, strict=True):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-8, atol=1e-12)
    return loss


@pytest.fixture
def model():
    return tiny_model()


def test_the_model_has_importances_of_all_three_kinds(model):
    pre = torch.cat([x.flatten() for x in Slow(model, TOKENS).pre.values()])
    assert (pre < 0).any()
    assert ((pre > 0) & (pre < 1)).any()
    assert (pre > 1).any()


def test_faithfulness(model):
    check(model, {"classname": "FaithfulnessLoss"}, lambda _: Slow(model, TOKENS).faithfulness(), ScriptedNoise(0))


@pytest.mark.parametrize(
    ("fields", "step", "p", "beta"),
    [
        ({"pnorm": 2.0}, 3, 2.0, 0.0),
        ({"pnorm": 0.9, "beta": 0.5}, 3, 0.9, 0.5),
        ({"pnorm": 2.0, "p_anneal_start_frac": 0.2, "p_anneal_final_p": 0.4, "p_anneal_end_frac": 0.6}, 4, 1.2, 0.0),
        ({"pnorm": 2.0, "p_anneal_start_frac": 0.0, "p_anneal_final_p": 0.4, "p_anneal_end_frac": 0.5}, 9, 0.4, 0.0),
    ],
)
def test_importance_minimality(model, fields, step, p, beta):
    entry = {"classname": "ImportanceMinimalityLoss", **fields}
    check(model, entry, lambda _: Slow(model, TOKENS).importance(p, beta), ScriptedNoise(0), step=step)


def pairs(drawn, use_delta):
    """Draws of one sample on whole batches: 1 - s (and d) layer by layer."""
    step = 2 if use_delta else 1
    s = {name: 1 - drawn[step * i] for i, name in enumerate(LAYERS)}
    return s, {name: drawn[2 * i + 1] for i, name in enumerate(LAYERS)} if use_delta else {}


@pytest.mark.parametrize("use_delta", [True, False])
def test_stochastic(model, use_delta):
    check(
        model,
        {"classname": "StochasticReconLoss"},
        lambda drawn: Slow(model, TOKENS).source_kl(*pairs(drawn, use_delta), everywhere),
        ScriptedNoise(1),
        use_delta_component=use_delta,
    )


def test_samples_are_averaged(model):
    def slow(drawn):
        one = Slow(model, TOKENS)
        return (
            one.source_kl(*pairs(drawn[:6], True), everywhere) + one.source_kl(*pairs(drawn[6:], True), everywhere)
        ) / 2

    check(model, {"classname": "StochasticReconLoss"}, slow, ScriptedNoise(1), n_mask_samples=2)


def test_binomial_sampling_jitters_the_importances_and_tosses_coins(model):
    def slow(drawn):
        jitter = dict(zip(LAYERS, drawn[:3], strict=True))
        s, d = pairs(drawn[3:], True)
        assert all(set(x.unique().tolist()) <= {0.0, 1.0} for x in s.values())
        return Slow(model, TOKENS, jitter).source_kl(s, d, everywhere)

    check(model, {"classname": "StochasticReconLoss"}, slow, ScriptedNoise(1), sampling="binomial")


def test_stochastic_layerwise(model):
    def slow(drawn):
        s, d = pairs(drawn, True)
        one = Slow(model, TOKENS)
        return sum(one.source_kl(s, d, lambda name, _p, only=only: name == only) for only in LAYERS) / len(LAYERS)

    check(model, {"classname": "StochasticReconLayerwiseLoss"}, slow, ScriptedNoise(2))


@pytest.mark.parametrize("use_delta", [True, False])
def test_stochastic_subset(model, use_delta):
    def slow(drawn):
        routed = subset_rule(drawn[0], drawn[1])
        s, d = pairs(drawn[2:], use_delta)
        s = {name: spread(x, routed, name) for name, x in s.items()}
        d = {name: spread(x, routed, name) for name, x in d.items()}
        return Slow(model, TOKENS).source_kl(s, d, routed)

    check(model, {"classname": "StochasticReconSubsetLoss"}, slow, ScriptedNoise(3), use_delta_component=use_delta)


def test_ci_masked(model):
    def slow(_):
        one = Slow(model, TOKENS)
        return one.kl(lambda name, p: one.weight(name, one.g[name][p], 0.0))

    check(model, {"classname": "CIMaskedReconLoss"}, slow, ScriptedNoise(4))


def test_ci_masked_layerwise(model):
    def slow(_):
        one = Slow(model, TOKENS)
        return sum(
            one.kl(lambda name, p, only=only: one.weight(name, one.g[name][p], 0.0) if name == only else None)
            for only in LAYERS
        ) / len(LAYERS)

    check(model, {"classname": "CIMaskedReconLayerwiseLoss"}, slow, ScriptedNoise(4))


def test_ci_masked_subset(model):
    def slow(drawn):
        one, routed = Slow(model, TOKENS), subset_rule(drawn[0], drawn[1])
        return one.kl(lambda name, p: one.weight(name, one.g[name][p], 0.0) if routed(name, p) else None)

    check(model, {"classname": "CIMaskedReconSubsetLoss"}, slow, ScriptedNoise(4))


def test_unmasked(model):
    def slow(_):
        one = Slow(model, TOKENS)
        return one.kl(lambda name, _p: one.weight(name, torch.ones(LAYERS[name]), 0.0))

    check(model, {"classname": "UnmaskedReconLoss"}, slow, ScriptedNoise(4))


def split(sources):
    return {name: x[..., :-1] for name, x in sources.items()}, {name: x[..., -1:] for name, x in sources.items()}


def slow_ascent(one, sources, routed, n_steps, step_size):
    """Sources [batch or 1, seq or 1, C + 1] after sign ascent; importances and weights are constants."""
    g = {name: x.detach() for name, x in one.g.items()}
    for _ in range(n_steps):
        leaves = {name: x.detach().clone().requires_grad_() for name, x in sources.items()}
        whole = {name: x.expand(BATCH, SEQ, -1) for name, x in leaves.items()}
        loss = one.source_kl(*split(whole), routed, g)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
            moved = leaf.detach() if gradient is None else leaf.detach() + step_size * gradient.sign()
            sources[name] = moved.clamp(0, 1)
    return {name: x.expand(BATCH, SEQ, -1) for name, x in sources.items()}


@pytest.mark.parametrize("mask_scope", ["unique_per_datapoint", "shared_across_batch"])
@pytest.mark.parametrize("init", ["random", "zeroes"])
def test_pgd(model, mask_scope, init):
    def slow(drawn):
        shape = (BATCH, SEQ) if mask_scope == "unique_per_datapoint" else (1, 1)
        zeros = {name: torch.zeros(*shape, c + 1, dtype=torch.float64) for name, c in LAYERS.items()}
        start = dict(zip(LAYERS, drawn, strict=True)) if init == "random" else zeros
        assert all(x.shape[:-1] == shape for x in start.values())
        one = Slow(model, TOKENS)
        return one.source_kl(*split(slow_ascent(one, start, everywhere, 2, 0.2)), everywhere)

    check(model, {"classname": "PGDReconLoss"} | PGD | {"init": init, "mask_scope": mask_scope}, slow, ScriptedNoise(6))


def test_pgd_from_ones_is_unmasked_when_nothing_is_ascended(model):
    entry = {"classname": "PGDReconLoss"} | PGD | {"init": "ones", "n_steps": 0}

    def slow(_):
        one = Slow(model, TOKENS)
        return one.kl(lambda name, _p: one.weight(name, one.g[name][_p] * 0 + 1, 0.0))

    check(model, entry, slow, ScriptedNoise(6), use_delta_component=False)


def test_pgd_layerwise(model):
    def slow(drawn):
        one, total = Slow(model, TOKENS), 0
        for only, start in zip(LAYERS, drawn, strict=True):
            rest = {name: torch.zeros(BATCH, SEQ, c + 1, dtype=torch.float64) for name, c in LAYERS.items()}

            def routed(name, _p, only=only):
                return name == only

            total += one.source_kl(*split(slow_ascent(one, rest | {only: start}, routed, 2, 0.2)), routed)
        return total / len(LAYERS)

    check(model, {"classname": "PGDReconLayerwiseLoss"} | PGD, slow, ScriptedNoise(6))


def test_pgd_subset(model):
    def slow(drawn):
        one, routed = Slow(model, TOKENS), subset_rule(drawn[0], drawn[1])
        start = dict(zip(LAYERS, drawn[2:], strict=True))
        return one.source_kl(*split(slow_ascent(one, start, routed, 2, 0.2)), routed)

    check(model, {"classname": "PGDReconSubsetLoss"} | PGD, slow, ScriptedNoise(6))


SCOPES = {"single_source": (1, 1), "broadcast_across_batch": (1, SEQ), "per_batch_per_position": (BATCH, SEQ)}


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("n_warmup_steps", [0, 1])
def test_persistent_pgd(model, scope, n_warmup_steps):
    entry = {
        "classname": "PersistentPGDReconLoss",
        "optimizer": {"type": "sign", "step_size": 0.1},
        "scope": {"type": scope},
        "n_warmup_steps": n_warmup_steps,
    }
    noise = ScriptedNoise(7)

    def slow(drawn):
        start = dict(zip(LAYERS, drawn, strict=True))
        assert all(x.shape[:-1] == SCOPES[scope] for x in start.values())
        one = Slow(model, TOKENS)
        return one.source_kl(*split(slow_ascent(one, start, everywhere, n_warmup_steps, 0.1)), everywhere)

    loss = check(model, entry, slow, noise)
    expected = slow_ascent(
        Slow(model, TOKENS), dict(zip(LAYERS, noise.drawn, strict=True)), everywhere, n_warmup_steps + 1, 0.1
    )
    for name, sources in loss.state_dict()["sources"].items():
        torch.testing.assert_close(sources.expand(BATCH, SEQ, -1), expected[name])


def test_persistent_pgd_subset(model):
    entry = {
        "classname": "PersistentPGDReconSubsetLoss",
        "optimizer": {"type": "sign", "step_size": 0.1},
        "scope": {"type": "broadcast_across_batch"},
    }

    def slow(drawn):
        one, routed = Slow(model, TOKENS), subset_rule(drawn[0], drawn[1])
        sources = {name: x.expand(BATCH, SEQ, -1) for name, x in zip(LAYERS, drawn[2:], strict=True)}
        return one.source_kl(*split(sources), routed)

    check(model, entry, slow, ScriptedNoise(7))


def test_persistent_adam_ascends_as_torchs_adam_does(model):
    entry = {
        "classname": "PersistentPGDReconLoss",
        "optimizer": {"type": "adam", "lr_schedule": {"start_val": 0.05}, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3},
        "scope": {"type": "single_source"},
    }
    noise = ScriptedNoise(8)
    config = config_of(entry)
    losses = [WeightedLoss(entry["classname"], 1.0, build_loss(config.loss_metric_configs[0]))]
    for step in range(3):
        backward_step(model, losses, config, TOKENS, noise=noise, step=step, world=World())

    leaves = {name: x.clone().requires_grad_() for name, x in zip(LAYERS, noise.drawn, strict=True)}
    adam = torch.optim.Adam(leaves.values(), lr=0.05, betas=(0.5, 0.9), eps=1e-3, maximize=True)
    one = Slow(model, TOKENS)
    for _ in range(3):
        adam.zero_grad()
        one.source_kl(*split({name: x.expand(BATCH, SEQ, -1) for name, x in leaves.items()}), everywhere).backward(
            inputs=list(leaves.values()), retain_graph=True
        )
        adam.step()
        with torch.no_grad():
            for leaf in leaves.values():
                leaf.clamp_(0, 1)
    for name, sources in losses[0].loss.state_dict()["sources"].items():
        torch.testing.assert_close(sources, leaves[name].detach(), rtol=1e-7, atol=1e-9)


def test_losses_of_a_step_add_up(model):
    names = ("FaithfulnessLoss", "CIMaskedReconLoss", "UnmaskedReconLoss")
    config = config_of(*({"classname": name} for name in names))
    weights = [0.3, 2.0, 0.5]
    losses = [
        WeightedLoss(entry.classname, weight, build_loss(entry))
        for entry, weight in zip(config.loss_metric_configs, weights, strict=True)
    ]
    backward_step(model, losses, config, TOKENS, noise=ScriptedNoise(0), step=0, world=World())
    together = [p.grad.clone() for p in model.component_parameters()]
    apart = [torch.zeros_like(x) for x in together]
    for name, weight in zip(names, weights, strict=True):
        for parameter in model.component_parameters() + model.ci_parameters():
            parameter.grad = None
        _, gradients, _ = fast(model, {"classname": name}, ScriptedNoise(0))
        apart = [a + g * weight / COEFF for a, g in zip(apart, gradients, strict=False)]
    for a, b in zip(apart, together, strict=True):
        torch.testing.assert_close(a, b)


def test_every_loss_is_tested_here():
    text = Path(__file__).read_text()
    assert [name for name in CLASSES if f'"{name}"' not in text] == []
