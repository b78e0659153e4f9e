"""d.run: masks, clamps and the delta of uncovered weights."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spd_run_builder import (
    D_MLP,
    D_MODEL,
    SMALL_INFO,
    SMALL_LAYERS,
    VOCAB,
    build_run,
    small_run,
    some_tokens,
    write_json_file,
)

from spd_tools.decompositions.spd.loader import load_spd_run
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey

TOKENS = some_tokens()
LAYER = "h.0.mlp.c_fc"
SEEDS = st.integers(0, 10_000)
SLOW_FIXTURE = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def run_with_everything():
    """Embedding, linear layers and identity maps under a layerwise mlp."""
    layers = {
        "wte": (VOCAB, D_MODEL, 4),
        **SMALL_LAYERS,
        "h.1.mlp.down_proj.pre_identity": (D_MLP, D_MLP, 3),
    }
    ci = {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [3]}
    return build_run(ci, [("wte", 4), *SMALL_INFO], layers, identity_module_info=[("h.1.mlp.down_proj", 3)])


@pytest.fixture(scope="module")
def decomposition(run_with_everything, tmp_path_factory):
    return load_spd_run(run_with_everything.write(tmp_path_factory.mktemp("spd") / "run"))


def ones(decomposition, tokens=TOKENS):
    return {layer: torch.ones(*tokens.shape, c) for layer, c in decomposition.layers.items()}


def close(actual, expected, atol=1e-5):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


def test_without_changes_it_is_a_call(decomposition):
    called, run = decomposition(TOKENS), decomposition.run(TOKENS)
    assert torch.equal(called.logits, run.logits)
    for kind in decomposition.kinds:
        for layer in decomposition.layers:
            assert torch.equal(called.activations[kind][layer], run.activations[kind][layer])


def test_identity_layers_come_last_with_their_own_size(decomposition):
    assert list(decomposition.layers.items())[-1] == ("h.1.mlp.down_proj.pre_identity", 3)


@SLOW_FIXTURE
@given(seed=SEEDS, chosen=st.sets(st.integers(0, 5)))
def test_masks_of_ones_with_the_delta_change_nothing(decomposition, seed, chosen):
    tokens = some_tokens(seed=seed)
    masks = {layer: mask for i, (layer, mask) in enumerate(ones(decomposition, tokens).items()) if i in chosen}
    close(decomposition.run(tokens, masks=masks).logits, decomposition(tokens).logits)


@SLOW_FIXTURE
@given(seed=SEEDS, delta=st.floats(-1, 2), layer=st.sampled_from([*SMALL_LAYERS, "wte"]))
def test_logits_alone_are_those_of_a_run(decomposition, seed, delta, layer):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(*TOKENS.shape, decomposition.layers[layer], generator=generator)
    run = decomposition.run(TOKENS, {layer: mask}, delta=delta)
    assert torch.equal(decomposition.run_logits(TOKENS, {layer: mask}, delta=delta), run.logits)


@SLOW_FIXTURE
@given(seed=SEEDS, delta=st.floats(-1, 2), layer=st.sampled_from([*SMALL_LAYERS, "wte"]))
def test_a_layer_computes_the_formula(decomposition, run_with_everything, seed, delta, layer):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(*TOKENS.shape, decomposition.layers[layer], generator=generator)
    outputs = []
    module = decomposition.target.module.get_submodule(layer)
    with module.register_forward_hook(lambda _module, args, output: outputs.append((args[0], output))):
        decomposition.run(TOKENS, masks={layer: mask}, delta=delta)
    (x, output), run = outputs[0], run_with_everything
    v, u = run.component(layer, "V"), run.component(layer, "U")
    weight = run.state[f"target_model.{layer}.weight"]
    if layer == "wte":
        expected = (v[x] * mask) @ u + delta * (weight - v @ u)[x]
    else:
        expected = torch.einsum("bsd,dc,bsc,co->bso", x, v, mask, u) + delta * x @ (weight - (v @ u).T).T
    close(output, expected)


def test_identity_map_computes_the_formula(decomposition, run_with_everything):
    layer, run = "h.1.mlp.down_proj.pre_identity", run_with_everything
    v, u = run.component(layer, "V"), run.component(layer, "U")
    mask = torch.rand(*TOKENS.shape, 3)
    x = decomposition.forward_parts(TOKENS).inputs[layer]
    read = []
    down_proj = decomposition.target.module.get_submodule("h.1.mlp.down_proj")
    with down_proj.register_forward_hook(lambda _module, args, _output: read.append(args[0])):
        decomposition.run(TOKENS, masks={layer: mask}, delta=0.5)
    close(read[0], ((x @ v) * mask) @ u + 0.5 * x @ (torch.eye(D_MLP) - v @ u))


def test_identity_weight_delta(decomposition, run_with_everything):
    layer, run = "h.1.mlp.down_proj.pre_identity", run_with_everything
    covered = (run.component(layer, "V") @ run.component(layer, "U")).T
    close(decomposition.weight_delta(layer), torch.eye(D_MLP) - covered)


@SLOW_FIXTURE
@given(seed=SEEDS, layer=st.sampled_from([*SMALL_LAYERS, "wte", "h.1.mlp.down_proj.pre_identity"]))
def test_clamping_to_its_own_activations_changes_nothing(decomposition, seed, layer):
    tokens = some_tokens(seed=seed)
    plain = decomposition(tokens)
    values = plain.activations["component_activation"][layer]
    clamp = {f"{layer}:{i}": values[..., i] for i in range(values.shape[-1])}
    close(decomposition.run(tokens, clamp=clamp).logits, plain.logits)


def test_a_clamped_component_reports_the_value(decomposition):
    per_position = torch.linspace(-2, 2, TOKENS.numel()).view(TOKENS.shape)
    out = decomposition.run(TOKENS, clamp={f"{LAYER}:2": 1.5, ComponentKey(LAYER, 4): per_position})
    reported = out.activations["component_activation"][LAYER]
    close(reported[..., 2], torch.full(TOKENS.shape, 1.5))
    close(reported[..., 4], per_position)
    untouched = decomposition(TOKENS).activations["component_activation"][LAYER]
    close(reported[..., 3], untouched[..., 3])


def test_clamping_to_zero_is_masking_out(decomposition):
    mask = torch.ones(*TOKENS.shape, decomposition.layers[LAYER])
    mask[..., 2] = 0
    masked = decomposition.run(TOKENS, masks={LAYER: mask})
    clamped = decomposition.run(TOKENS, clamp={f"{LAYER}:2": 0.0})
    close(clamped.logits, masked.logits)
    assert not torch.allclose(masked.logits, decomposition(TOKENS).logits)


def test_a_clamp_wins_over_the_mask(decomposition):
    masks = {LAYER: torch.zeros(*TOKENS.shape, decomposition.layers[LAYER])}
    reported = decomposition.run(TOKENS, masks=masks, clamp={f"{LAYER}:2": 1.5}).activations["component_activation"]
    close(reported[LAYER][..., 2], torch.full(TOKENS.shape, 1.5))
    assert not reported[LAYER][..., :2].any()


def test_masked_activations_are_reported_and_later_layers_see_the_change(decomposition):
    mask = torch.full((*TOKENS.shape, decomposition.layers[LAYER]), 0.5)
    plain, out = decomposition(TOKENS), decomposition.run(TOKENS, masks={LAYER: mask}, delta=0.0)
    kind = "component_activation"
    close(out.activations[kind][LAYER], 0.5 * plain.activations[kind][LAYER])
    assert not torch.allclose(out.activations[kind]["h.1.mlp.c_fc"], plain.activations[kind]["h.1.mlp.c_fc"])
    # What decides the importance of the changed layer itself is what it read, and that is as before.
    close(out.activations["causal_importance"][LAYER], plain.activations["causal_importance"][LAYER])


def test_a_component_that_writes_nothing_can_be_clamped(tmp_path):
    run = small_run()
    run.component(LAYER, "U")[2] = 0
    decomposition = load_spd_run(run.write(tmp_path))
    out = decomposition.run(TOKENS, clamp={f"{LAYER}:2": 3.0})
    close(out.logits, decomposition(TOKENS).logits)


def test_gradients_reach_masks_and_clamps(decomposition):
    masks = {layer: mask.requires_grad_() for layer, mask in ones(decomposition).items()}
    value = torch.tensor(0.5, requires_grad=True)
    out = decomposition.run(TOKENS, masks=masks, clamp={f"{LAYER}:2": value}, delta=0.0)
    out.logits.square().sum().backward()
    assert value.grad is not None
    assert value.grad != 0
    assert all(mask.grad is not None and mask.grad.abs().sum() > 0 for mask in masks.values())


def test_gradient_of_a_mask_is_the_finite_difference(decomposition):
    def loss(factor):
        masks = {LAYER: torch.ones(*TOKENS.shape, 6) * factor}
        return decomposition.run(TOKENS, masks=masks).logits.square().mean()

    factor = torch.tensor(0.7, requires_grad=True)
    loss(factor).backward()
    difference = (loss(torch.tensor(0.72)) - loss(torch.tensor(0.68))) / 0.04
    torch.testing.assert_close(factor.grad, difference, atol=1e-3, rtol=2e-2)


def test_activations_of_a_call_can_mask_a_differentiable_run(decomposition):
    masks = dict(decomposition(TOKENS).activations["causal_importance"])
    masks[LAYER] = masks[LAYER].clone().requires_grad_()
    decomposition.run(TOKENS, masks=masks).logits.sum().backward()
    assert masks[LAYER].grad is not None


def test_the_target_is_as_before_after_a_run_that_fails(decomposition):
    before = decomposition(TOKENS).logits
    with pytest.raises(RuntimeError):
        decomposition.run(TOKENS, masks={LAYER: torch.ones(*TOKENS.shape, 6)}, delta=torch.ones(5))
    assert torch.equal(decomposition(TOKENS).logits, before)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"masks": {"h.9": torch.ones(3, 7, 6)}}, "no layer 'h.9'"),
        ({"masks": {LAYER: torch.ones(3, 7, 5)}}, r"mask of layer h.0.mlp.c_fc has shape \[3, 7, 5\]"),
        ({"clamp": {f"{LAYER}:6": 1.0}}, "no component h.0.mlp.c_fc:6"),
        ({"clamp": {"h.9:0": 1.0}}, "no layer 'h.9'"),
        ({"clamp": {f"{LAYER}:1": torch.ones(3)}}, r"clamped onto h.0.mlp.c_fc:1 has shape \[3\]"),
    ],
)
def test_unfit_changes_are_named(decomposition, arguments, complaint):
    with pytest.raises(SpdToolsError, match=complaint):
        decomposition.run(TOKENS, **arguments)


@pytest.mark.parametrize(
    ("tokens", "complaint"),
    [
        (torch.zeros(4, dtype=torch.int64), r"\[batch, seq\]"),
        (torch.zeros(2, 3), r"\[batch, seq\]"),
        (torch.zeros(1, 11, dtype=torch.int64), "longer than the target's context of 10"),
        (torch.full((1, 3), VOCAB), f"no token {VOCAB}"),
        (torch.full((1, 3), -1), "no token -1"),
    ],
)
def test_unfit_tokens_are_named(decomposition, tokens, complaint):
    with pytest.raises(SpdToolsError, match=complaint):
        decomposition(tokens)


def test_vectors(decomposition, run_with_everything):
    v, u = decomposition.component_vectors(LAYER)
    assert torch.equal(v, run_with_everything.component(LAYER, "V"))
    assert torch.equal(u, run_with_everything.component(LAYER, "U"))
    assert torch.equal(decomposition.read_vectors(LAYER), v.T)
    assert torch.equal(decomposition.write_vectors(LAYER), u)
    with pytest.raises(SpdToolsError, match=r"no layer 'h\.9'"):
        decomposition.read_vectors("h.9")


def test_it_works_under_autocast(decomposition):
    plain = decomposition(TOKENS).logits
    with torch.autocast("cpu", torch.bfloat16):
        out = decomposition(TOKENS)
    close(out.logits.float(), plain, atol=0.05 * float(plain.abs().max()))


def test_a_run_after_inference_mode_can_still_be_differentiated(tmp_path):
    decomposition = load_spd_run(small_run().write(tmp_path))
    with torch.inference_mode():
        decomposition(TOKENS)
    mask = torch.ones(*TOKENS.shape, 5, requires_grad=True)
    decomposition.run(TOKENS, masks={"h.0.attn.q_proj": mask}).logits.sum().backward()
    assert mask.grad is not None


def test_parts_leave_gradients_on_for_their_caller(decomposition):
    _, layers = decomposition.parts(TOKENS)
    part = next(layers)
    assert torch.is_grad_enabled()
    assert part.layer == next(iter(decomposition.layers))
    assert not part.gating.requires_grad


@pytest.mark.parametrize("sigmoid_type", ["leaky_hard", "normal", "upper_leaky_hard"])
def test_parts_hold_the_causal_importances_of_every_squashing(tmp_path, sigmoid_type):
    decomposition = load_spd_run(small_run(sigmoid_type=sigmoid_type).write(tmp_path))
    importances = decomposition(TOKENS).activations["causal_importance"]
    _, layers = decomposition.parts(TOKENS)
    seen = {part.layer: part.gating.clamp(part.low, part.high) for part in layers}
    assert list(seen) == list(importances)
    for layer, values in importances.items():
        close(seen[layer], values)


def test_conv1d_and_learned_positions_of_a_transformers_model(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=20, n_positions=9, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        model.transformer.h[0].mlp.c_fc.bias.normal_()
    layers = {"transformer.wpe": (9, 8, 3), "transformer.h.0.mlp.c_fc": (8, 32, 5)}
    run = build_run(
        {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [3]},
        [("transformer.wpe", 3), ("transformer.h.*.mlp.c_fc", 5)],
        layers,
    )
    run.config |= {
        "pretrained_model_class": "transformers.GPT2LMHeadModel",
        "pretrained_model_name": "hf",
        "pretrained_model_output_attr": "logits",
    }
    own = {key: tensor for key, tensor in run.state.items() if not key.startswith("target_model.")}
    run.state = {f"target_model.{key}": tensor.clone() for key, tensor in model.state_dict().items()} | own
    write_json_file(tmp_path / "run" / "hf" / "config.json", config.to_dict())
    decomposition = load_spd_run(run.write(tmp_path / "run"))

    tokens = some_tokens(vocab=20)
    plain = decomposition(tokens)
    close(plain.logits, model(tokens).logits.detach())
    assert {name: x.shape[:2] for name, x in plain.activations["component_activation"].items()} == {
        name: tokens.shape for name in layers
    }
    mask = torch.rand(*tokens.shape, 3)
    masked = decomposition.run(tokens, masks={"transformer.wpe": mask}, delta=0.0)
    v, u = run.component("transformer.wpe", "V"), run.component("transformer.wpe", "U")
    embedded = model.transformer.wte(tokens) + (v[: tokens.shape[1]] * mask) @ u
    without_positions = model.transformer.wpe.weight[: tokens.shape[1]]
    close(masked.logits, model(inputs_embeds=embedded - without_positions).logits.detach())

    layer = "transformer.h.0.mlp.c_fc"
    mask = torch.rand(*tokens.shape, 5)
    outputs = []
    module = decomposition.target.module.get_submodule(layer)
    with module.register_forward_hook(lambda _module, args, output: outputs.append((args[0], output))):
        decomposition.run(tokens, masks={layer: mask}, delta=0.25)
    x, output = outputs[0]
    v, u = run.component(layer, "V"), run.component(layer, "U")
    weight, bias = model.transformer.h[0].mlp.c_fc.weight.detach(), model.transformer.h[0].mlp.c_fc.bias.detach()
    close(output, ((x @ v) * mask) @ u + bias + 0.25 * x @ (weight - v @ u))
