from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from spd_tools.errors import SpdToolsError
from spd_tools.training.checkpoints import load_checkpoint, save_checkpoint


def parts():
    module = nn.Linear(3, 2)
    return {"module": module, "optimizer": torch.optim.AdamW(module.parameters(), lr=0.1)}


def step(some):
    some["module"](torch.ones(4, 3)).square().sum().backward()
    some["optimizer"].step()
    some["optimizer"].zero_grad()


def test_what_goes_on_is_equal_to_the_bit(tmp_path):
    path, calm = tmp_path / "training.pt", parts()
    step(calm)
    save_checkpoint(path, step=1, identity="a", parts=calm)
    step(calm)
    other = parts()
    assert load_checkpoint(path, identity="a", parts=other) == 1
    step(other)
    assert torch.equal(other["module"].weight, calm["module"].weight)


def test_no_checkpoint_is_no_error(tmp_path):
    assert load_checkpoint(tmp_path / "training.pt", identity="a", parts=parts()) is None


def test_another_trainings_checkpoint_is_refused(tmp_path):
    save_checkpoint(tmp_path / "x.pt", step=1, identity="a", parts=parts())
    with pytest.raises(SpdToolsError, match="belongs to a training with another configuration"):
        load_checkpoint(tmp_path / "x.pt", identity="b", parts=parts())


def test_a_checkpoint_with_other_parts_is_refused(tmp_path):
    save_checkpoint(tmp_path / "x.pt", step=1, identity="a", parts=parts())
    with pytest.raises(SpdToolsError, match="another version"):
        load_checkpoint(tmp_path / "x.pt", identity="a", parts={"module": nn.Linear(1, 1)})


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path, capsys):
    (tmp_path / "x.pt").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(SpdToolsError, match="cannot be read"):
        load_checkpoint(tmp_path / "x.pt", identity="a", parts=parts())
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("size", [0, 1, 100, 700])
def test_a_torn_checkpoint_is_refused(tmp_path, size):
    save_checkpoint(tmp_path / "x.pt", step=1, identity="a", parts=parts())
    whole = (tmp_path / "x.pt").read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[:size])
    with pytest.raises(SpdToolsError, match="cannot be read"):
        load_checkpoint(tmp_path / "x.pt", identity="a", parts=parts())
