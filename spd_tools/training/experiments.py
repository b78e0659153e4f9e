"""Experiments by name: a configuration, and where its target and data come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from spd_tools.decompositions.resolve import DEMO_RUN
from spd_tools.errors import SpdToolsError
from spd_tools.suggest import did_you_mean
from spd_tools.targets.toys import ResidualMlpConfig, TmsConfig
from spd_tools.training.schedules import Schedule
from spd_tools.training.toys import ResidualMlpRecipe, TmsRecipe, ToyRecipe


@dataclass(frozen=True)
class Experiment:
    """What `decompose NAME` does."""

    summary: str
    """One line."""
    config: Callable[[], dict[str, Any]]
    """A final_config.yaml as a mapping; for toys without the target's name."""
    toy: ToyRecipe | None = None
    """How the target is trained here first."""
    needs: str | None = None
    """What must be had from elsewhere; None: nothing."""
    names_target: bool = True
    """Whether the configuration names its target, which is on a hub; False: --target does."""


def experiment(name: str) -> Experiment:
    """Look one up.

    Raises:
        SpdToolsError: when there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise SpdToolsError(
            f"There is no configuration file and no experiment {name!r}; "
            f"{did_you_mean(name, EXPERIMENTS, 'experiments')}"
        )
    return EXPERIMENTS[name]


def _common(
    module_info: list[tuple[str, int]], ci: dict[str, Any], losses: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    return {
        "seed": 0,
        "module_info": [{"module_pattern": pattern, "C": n} for pattern, n in module_info],
        "ci_config": ci,
        "sigmoid_type": "leaky_hard",
        "sampling": "continuous",
        "loss_metric_configs": [{"classname": name, **fields} for name, fields in losses.items()],
    }


def _tms(n_features: int, n_components: int, identity: bool) -> dict[str, Any]:
    small = n_features < 10
    modules = [("linear1", n_components), ("linear2", n_components)]
    if identity:
        modules.append(("hidden_layers.0", n_components))
    config = _common(
        modules,
        {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [16]},
        {
            # The reconstruction losses are means over features, this one is a sum over components.
            "ImportanceMinimalityLoss": {"coeff": 1e-2 if small else 2e-4, "pnorm": 1.0},
            "StochasticReconLoss": {"coeff": 1.0},
            "StochasticReconLayerwiseLoss": {"coeff": 1.0},
            "FaithfulnessLoss": {"coeff": 1.0},
        },
    )
    dense = {"identity_patterns": ["linear1", "linear2"], "dense_patterns": ["hidden_layers.0"] if identity else None}
    return config | {
        # Masks of 0 and 1: with continuous ones, one seed of 5-2 in five ends with two features of opposite directions
        # in one component, or one feature in two. In 40-10 they leave features in cycles.
        "sampling": "binomial" if small else "continuous",
        "autocast_bf16": False,
        "output_loss_type": "mse",
        "lr_schedule": {"start_val": 1e-2, "fn_type": "cosine", "final_val_frac": 0.0},
        "steps": 1000 if small else 4000,
        "batch_size": 256 if small else 512,
        "train_log_freq": 100,
        "eval_freq": 250 if small else 500,
        "eval_batch_size": 4096,
        "slow_eval_freq": 1000 if small else 2000,
        "n_eval_steps": 1,
        "eval_metric_configs": [
            {"classname": "CIHistograms"},
            {"classname": "CIMeanPerComponent"},
            {"classname": "CI_L0"},
            {"classname": "PermutedCIPlots", **dense},
            {"classname": "UVPlots", **dense},
        ],
        "pretrained_model_class": "spd.experiments.tms.models.TMSModel",
        "task_config": {
            "task_name": "tms",
            "feature_probability": 0.15 if small else 0.05,
            "data_generation_type": "at_least_zero_active",
        },
    }


def _tms_experiment(n_features: int, n_hidden: int, n_components: int, *, identity: bool) -> Experiment:
    return Experiment(
        summary=f"TMS, {n_features} features in {n_hidden} dimensions{', with an identity layer' if identity else ''}",
        config=lambda: _tms(n_features, n_components, identity),
        toy=TmsRecipe(
            model=TmsConfig(n_features=n_features, n_hidden=n_hidden, n_hidden_layers=int(identity)),
            steps=5000,
            batch_size=1024,
            lr_schedule=Schedule(start_val=1e-2, fn_type="cosine", final_val_frac=0.0),
            feature_probability=0.05,
        ),
    )


_NEURONS = {1: 50, 2: 25, 3: 17}
"""Layers of a ResidualMLP -> neurons of each: half as many in all as features."""


def _residual_mlp() -> dict[str, Any]:
    config = _common(
        # Twice as many components as features: there is room to choose.
        [("layers.*.mlp_in", 200), ("layers.*.mlp_out", 200)],
        {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [16]},
        {
            # With 1e-4, what a component of two features leaves of both costs less than one more component.
            "ImportanceMinimalityLoss": {"coeff": 3e-5, "pnorm": 1.0},
            "StochasticReconLoss": {"coeff": 1.0},
            "StochasticReconLayerwiseLoss": {"coeff": 1.0},
            "FaithfulnessLoss": {"coeff": 1.0},
        },
    )
    return config | {
        "autocast_bf16": False,
        "output_loss_type": "mse",
        "lr_schedule": {"start_val": 5e-3, "fn_type": "cosine", "final_val_frac": 0.0},
        "steps": 3000,
        "batch_size": 256,
        "faithfulness_warmup_steps": 200,
        "faithfulness_warmup_lr": 0.01,
        "train_log_freq": 100,
        "eval_freq": 500,
        "eval_batch_size": 2048,
        "slow_eval_freq": 3000,
        "n_eval_steps": 1,
        "eval_metric_configs": [
            {"classname": "CIHistograms"},
            {"classname": "CIMeanPerComponent"},
            {"classname": "CI_L0"},
            {"classname": "PermutedCIPlots", "identity_patterns": ["layers.*.mlp_in"]},
            {"classname": "UVPlots", "identity_patterns": ["layers.*.mlp_in"]},
        ],
        "pretrained_model_class": "spd.experiments.resid_mlp.models.ResidMLP",
        "task_config": {
            "task_name": "resid_mlp",
            "feature_probability": 0.02,
            "data_generation_type": "at_least_zero_active",
        },
    }


def _residual_mlp_experiment(n_layers: int) -> Experiment:
    return Experiment(
        summary=f"ResidualMLP of {n_layers} layer{'s' if n_layers > 1 else ''} on 100 features",
        config=_residual_mlp,
        toy=ResidualMlpRecipe(
            model=ResidualMlpConfig(n_features=100, d_embed=1000, d_mlp=_NEURONS[n_layers], n_layers=n_layers),
            steps=1500,
            batch_size=512,
            lr_schedule=Schedule(start_val=3e-3, fn_type="cosine", final_val_frac=0.0),
            feature_probability=0.02,
        ),
    )


def _language(
    module_info: list[tuple[str, int]],
    target: dict[str, Any],
    data: dict[str, Any],
    *,
    tokenizer: str,
    ci_width: int,
) -> dict[str, Any]:
    config = _common(
        module_info,
        {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [ci_width]},
        {
            "ImportanceMinimalityLoss": {
                "coeff": 1e-3,
                "pnorm": 2.0,
                "p_anneal_start_frac": 0.0,
                "p_anneal_final_p": 0.4,
                "p_anneal_end_frac": 1.0,
            },
            "StochasticReconSubsetLoss": {"coeff": 0.5, "routing": {"type": "uniform_k_subset"}},
            "StochasticReconLoss": {"coeff": 0.5},
            "FaithfulnessLoss": {"coeff": 1e5},
        },
    )
    return (
        config
        | target
        | {
            "autocast_bf16": True,
            "output_loss_type": "kl",
            "lr_schedule": {"start_val": 1e-3, "warmup_pct": 0.02, "fn_type": "cosine", "final_val_frac": 0.05},
            "steps": 50_000,
            "batch_size": 64,
            "faithfulness_warmup_steps": 300,
            "faithfulness_warmup_lr": 0.01,
            "train_log_freq": 100,
            "eval_freq": 1000,
            "eval_batch_size": 64,
            "slow_eval_freq": 5000,
            "n_eval_steps": 4,
            "tokenizer_name": tokenizer,
            "task_config": {"task_name": "lm", "shuffle_each_epoch": True, "streaming": False, **data},
        }
    )


_SIMPLE_STORIES = {
    "dataset_name": "SimpleStories/SimpleStories",
    "column_name": "story",
    "train_data_split": "train",
    "eval_data_split": "test",
    "max_seq_len": 512,
    "is_tokenized": False,
}
_SIMPLE_STORIES_TOKENIZER = "SimpleStories/SimpleStories-1.25M"


def _in_repo(class_name: str, module_info: list[tuple[str, int]]) -> Experiment:
    module = {"LlamaSimpleMLP": "llama_simple_mlp", "LlamaSimple": "llama_simple", "GPT2Simple": "gpt2_simple"}
    target = {
        "pretrained_model_class": f"spd.pretrain.models.{module[class_name]}.{class_name}",
        "pretrained_model_output_attr": "idx_0",
    }
    return Experiment(
        summary=f"a {class_name} pretrained on SimpleStories",
        config=lambda: _language(
            module_info, target, _SIMPLE_STORIES, tokenizer=_SIMPLE_STORIES_TOKENIZER, ci_width=1024
        ),
        needs="its target (pretrain it and name its run with --target), SimpleStories from the Hugging Face hub",
        names_target=False,
    )


def _on_hub(
    class_name: str, model: str, module_info: list[tuple[str, int]], data: dict[str, Any], tokenizer: str, summary: str
) -> Experiment:
    target = {
        "pretrained_model_class": f"transformers.{class_name}",
        "pretrained_model_name": model,
        "pretrained_model_output_attr": "logits",
    }
    return Experiment(
        summary=summary,
        config=lambda: _language(module_info, target, data, tokenizer=tokenizer, ci_width=1024),
        needs=f"{model} and {data['dataset_name']} from the Hugging Face hub",
    )


def _story() -> dict[str, Any]:
    config = _common(
        [("h.*.mlp.c_fc", 512), ("h.*.mlp.down_proj", 512), *((f"h.*.attn.{name}_proj", 128) for name in "qkvo")],
        {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [192]},
        {
            "ImportanceMinimalityLoss": {
                "coeff": 8e-4,
                "pnorm": 2.0,
                # Rare components cost less than frequent ones, which makes them components of something.
                "beta": 1.0,
                "p_anneal_start_frac": 0.0,
                "p_anneal_final_p": 0.4,
                "p_anneal_end_frac": 0.8,
            },
            "StochasticReconLoss": {"coeff": 0.5},
            # Without it masks above the importances do the work, and the importances themselves reproduce nothing.
            "CIMaskedReconLoss": {"coeff": 0.5},
            "FaithfulnessLoss": {"coeff": 1e5},
        },
    )
    return config | {
        "autocast_bf16": False,
        "output_loss_type": "kl",
        "lr_schedule": {"start_val": 2e-3, "warmup_pct": 0.02, "fn_type": "cosine", "final_val_frac": 0.05},
        "steps": 4000,
        "batch_size": 8,
        "faithfulness_warmup_steps": 300,
        "faithfulness_warmup_lr": 0.01,
        "train_log_freq": 50,
        "eval_freq": 500,
        "eval_batch_size": 32,
        "n_eval_steps": 4,
        "eval_metric_configs": [{"classname": "CEandKLLosses", "rounding_threshold": 0.0}, {"classname": "CI_L0"}],
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "pretrained_model_name": str(DEMO_RUN / "target"),
        "pretrained_model_output_attr": "idx_0",
        "tokenizer_name": "target/tokenizer.json",
        "task_config": {
            "task_name": "lm",
            "max_seq_len": 128,
            "dataset_name": "stories:1",
            "train_data_split": "train",
            "eval_data_split": "test",
        },
    }


_LLAMA_MLP = [("h.*.mlp.c_fc", 512), ("h.*.mlp.down_proj", 512)]
_LLAMA_GLU = [("h.*.mlp.gate_proj", 512), ("h.*.mlp.up_proj", 512), ("h.*.mlp.down_proj", 512)]
_SPLIT_ATTENTION = [(f"h.*.attn.{name}_proj", 256) for name in "qkvo"]

EXPERIMENTS: dict[str, Experiment] = {
    "tms_5-2": _tms_experiment(5, 2, 40, identity=False),
    "tms_5-2-id": _tms_experiment(5, 2, 40, identity=True),
    "tms_40-10": _tms_experiment(40, 10, 200, identity=False),
    "tms_40-10-id": _tms_experiment(40, 10, 200, identity=True),
    "resid_mlp1": _residual_mlp_experiment(1),
    "resid_mlp2": _residual_mlp_experiment(2),
    "resid_mlp3": _residual_mlp_experiment(3),
    "story": Experiment("the small language model of stories that comes with spd-tools, its demo", _story),
    "ss_llama_simple_mlp": _in_repo("LlamaSimpleMLP", _LLAMA_MLP + _SPLIT_ATTENTION),
    "ss_llama_simple": _in_repo("LlamaSimple", _LLAMA_GLU + _SPLIT_ATTENTION),
    "ss_gpt2_simple": _in_repo("GPT2Simple", _LLAMA_MLP + _SPLIT_ATTENTION),
    "ss_llama": _on_hub(
        "LlamaForCausalLM",
        "SimpleStories/SimpleStories-1.25M",
        [(f"model.layers.*.mlp.{name}_proj", 512) for name in ("gate", "up", "down")]
        + [(f"model.layers.*.self_attn.{name}_proj", 256) for name in "qkvo"],
        _SIMPLE_STORIES,
        _SIMPLE_STORIES_TOKENIZER,
        "the 1.25M Llama of SimpleStories",
    ),
    "gpt2": _on_hub(
        "GPT2LMHeadModel",
        "openai-community/gpt2",
        [
            ("transformer.h.*.mlp.c_fc", 4096),
            ("transformer.h.*.mlp.c_proj", 4096),
            ("transformer.h.*.attn.c_attn", 2048),
            ("transformer.h.*.attn.c_proj", 1024),
        ],
        {
            "dataset_name": "Skylion007/openwebtext",
            "column_name": "text",
            "train_data_split": "train",
            "eval_data_split": "train",
            "max_seq_len": 512,
            "is_tokenized": False,
            "streaming": True,
        },
        "openai-community/gpt2",
        "GPT-2 small on OpenWebText",
    ),
    "ts": _on_hub(
        "GPTNeoForCausalLM",
        "roneneldan/TinyStories-1M",
        [("transformer.h.*.mlp.c_fc", 512), ("transformer.h.*.mlp.c_proj", 512)]
        + [(f"transformer.h.*.attn.attention.{name}_proj", 128) for name in ("q", "k", "v", "out")],
        {
            "dataset_name": "roneneldan/TinyStories",
            "column_name": "text",
            "train_data_split": "train",
            "eval_data_split": "validation",
            "max_seq_len": 512,
            "is_tokenized": False,
        },
        "EleutherAI/gpt-neo-125M",
        "the 1M model of TinyStories",
    ),
}
"""Name -> experiment."""
