"""Runs in the public format with the values that a correct reader must reproduce."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from spd_tools.decompositions.spd.decomposition import SpdDecomposition
from spd_tools.decompositions.spd.loader import load_spd_run

GOLDEN = Path(__file__).parent.parent / "golden" / "spd"
RUNS = sorted(path.name for path in GOLDEN.iterdir())


@pytest.fixture(scope="module", params=RUNS)
def golden(request) -> tuple[SpdDecomposition, dict[str, torch.Tensor]]:
    folder = GOLDEN / request.param
    return load_spd_run(folder), load_file(folder / "expected.safetensors")


def close(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=0)


def below(expected: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    found = {key.partition("/")[2]: value for key, value in expected.items() if key.startswith(f"{name}/")}
    assert found
    return found


def test_there_are_three_golden_runs():
    assert len(RUNS) == 3


def test_layers_are_those_of_the_run(golden):
    decomposition, expected = golden
    sizes = {layer: values.shape[-1] for layer, values in below(expected, "ci_lower_leaky").items()}
    assert decomposition.layers == sizes


def test_layers_come_pattern_by_pattern(golden):
    decomposition, _ = golden
    first_two = list(decomposition.layers)[:2]
    assert first_two in (["h.0.mlp.c_fc", "h.1.mlp.c_fc"], ["transformer.wte", "transformer.h.0.mlp.c_fc"])


def test_logits(golden):
    decomposition, expected = golden
    close(decomposition(expected["tokens"]).logits, expected["logits"])


@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_causal_importances(golden, bound):
    decomposition, expected = golden
    parts = decomposition.forward_parts(expected["tokens"])
    for layer, values in below(expected, f"ci_{bound}_leaky").items():
        close(decomposition.causal_importance(parts.pre_ci[layer], bound), values)


def test_call_reports_lower_leaky_causal_importances(golden):
    decomposition, expected = golden
    activations = decomposition(expected["tokens"]).activations["causal_importance"]
    assert list(activations) == list(decomposition.layers)
    for layer, values in below(expected, "ci_lower_leaky").items():
        close(activations[layer], values)


def test_component_activations(golden):
    decomposition, expected = golden
    activations = decomposition(expected["tokens"]).activations["component_activation"]
    for layer, values in below(expected, "component_activation").items():
        close(activations[layer], values)


def test_weight_deltas(golden):
    decomposition, expected = golden
    for layer, values in below(expected, "weight_delta").items():
        close(decomposition.weight_delta(layer), values)


def test_logits_of_all_components(golden):
    decomposition, expected = golden
    tokens = expected["tokens"]
    ones = {layer: torch.ones(*tokens.shape, c) for layer, c in decomposition.layers.items()}
    close(decomposition.run(tokens, masks=ones, delta=0.0).logits, expected["logits_all_components"])


def test_ci_masked_logits(golden):
    decomposition, expected = golden
    masks = below(expected, "ci_lower_leaky")
    close(decomposition.run(expected["tokens"], masks=masks, delta=0.0).logits, expected["logits_ci_masked"])


def test_parts_hold_what_a_call_computes(golden):
    decomposition, expected = golden
    out = decomposition(expected["tokens"])
    logits, layers = decomposition.parts(expected["tokens"])
    close(logits, out.logits)
    seen = []
    for part in layers:
        seen.append(part.layer)
        close(part.gating.clamp(part.low, part.high), out.activations["causal_importance"][part.layer])
        ranking = part.inputs @ part.weights.T if part.ranking is None else part.ranking
        close(ranking, out.activations["component_activation"][part.layer])
    assert seen == list(decomposition.layers)


def test_training_data_comes_from_the_configuration(golden):
    data = golden[0].training_data
    assert (data.dataset, data.split, data.column, data.seq_len) == (
        "SimpleStories/SimpleStories",
        "train",
        "story",
        16,
    )
    assert data.tokenizer == "SimpleStories/test-SimpleStories-gpt2-1.25M"


def test_run_id_is_folder_and_fingerprint(golden):
    decomposition, _ = golden
    folder = Path(decomposition.reference)
    assert decomposition.run_id == f"{folder.name}-{decomposition.fingerprint[:8]}"


def test_unembedding_turns_the_last_residual_into_logits(golden):
    decomposition, expected = golden
    read = []
    head = decomposition.target.module.get_submodule("lm_head")
    with head.register_forward_pre_hook(lambda _module, args: read.append(args[0])):
        logits = decomposition(expected["tokens"]).logits
    close(read[0] @ decomposition.unembedding, logits)


def old_spelling(key: str) -> str:
    """The reverse of what the format's history says."""
    key = key.replace("ci_fn._ci_fns.", "_gates.")
    head, _, rest = key.partition(".")
    if head == "_components":
        layer, _, name = rest.partition(".")
        return f"target_model.{layer.replace('-', '.')}.components.{name}".replace("target_model.", "patched_model.")
    key = key.replace("target_model.", "patched_model.")
    return key


@pytest.mark.parametrize("name", [name for name in RUNS if "layerwise" in name])
def test_old_keys_and_safetensors_are_the_same_run(name, tmp_path):
    new = load_spd_run(GOLDEN / name)
    folder = tmp_path / name
    shutil.copytree(GOLDEN / name, folder)
    state = torch.load(folder / "model_10.pth", weights_only=True)
    (folder / "model_10.pth").unlink()
    decomposed = {f"target_model.{layer}" for layer in new.layers}
    old = {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        spelled = f"{module}.original.{leaf}" if module in decomposed else key
        old[old_spelling(spelled)] = tensor
    save_file({key: tensor.clone() for key, tensor in old.items()}, folder / "model_10.safetensors")

    loaded = load_spd_run(folder)

    assert not any(key.startswith(("target_model", "_components", "ci_fn")) for key in old)
    assert loaded.fingerprint == new.fingerprint
    expected = load_file(GOLDEN / name / "expected.safetensors")
    close(loaded(expected["tokens"]).logits, expected["logits"])
