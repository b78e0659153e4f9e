"""Small trainings on the golden targets."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from threads import one_thread_each

GOLDEN = Path(__file__).parent.parent / "golden" / "spd"
VOCAB = 96


one_thread = pytest.fixture(scope="package", autouse=True)(one_thread_each)


@pytest.fixture
def token_file(tmp_path) -> Path:
    """Documents of token ids that the golden targets know, full rows of 16 after cutting."""
    numbers = random.Random(0)
    path = tmp_path / "ids.jsonl"
    path.write_text(
        "".join(json.dumps({"ids": [numbers.randrange(VOCAB) for _ in range(32)]}) + "\n" for _ in range(60))
    )
    return path


@pytest.fixture
def small_config(tmp_path):
    """Writes a configuration on a golden LlamaSimpleMLP with losses that keep state and draw numbers."""

    def write(name: str = "config.yaml", **changes: Any) -> Path:
        folder = GOLDEN / "llama_simple_mlp_layerwise_vector_mlp"
        config = yaml.safe_load((folder / "final_config.yaml").read_text())
        config |= {
            "pretrained_model_name": str(folder / "target" / "checkpoints" / "model_step_100.pt"),
            "module_info": [{"module_pattern": "h.0.mlp.*", "C": 6}, {"module_pattern": "h.1.attn.q_proj", "C": 5}],
            "autocast_bf16": False,
            "loss_metric_configs": [
                {"classname": "FaithfulnessLoss", "coeff": 10.0},
                {
                    "classname": "ImportanceMinimalityLoss",
                    "coeff": 1e-3,
                    "pnorm": 2.0,
                    "p_anneal_start_frac": 0.0,
                    "p_anneal_final_p": 0.5,
                },
                {"classname": "StochasticReconSubsetLoss", "coeff": 0.5},
                {
                    "classname": "PersistentPGDReconLoss",
                    "coeff": 0.5,
                    "optimizer": {"type": "adam", "step_size": 0.05},
                    "scope": {"type": "broadcast_across_batch"},
                },
            ],
            "lr_schedule": {"start_val": 3e-3, "warmup_pct": 0.2, "final_val_frac": 0.1, "fn_type": "cosine"},
            "faithfulness_warmup_steps": 3,
            "steps": 10,
            "train_log_freq": 1,
            "eval_freq": 4,
            "eval_metric_configs": [{"classname": "CEandKLLosses"}],  # no figures: matplotlib takes its time
            "slow_eval_freq": 10,
            "slow_eval_on_first_step": False,
        } | changes
        path = tmp_path / name
        path.write_text(yaml.safe_dump(config))
        return path

    return write
