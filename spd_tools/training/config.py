"""final_config.yaml as training reads it: everything that decides what is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from spd_tools.decompositions.spd.config import TOYS, SpdConfig, TaskConfig, modern_spelling
from spd_tools.errors import SpdToolsError
from spd_tools.suggest import did_you_mean
from spd_tools.targets.build import read_yaml_mapping
from spd_tools.targets.config import first_problem
from spd_tools.training.loss_configs import LossConfig, parse_losses
from spd_tools.training.metric_configs import EvalMetricConfig, parse_eval_metrics
from spd_tools.training.schedules import Schedule

_NOT_TRAINING = (
    "wandb_run_name",
    "wandb_run_name_prefix",
    "out_dir",
    "task_config.buffer_size",
    "task_config.task_name",
    "dist_backend",
)
"""Public fields that decide nothing about what is trained here: they pass without a remark."""


class TrainingTask(TaskConfig):
    """Data of a language model or of a toy."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    eval_data_split: str = "test"
    """Split of the evaluation rows."""
    shuffle_each_epoch: bool = True
    """False: every epoch has the order of the first."""
    dataset_seed: int | None = None
    """Of the row order; None: the run's seed."""
    feature_probability: float = Field(default=0.05, gt=0, le=1)
    """Toys: probability that a feature is active."""
    data_generation_type: str = "at_least_zero_active"
    """Toys: at_least_zero_active, or exactly_one_active to exactly_five_active."""

    @field_validator("data_generation_type")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in GENERATION_TYPES:
            raise ValueError(f"{value!r} is not known; {did_you_mean(value, GENERATION_TYPES, 'types')}")
        return value


GENERATION_TYPES: dict[str, int | None] = {"at_least_zero_active": None} | {
    f"exactly_{word}_active": n for n, word in enumerate(("one", "two", "three", "four", "five"), start=1)
}
"""Name -> number of active features per sample; None: each is active with ``feature_probability``."""


class TrainingConfig(SpdConfig):
    """One training run, under the public field names."""

    model_config = ConfigDict(extra="allow", frozen=True, protected_namespaces=())

    task_config: TrainingTask = TrainingTask()  # pyright: ignore[reportIncompatibleVariableOverride]
    """Data."""
    seed: int = Field(default=0, ge=0)
    """Of initial values, masks and data order."""
    autocast_bf16: bool = True
    """bf16 autocast on CUDA; weights and losses stay f32. Without effect on the CPU."""
    n_mask_samples: int = Field(default=1, gt=0)
    """Masks drawn per stochastic loss and step; their losses are averaged."""
    sampling: Literal["continuous", "binomial"] = "continuous"
    """What s is drawn from: U(0,1), or 0 and 1 with equal chances and jittered causal importances."""
    init_spd_checkpoint: str | None = None
    """Checkpoint whose components and causal-importance function training starts from."""
    use_delta_component: bool = True
    """Give the weights that no component covers a mask of their own."""
    loss_metric_configs: list[LossConfig] = Field(min_length=1)
    """What is minimised."""
    eval_metric_configs: list[EvalMetricConfig] | None = None
    """What is evaluated beside the losses; None: everything that the task has."""
    output_loss_type: Literal["kl", "mse"] | None = None
    """How outputs are compared; None: kl for language models, mse for toys."""
    lr_schedule: Schedule
    """Of the main optimiser."""
    steps: int = Field(gt=0)
    """Of the main optimiser."""
    batch_size: int = Field(gt=0)
    """Rows (toys: samples) per step, over all ranks."""
    grad_clip_norm_components: float | None = Field(default=None, gt=0)
    """Greatest 2-norm of the gradient of all V and U together."""
    grad_clip_norm_ci_fns: float | None = Field(default=None, gt=0)
    """The same of the causal-importance function."""
    faithfulness_warmup_steps: int = Field(default=0, ge=0)
    """Steps on the faithfulness loss alone that go first."""
    faithfulness_warmup_lr: float = Field(default=1e-3, gt=0)
    """Their learning rate."""
    faithfulness_warmup_weight_decay: float = Field(default=0.0, ge=0)
    """Their weight decay."""
    train_log_freq: int = Field(default=100, gt=0)
    """Steps between logged training losses."""
    eval_freq: int = Field(default=1000, gt=0)
    """Steps between evaluations."""
    eval_batch_size: int = Field(default=32, gt=0)
    """Rows per evaluation batch."""
    slow_eval_freq: int | None = Field(default=None, gt=0)
    """Steps between figures; None: with every evaluation. Published configurations give a multiple of eval_freq."""
    n_eval_steps: int = Field(default=1, gt=0)
    """Batches per evaluation."""
    slow_eval_on_first_step: bool = True
    """Whether figures are drawn before the first step too."""
    save_freq: int | None = Field(default=None, gt=0)
    """Steps between saved models; None: the last one only."""
    ci_alive_threshold: float = Field(default=0.0, ge=0, lt=1)
    """A component fires where its causal importance is above this."""
    wandb_project: str | None = None
    """W&B project, for when logging there is asked for."""

    @property
    def is_toy(self) -> bool:
        """Whether the target reads features instead of tokens."""
        return self.class_name.startswith(TOYS)

    @property
    def compares_by(self) -> Literal["kl", "mse"]:
        """How outputs are compared."""
        return self.output_loss_type or ("mse" if self.is_toy else "kl")


def read_training_config(path: Path) -> tuple[TrainingConfig, dict[str, Any]]:
    """Read a configuration file: the checked configuration and the mapping as it stands there.

    Raises:
        SpdToolsError: when the file cannot be read, lacks a field or asks for what is not supported.
    """
    raw = read_yaml_mapping(path)
    return parse_training_config(raw, str(path)), raw


def parse_training_config(raw: dict[str, Any], source: str) -> TrainingConfig:
    """Check a configuration.

    Args:
        raw: As in a final_config.yaml of any age.
        source: Its name, for messages.

    Raises:
        SpdToolsError: when it lacks a field or asks for what is not supported.
    """
    document = modern_spelling(raw)
    if not isinstance(document.get("loss_metric_configs"), list):
        raise SpdToolsError(f"{source} says nothing about what to minimise: it lacks the list loss_metric_configs.")
    document["loss_metric_configs"] = parse_losses(document["loss_metric_configs"], source)
    if document.get("eval_metric_configs") is not None:
        document["eval_metric_configs"], _ = parse_eval_metrics(
            document["eval_metric_configs"], source, toy=_names_toy(document)
        )
    try:
        return TrainingConfig.model_validate(document)
    except ValidationError as error:
        raise SpdToolsError(f"{source} cannot be trained ({first_problem(error)}); correct that field.") from error


def remarks(config: TrainingConfig, raw: dict[str, Any]) -> list[str]:
    """What of a configuration has no effect here, one sentence each."""
    found = [
        f"The field {name} is not known here and has no effect."
        for name in _unknown_fields(config)
        if name not in _NOT_TRAINING
    ]
    _, skipped = parse_eval_metrics(raw.get("eval_metric_configs") or [], "the configuration", toy=config.is_toy)
    found += [f"The evaluation metric {name} is not computed here." for name in skipped]
    return found


def _names_toy(document: dict[str, Any]) -> bool:
    return str(document.get("pretrained_model_class")).rpartition(".")[2].startswith(TOYS)


def _unknown_fields(model: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in model.model_extra or {}:
        yield f"{prefix}{name}"
    for name in type(model).model_fields:
        value = getattr(model, name)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, BaseModel):
                label = getattr(part, "classname", name)
                yield from _unknown_fields(part, f"{label}." if prefix == "" else f"{prefix}{name}.")
