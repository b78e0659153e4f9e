"""What `pretrain` is told: a small target model, the data, how to train."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from spd_tools.errors import SpdToolsError
from spd_tools.suggest import did_you_mean
from spd_tools.targets.build import IN_REPO, read_yaml_mapping
from spd_tools.targets.config import first_problem
from spd_tools.training.schedules import Schedule

_CONFIGS = Path(__file__).parent / "pretrain_configs"


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class StoriesConfig(_Record):
    """Stories by the generator."""

    seed: int = Field(default=0, ge=0)
    """Of the stories."""
    n_rows: int = Field(gt=0)
    """Training rows; the rows after them are held out."""


class PretrainData(_Record):
    """Rows of tokens: ``stories``, or a data set as ``spd_tools.tokens`` reads it."""

    stories: StoriesConfig | None = None
    """Made by the generator."""
    source: str | None = None
    """Hub data set, or a local file or folder."""
    split: str = "train"
    """Split of the training rows."""
    eval_split: str | None = None
    """Split of the held-out rows; None: they are taken from the training rows, which are fewer then."""
    column: str = "text"
    """Column with the text or the token ids."""
    tokenizer: str | None = None
    """Hub name or tokenizer file; None is enough for a data set that is tokenised."""
    seq_len: int = Field(gt=1)
    """Tokens per row."""

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if (self.stories is None) == (self.source is None):
            raise ValueError("give either stories or a source")
        return self


class PretrainConfig(_Record):
    """One pretraining."""

    name: str = Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z_-]{0,59}$")
    """Begins the name of the run's folder."""
    model: dict[str, Any]
    """``model_type`` (a class of ``spd_tools.targets``) and its sizes: what becomes model_config.yaml."""
    data: PretrainData
    """What to train on."""
    steps: int = Field(gt=0)
    """Optimiser steps."""
    batch_size: int = Field(gt=0)
    """Rows per step over all processes."""
    lr_schedule: Schedule
    """Learning rate."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Of AdamW."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Of matrices; norms and biases do not decay."""
    grad_clip_norm: float | None = Field(default=1.0, gt=0)
    """Largest norm of all gradients together."""
    seed: int = Field(default=0, ge=0)
    """Of initial weights and row order."""
    autocast_bf16: bool = True
    """bf16 autocast on CUDA; weights and loss stay f32. Without effect on the CPU."""
    eval_batch_size: int = Field(default=64, gt=0)
    """Rows per evaluation batch."""
    n_eval_steps: int = Field(default=16, gt=0)
    """Evaluation batches."""
    log_freq: int = Field(default=50, gt=0)
    """Steps between two records of the training loss."""
    eval_freq: int = Field(default=1000, gt=0)
    """Steps between two evaluations on held-out rows."""
    save_freq: int | None = Field(default=None, gt=0)
    """Steps between two model files; None: only the last one."""

    @model_validator(mode="after")
    def _known_model(self) -> Self:
        kind = self.model.get("model_type")
        if kind not in IN_REPO:
            raise ValueError(f"model.model_type {kind!r} is not known; {did_you_mean(str(kind), IN_REPO, 'models')}")
        return self

    @property
    def n_held_out(self) -> int:
        """Held-out rows."""
        return self.eval_batch_size * self.n_eval_steps

    def identity(self, *data: str) -> str:
        """Hex digest of what decides the weights: everything but how often something is written.

        Args:
            data: Fingerprints of the token files, once they are known.
        """
        document = self.model_dump(mode="json", exclude={"name", "log_freq", "eval_freq", "save_freq"})
        document["fingerprints"] = data
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def pretrain_names() -> list[str]:
    """Names of the configurations that come with the package."""
    return sorted(path.stem for path in _CONFIGS.glob("*.yaml"))


def read_pretrain_config(name_or_file: str) -> PretrainConfig:
    """One of ``pretrain_names()``, or a YAML file.

    Raises:
        SpdToolsError: when there is none, or a field is missing, unknown or out of its range.
    """
    names = pretrain_names()
    is_name = name_or_file in names
    path = _CONFIGS / f"{name_or_file}.yaml" if is_name else Path(name_or_file).expanduser()
    if not is_name and not path.suffix:
        raise SpdToolsError(
            f"There is no pretraining called {name_or_file!r}; {did_you_mean(name_or_file, names, 'names')}"
        )
    try:
        return PretrainConfig.model_validate(read_yaml_mapping(path))
    except ValidationError as error:
        raise SpdToolsError(
            f"{path} is no configuration of a pretraining ({first_problem(error)}); correct that field."
        ) from error
