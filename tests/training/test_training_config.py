from __future__ import annotations

from pathlib import Path

import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import read_yaml_mapping
from spd_tools.training.config import parse_training_config, remarks

GOLDEN = sorted((Path(__file__).parent.parent / "golden" / "spd").iterdir())


def raw(**changes):
    return {
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "module_info": [{"module_pattern": "h.*", "C": 3}],
        "ci_config": {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [2]},
        "lr_schedule": {"start_val": 1e-3},
        "steps": 5,
        "batch_size": 2,
        "loss_metric_configs": [{"classname": "FaithfulnessLoss", "coeff": 1.0}],
    } | changes


def parse(**changes):
    return parse_training_config(raw(**changes), "run.yaml")


def loss(classname, **fields):
    return {"loss_metric_configs": [{"classname": classname, "coeff": 1.0, **fields}]}


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
def test_a_published_configuration_has_no_unknown_fields(folder):
    document = read_yaml_mapping(folder / "final_config.yaml")
    assert remarks(parse_training_config(document, "x"), document) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"zest": 1}, "zest"),
        ({"lr_schedule": {"start_val": 1.0, "zest": 1}}, "lr_schedule.zest"),
        ({"task_config": {"zest": 1}}, "task_config.zest"),
        (loss("StochasticReconSubsetLoss", zest=1), "StochasticReconSubsetLoss.zest"),
    ],
)
def test_an_unknown_field_is_remarked_and_has_no_effect(changes, field):
    document = raw(**changes)
    assert remarks(parse_training_config(document, "x"), document) == [
        f"The field {field} is not known here and has no effect."
    ]


def test_an_unknown_evaluation_metric_is_remarked_and_left_out():
    document = raw(eval_metric_configs=[{"classname": "Zest"}, {"classname": "CI_L0", "groups": None}])
    config = parse_training_config(document, "x")
    assert [metric.classname for metric in config.eval_metric_configs] == ["CI_L0"]
    assert remarks(config, document) == ["The evaluation metric Zest is not computed here."]


def test_a_loss_can_be_an_evaluation_metric_without_coefficient():
    pgd = {
        "classname": "PGDReconLoss",
        "init": "random",
        "step_size": 0.1,
        "n_steps": 20,
        "mask_scope": "shared_across_batch",
    }
    (metric,) = parse(eval_metric_configs=[pgd]).eval_metric_configs
    assert metric.n_steps == 20


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (loss("Zest"), r"run.yaml asks for the loss 'Zest', which is not supported; the losses are FaithfulnessLoss, "),
        (loss("StochasticReconLos"), "did you mean StochasticReconLoss"),
        ({"loss_metric_configs": [{"classname": "FaithfulnessLoss"}]}, "FaithfulnessLoss without a coeff"),
        ({"loss_metric_configs": [{"classname": "FaithfulnessLoss", "coeff": 1.0}] * 2}, "FaithfulnessLoss twice"),
        ({"loss_metric_configs": []}, "loss_metric_configs"),
        ({"loss_metric_configs": None}, "lacks the list loss_metric_configs"),
        (loss("StochasticReconSubsetLoss", routing={"type": "zest"}), "routing.type"),
        (loss("ImportanceMinimalityLoss"), "pnorm"),
        (loss("ImportanceMinimalityLoss", pnorm=1.0, p_anneal_start_frac=0.5, p_anneal_end_frac=0.1), "lies before"),
        (
            loss("PersistentPGDReconLoss", optimizer={"type": "sign"}, scope={"type": "single_source"}),
            "either step_size or lr_schedule",
        ),
        (
            loss("PersistentPGDReconLoss", optimizer={"type": "sign", "step_size": 0.1}, scope={"type": "zest"}),
            "scope.type",
        ),
        ({"lr_schedule": {"start_val": 1e-3, "fn_type": "zest"}}, "lr_schedule.fn_type"),
        ({"lr_schedule": {"start_val": 1e-3, "final_val_frac": 0.1}}, "constant schedule cannot end"),
        ({"sampling": "zest"}, "sampling"),
        ({"output_loss_type": "zest"}, "output_loss_type"),
        ({"steps": 0}, "steps"),
        ({"task_config": {"data_generation_type": "exactly_one_activ"}}, "did you mean exactly_one_active"),
        ({"eval_metric_configs": [{}]}, "without a classname"),
        ({"eval_metric_configs": [{"classname": "CIHistograms", "n_batches_accum": 0}]}, "n_batches_accum"),
    ],
)
def test_what_is_not_supported_is_refused_in_one_sentence(changes, complaint):
    with pytest.raises(SpdToolsError, match=complaint) as error:
        parse(**changes)
    assert "\n" not in str(error.value)


def test_older_spellings_train_too():
    document = raw(target_module_patterns=["h.*"], C=7, ci_fn_type="mlp", ci_fn_hidden_dims=[4])
    del document["module_info"], document["ci_config"]
    config = parse_training_config(document, "x")
    assert config.module_info[0].C == 7
    assert config.ci_config.hidden_dims == [4]


def test_toys_are_compared_by_mean_squares_and_language_models_by_kl():
    assert parse().compares_by == "kl"
    assert parse(pretrained_model_class="spd.experiments.tms.models.TMSModel").compares_by == "mse"
    assert parse(output_loss_type="mse").compares_by == "mse"
