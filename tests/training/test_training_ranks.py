"""Several processes on the CPU train what one process trains."""

from __future__ import annotations

import pytest

from spd_tools import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.training.data_sources import DataChoice
from spd_tools.training.decompose import DecomposeRequest, decompose
from spd_tools.training.ranks import start_ranks
from spd_tools.training.reporting import read_metrics


@pytest.fixture
def request_of(token_file, tmp_path):
    def build(config, out):
        return DecomposeRequest(
            source=str(config),
            out=str(tmp_path / out),
            data=DataChoice(data=str(token_file), column="ids"),
            device="cpu",
            threads=1,
            progress=False,
        )

    return build


def test_two_processes_take_the_steps_of_one(small_config, request_of, tmp_path):
    config = small_config(
        loss_metric_configs=[  # none of which draws numbers, of which every process has its own
            {"classname": "FaithfulnessLoss", "coeff": 10.0},
            {"classname": "ImportanceMinimalityLoss", "coeff": 1e-2, "pnorm": 1.0, "beta": 0.5},
            {"classname": "CIMaskedReconLoss", "coeff": 1.0},
        ],
        steps=4,
    )
    decompose(request_of(config, "one"))
    outcome = start_ranks(request_of(config, "two"), 2)
    assert outcome.state == "finished"
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl", "train") for name in ("one", "two"))
    assert len(one) == 4
    for alone, shared in zip(one, two, strict=True):
        assert shared.pop("split") == alone.pop("split")
        assert shared == pytest.approx(alone, rel=1e-4)
    assert load_decomposition(tmp_path / "two").layers == load_decomposition(tmp_path / "one").layers


def test_a_failing_process_ends_the_others(small_config, request_of, capfd):
    config = small_config(steps=2, batch_size=3)
    with pytest.raises(SpdToolsError, match="of 2 failed; what it said stands above"):
        start_ranks(request_of(config, "run"), 2)
    assert "batch_size 3 cannot be shared by 2 processes" in capfd.readouterr().err
