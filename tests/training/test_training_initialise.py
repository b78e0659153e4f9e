import pytest
import torch
from training.slow_losses import tiny_model

from spd_tools.training.initialise import initialise


def float_model():
    model = tiny_model()
    for module in (model.target.module, model.ci_function, *model.components.values()):
        module.float()
    model.to(torch.device("cpu"))
    initialise(model, 3)
    return model


def test_equal_seeds_give_equal_values():
    first, second = float_model(), float_model()
    for a, b in zip(first.component_parameters(), second.component_parameters(), strict=True):
        assert torch.equal(a, b)


def test_components_come_close_to_the_weights_where_there_are_enough():
    model = float_model()
    layer, weight = model.components["fc"], model.weight("fc")  # C = 5 > d_in = 4
    assert float((layer.V @ layer.U - weight).detach().norm() / weight.norm()) < 0.15
    torch.testing.assert_close(layer.V.norm(dim=0), torch.ones(5))


def test_with_fewer_components_they_are_the_best_that_their_directions_allow():
    model = float_model()
    layer, weight = model.components["out"], model.weight("out")  # C = 3 < d_in = 5
    projected = layer.V @ torch.linalg.pinv(layer.V) @ weight
    torch.testing.assert_close(layer.V @ layer.U, projected, atol=0.1, rtol=0.1)


def test_every_component_takes_part_at_first():
    model = float_model()
    tokens = torch.arange(7).view(1, 7)
    pre = model.pre_ci(model.clean(tokens).inputs)
    mean = torch.cat([x.flatten() for x in pre.values()]).mean()
    assert float(mean.detach()) == pytest.approx(1.0, abs=0.6)
