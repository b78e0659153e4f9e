import pytest
import torch

from spd_tools.training.masks import draw_subset
from spd_tools.training.noise import Noise

CPU = torch.device("cpu")


def test_equal_keys_give_equal_numbers():
    assert torch.equal(Noise(CPU, 1, 2).uniform(3, 5), Noise(CPU, 1, 2).uniform(3, 5))
    assert not torch.equal(Noise(CPU, 1, 2).uniform(3, 5), Noise(CPU, 1, 3).uniform(3, 5))


def test_calls_do_not_repeat_each_other():
    noise = Noise(CPU, 0)
    assert not torch.equal(noise.uniform(100), noise.uniform(100))


def test_uniform_numbers_fill_the_open_interval_evenly():
    x = Noise(CPU, 0).uniform(400, 500)
    assert x.dtype == torch.float32
    assert 0 < float(x.min()) < float(x.max()) < 1
    assert torch.histc(x, 20, 0, 1).sub(10_000).abs().max() < 500  # 5 standard deviations


def test_coins_are_fair():
    x = Noise(CPU, 0).fair_coins(400, 500)
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert abs(float(x.mean()) - 0.5) < 5 * 0.5 / 200_000**0.5


def test_neighbours_are_independent():
    x = Noise(CPU, 0).uniform(200_000)
    for lag in range(1, 9):
        correlation = torch.corrcoef(torch.stack([x[:-lag], x[lag:]]))[0, 1]
        assert abs(float(correlation)) < 5 / 200_000**0.5


def test_a_subset_has_every_size_and_every_layer_equally_often():
    layers = dict.fromkeys("abc", 1)
    n = 30_000
    rows = draw_subset(Noise(CPU, 0), layers, torch.Size([n]))
    member = torch.zeros(n, 3)
    for i, name in enumerate(layers):
        member[rows[name], i] = 1
    sizes = member.sum(1)
    for k in (1, 2, 3):
        assert float((sizes == k).float().mean()) == pytest.approx(1 / 3, abs=0.015)
    for i in range(3):
        assert float(member[sizes == 1, i].mean()) == pytest.approx(1 / 3, abs=0.03)
        assert float(member[sizes == 2, i].mean()) == pytest.approx(2 / 3, abs=0.03)
