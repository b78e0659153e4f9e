"""The model that is trained computes what the reader of its run computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from spd_tools.decompositions.spd.components import locate
from spd_tools.decompositions.spd.loader import build_ci_function, fill
from spd_tools.decompositions.spd.sigmoids import lower_leaky_hard, upper_leaky_hard
from spd_tools.training.config import read_training_config
from spd_tools.training.model import ComponentModel, LayerMask
from spd_tools.training.outputs import KlDistance
from spd_tools.training.target import load_target

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "spd").iterdir())


@pytest.fixture(scope="module", params=GOLDEN, ids=lambda path: path.name)
def golden(request):
    folder = request.param
    config, _ = read_training_config(folder / "final_config.yaml")
    loaded = load_target(config, folder)
    components = locate(loaded.target.module, config.module_info, config.identity_module_info)
    model = ComponentModel(
        target=loaded.target,
        components=components,
        ci_function=build_ci_function(config.ci_config, components),
        sigmoid_type=config.sigmoid_type,
        output_attr=config.pretrained_model_output_attr,
        is_toy=False,
    )
    fill(folder / "model_10.pth", loaded.target, components, model.ci_function)
    return model, load_file(folder / "expected.safetensors")


def close(actual, expected):
    torch.testing.assert_close(actual.detach(), expected, atol=1e-5, rtol=0)


def test_logits_and_causal_importances(golden):
    model, expected = golden
    clean = model.clean(expected["tokens"])
    close(clean.output, expected["logits"])
    for name, pre in model.pre_ci(clean.inputs).items():
        close(model.lower(pre), expected[f"ci_lower_leaky/{name}"])
        close(model.upper(pre), expected[f"ci_upper_leaky/{name}"])


def test_masked_logits(golden):
    model, expected = golden
    tokens = expected["tokens"]
    masks = {name: LayerMask(expected[f"ci_lower_leaky/{name}"]) for name in model.components}
    close(model.masked(tokens, masks), expected["logits_ci_masked"])
    ones = {name: LayerMask(torch.ones(1)) for name in model.components}
    close(model.masked(tokens, ones), expected["logits_all_components"])


def test_with_all_of_the_rest_the_target_is_back(golden):
    model, expected = golden
    masks = {name: LayerMask(torch.zeros(1), torch.ones(*expected["tokens"].shape, 1)) for name in model.components}
    close(model.masked(expected["tokens"], masks), expected["logits"])


def test_faithfulness(golden):
    model, expected = golden
    for name in model.components:
        close(model.faithfulness(name), expected[f"weight_delta/{name}"].square().sum())


def test_squashing_functions_have_the_gradients_that_the_format_says():
    x = torch.tensor([-2.0, -2.0, 0.0, 0.5, 1.0, 3.0, 3.0], requires_grad=True)
    incoming = torch.tensor([1.0, -1.0, -1.0, 2.0, 2.0, 2.0, -2.0])
    (gradient,) = torch.autograd.grad(lower_leaky_hard(x), x, incoming)
    torch.testing.assert_close(gradient, torch.tensor([0.0, -0.01, -1.0, 2.0, 2.0, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(upper_leaky_hard(x), x, incoming)
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, -1.0, 2.0, 2.0, 0.02, -0.02]))
    torch.testing.assert_close(upper_leaky_hard(x.detach()), torch.tensor([0.0, 0.0, 0.0, 0.5, 1.0, 1.02, 1.02]))


def test_kl_is_torchs():
    generator = torch.Generator().manual_seed(0)
    logits, target = (torch.randn(2, 3, 7, generator=generator) for _ in range(2))
    expected = torch.nn.functional.kl_div(
        logits.log_softmax(-1), target.log_softmax(-1), log_target=True, reduction="none"
    )
    torch.testing.assert_close(KlDistance(target)(logits), expected.sum(-1).mean())
    assert float(KlDistance(target)(target)) == pytest.approx(0, abs=1e-6)
