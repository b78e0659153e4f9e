"""The data that a configuration (or the command line) names, as batches."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd_tools.decompositions.spd.tokenizer import find_tokenizer
from spd_tools.errors import SpdToolsError
from spd_tools.tokens import DataConfig, TokenDataset, names_stories, prepare_tokens
from spd_tools.training.config import TrainingConfig, TrainingTask
from spd_tools.training.data import Batches, FeatureBatches, TokenBatches
from spd_tools.training.distributed import World
from spd_tools.training.target import TARGET_FOLDER, LoadedTarget

_TOKENIZER_NAME = "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class DataChoice:
    """Data named on the command line, in place of what the configuration names."""

    data: str | None = None
    """Hub data set, local parquet, jsonl(.gz) or text, or "stories:SEED"."""
    split: str | None = None
    column: str | None = None
    tokenizer: str | None = None

    def applied(self, raw: dict[str, Any], base: Path) -> dict[str, Any]:
        """A configuration that names this data instead; paths become absolute.

        Args:
            raw: The configuration as a mapping.
            base: What its relative paths are relative to.
        """
        raw = copy.deepcopy(raw)
        task = raw.setdefault("task_config", {})
        if not isinstance(task, dict):
            return raw  # which the check of the configuration refuses
        if self.data is not None:
            # Split, column and form are those of the configuration's own data set; another one has its own.
            task |= {
                "dataset_name": self.data,
                "train_data_split": self.split or "train",
                "eval_data_split": self.split or "train",
                "column_name": self.column or "text",
                "is_tokenized": False,
                "streaming": False,
            }
        name = task.get("dataset_name")
        if isinstance(name, str) and not names_stories(name):
            places = (base / os.path.expanduser(name), Path(os.path.expanduser(name)))
            task["dataset_name"] = next((str(path.resolve()) for path in places if path.exists()), name)
        if self.tokenizer is not None:
            raw["tokenizer_name"] = self.tokenizer
        return raw


def open_batches(
    config: TrainingConfig, choice: DataChoice, loaded: LoadedTarget, *, base: Path, world: World
) -> tuple[Batches, str]:
    """Batches, and a hash of the data.

    Args:
        config: The training's, with the choice applied.
        choice: Whether the data was named on the command line.
        loaded: The target that reads it.
        base: What the configuration's relative paths are relative to.
        world: Which share is ours.

    Raises:
        SpdToolsError: when the data cannot be had or does not fit the target.
    """
    task = config.task_config
    if config.is_toy:
        batches = FeatureBatches(
            n_features=loaded.target.vocab_size,
            feature_probability=task.feature_probability,
            generation=task.data_generation_type,
            low=0.0 if loaded.target.architecture == "TMS" else -1.0,
            batch_size=config.batch_size,
            eval_batch_size=config.eval_batch_size,
            seed=config.seed,
            world=world,
        )
        return batches, "features"
    tokenizer = find_tokenizer(config.tokenizer_name, base, loaded.folder)
    same_rows = task.eval_data_split == task.train_data_split
    train = _tokens(config, choice, loaded, tokenizer, task.train_data_split, config.batch_size * config.steps)
    n_eval = config.eval_batch_size * config.n_eval_steps
    evaluation = None if same_rows else _tokens(config, choice, loaded, tokenizer, task.eval_data_split, n_eval)
    batches = TokenBatches(
        train,
        batch_size=config.batch_size,
        eval_dataset=evaluation,
        eval_batch_size=config.eval_batch_size,
        n_eval_steps=config.n_eval_steps,
        seed=config.seed if task.dataset_seed is None else task.dataset_seed,
        shuffle_each_epoch=task.shuffle_each_epoch,
        world=world,
    )
    return batches, f"{train.fingerprint} {train.fingerprint if evaluation is None else evaluation.fingerprint}"


def _tokens(
    config: TrainingConfig, choice: DataChoice, loaded: LoadedTarget, tokenizer: str | None, split: str, n_rows: int
) -> TokenDataset:
    task = config.task_config
    if task.dataset_name is None:
        raise SpdToolsError("The configuration names no task_config.dataset_name; add it or name data with --data.")
    try:
        return prepare_tokens(
            DataConfig(
                source=task.dataset_name,
                split=split,
                column=task.column_name,
                seq_len=_seq_len(task, loaded),
                tokenizer=None if task.is_tokenized else tokenizer,
                streaming=task.streaming,
                is_tokenized=True if task.is_tokenized else None,
                max_rows=n_rows,
            ),
            vocab_size=loaded.target.vocab_size,
        )
    except SpdToolsError as error:
        if choice.data is None and not names_stories(task.dataset_name) and not Path(task.dataset_name).exists():
            raise SpdToolsError(f"{str(error).rstrip('.')}; or name other data with --data.") from error
        raise


def _seq_len(task: TrainingTask, loaded: LoadedTarget) -> int:
    context = loaded.target.context
    seq_len = task.max_seq_len or context
    if seq_len is None:
        raise SpdToolsError("The configuration lacks task_config.max_seq_len and the target sets no limit; add it.")
    if context is not None and seq_len > context:
        raise SpdToolsError(f"max_seq_len {seq_len} is longer than the target's context of {context}; lower it.")
    return seq_len


def copy_tokenizer(config: TrainingConfig, loaded: LoadedTarget, folder: Path, base: Path) -> str | None:
    """What final_config.yaml calls the tokenizer; a local file is copied beside it. None where none is named."""
    name = find_tokenizer(config.tokenizer_name, base, loaded.folder)
    if name is None or not Path(name).is_absolute():
        return name
    if loaded.folder is not None and Path(name) == loaded.folder / _TOKENIZER_NAME:
        return f"{TARGET_FOLDER}/{_TOKENIZER_NAME}"
    if Path(name) != folder / _TOKENIZER_NAME:
        shutil.copyfile(name, folder / _TOKENIZER_NAME)
    return _TOKENIZER_NAME
