"""A pretraining as a folder, in the format in which SPD runs find their targets.

===============================  ===================================================================================
model_config.yaml                the architecture
final_config.yaml                the whole configuration
tokenizer.json                   absent for data that came tokenised
checkpoints/model_step_<n>.pt    weights; the last one is written when training is finished
metrics.jsonl                    a record per line: training losses, held-out losses
training.pt                      state of a training in progress: whoever finds it goes on from it
===============================  ===================================================================================
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from spd_tools.errors import SpdToolsError
from spd_tools.files import atomic_file, write_bytes
from spd_tools.settings import Settings
from spd_tools.stories import Stories
from spd_tools.targets.build import build_in_repo_target
from spd_tools.tokens import DataConfig, TokenDataset, prepare_tokens, story_rows
from spd_tools.training.data import TokenBatches
from spd_tools.training.distributed import World, join_world, leave_world
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.pretrain import Pretrainer, Record, initialise
from spd_tools.training.pretrain_config import PretrainConfig, PretrainData
from spd_tools.training.reporting import METRICS_NAME, MetricsLog, read_metrics

MODEL_CONFIG, FINAL_CONFIG, TOKENIZER = "model_config.yaml", "final_config.yaml", "tokenizer.json"
STATE = "training.pt"
_NATS_PER_BIT = math.log(2)


@dataclass(frozen=True)
class PretrainOutcome:
    """What became of a pretraining."""

    folder: Path
    """The run."""
    step: int
    """Steps that are done."""
    finished: bool
    """False: it was asked to stop, and goes on from here when it is started again."""
    held_out: Record | None
    """The last evaluation; None before the first."""


def run_pretraining(
    config: PretrainConfig,
    *,
    folder: Path | None = None,
    device: torch.device | None = None,
    checkpoint_seconds: float = 120.0,
    say: Callable[[str], None] = lambda text: None,
) -> PretrainOutcome:
    """Pretrain a target model, or go on with it.

    Args:
        config: What to do.
        folder: Where the run lies; default: below ``SPD_OUT_DIR/runs``, by name and configuration.
        device: Default: CUDA where there is one.
        checkpoint_seconds: Least time between two checkpoints.
        say: Takes lines for people.

    Raises:
        SpdToolsError: when data, sizes and folder do not fit together, or the loss is no longer finite.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if folder is None:
        folder = Settings.from_environment().run_cache(f"pretrain-{config.name}-{config.identity()[:8]}")
    world = join_world(device)
    try:
        return _Run(config, folder, device, world, checkpoint_seconds, say).run()
    finally:
        leave_world(world)


class _Run:
    def __init__(
        self,
        config: PretrainConfig,
        folder: Path,
        device: torch.device,
        world: World,
        checkpoint_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        self._config, self._folder, self._world, self._say = config, folder, world, say
        self._started = (time.monotonic(), 0)
        dataset, held_out = load_data(config)
        self._identity = config.identity(dataset.fingerprint)
        self._batches = TokenBatches(
            dataset,
            batch_size=config.batch_size,
            eval_dataset=held_out,
            eval_batch_size=config.eval_batch_size,
            n_eval_steps=config.n_eval_steps,
            seed=config.seed,
            shuffle_each_epoch=True,
            world=world,
        )
        if world.is_first:
            self._write_description(dataset)
        world.wait()
        target = build_in_repo_target(config.model["model_type"], folder / MODEL_CONFIG)
        self._check(dataset, target.vocab_size, target.context)
        self._n_parameters = sum(parameter.numel() for parameter in target.module.parameters())
        initialise(target.module, target.config["n_layer"], config.seed)
        self._trainer = Pretrainer(
            target.module,
            config,
            self._batches,
            device=device,
            world=world,
            checkpoint=folder / STATE,
            checkpoint_seconds=checkpoint_seconds,
            identity=self._identity,
        )
        self._entropy: float | None = None
        self._metrics: MetricsLog | None = None

    def run(self) -> PretrainOutcome:
        config, trainer = self._config, self._trainer
        if self._model_file(config.steps).is_file():
            self._say(f"{self._folder} is a finished run of this configuration.")
            (self._folder / STATE).unlink(missing_ok=True)
            return PretrainOutcome(self._folder, config.steps, True, self._last_evaluation())
        trainer.restore()
        if self._world.is_first:
            self._metrics = MetricsLog(self._folder / METRICS_NAME, steps_done=trainer.step)
        self._say(
            f"{config.name}: {self._n_parameters:,} parameters, step {trainer.step:,} of {config.steps:,}, "
            f"on {trainer.device}, in {self._folder}"
        )
        self._started = (time.monotonic(), trainer.step)
        with StopSignal() as stop:
            finished = trainer.train(log=self._log, evaluate=self._evaluate, save_model=self._save_model, stop=stop)
        if finished and self._world.is_first:
            # The weights are written: whoever comes now finds a finished run.
            (self._folder / STATE).unlink(missing_ok=True)
        return PretrainOutcome(self._folder, trainer.step, finished, self._last_evaluation())

    def _check(self, dataset: TokenDataset, vocab_size: int, context: int | None) -> None:
        if dataset.max_token >= vocab_size:
            raise SpdToolsError(
                f"{dataset.source} has token id {dataset.max_token}, but model.vocab_size is {vocab_size}; make it "
                f"{dataset.max_token + 1} or more."
            )
        if context is not None and self._config.data.seq_len > context:
            raise SpdToolsError(
                f"data.seq_len {self._config.data.seq_len} is longer than the model's block_size {context}; "
                "make them equal."
            )

    def _write_description(self, dataset: TokenDataset) -> None:
        """What the run is, before it has weights; a folder of another run is refused."""
        folder, document = self._folder, self._config.model_dump(mode="json")
        existing = folder / FINAL_CONFIG
        if existing.is_file() and yaml.safe_load(existing.read_text()).get("identity") != self._identity:
            raise SpdToolsError(f"{folder} holds a run of another configuration or of other data; name another folder.")
        _make_folder(folder / "checkpoints")
        tokenizer = None
        if dataset.tokenizer_path is not None:
            write_bytes(folder / TOKENIZER, dataset.tokenizer_path.read_bytes())
            tokenizer = TOKENIZER
        document |= {"identity": self._identity, "train_dataset_config": {"hf_tokenizer_path": tokenizer}}
        write_bytes(folder / MODEL_CONFIG, yaml.safe_dump(self._config.model).encode())
        write_bytes(existing, yaml.safe_dump(document).encode())

    def _log(self, step: int, record: Record) -> None:
        if not self._world.is_first:
            return
        since, first = self._started
        n_tokens = (step + 1 - first) * self._config.batch_size * self._config.data.seq_len
        speed = n_tokens / max(1e-9, time.monotonic() - since)
        self._write("train", step, record)
        self._say(f"step {step:,}: loss {record['loss']:.4f} ({speed:,.0f} tokens/s)")

    def _evaluate(self, step: int) -> None:
        losses = torch.cat(self._trainer.evaluate())
        record: Record = {"held_out_loss": float(losses.double().mean())}
        record["held_out_perplexity"] = math.exp(record["held_out_loss"])
        said = f"step {step:,}: held-out perplexity {record['held_out_perplexity']:.4f}"
        if (entropy := self._generator_entropy()) is not None:
            record["generator_loss"], record["generator_perplexity"] = entropy, math.exp(entropy)
            above = math.expm1(record["held_out_loss"] - entropy)
            said += f", {above:+.1%} beside the generator's {record['generator_perplexity']:.4f}"
        self._write("eval", step, record)
        self._say(said)

    def _generator_entropy(self) -> float | None:
        """Nats per predicted token of the held-out rows by the grammar that told them; None for other data."""
        stories = self._config.data.stories
        if stories is None:
            return None
        if self._entropy is None:
            batches = [self._batches.evaluation(index).numpy() for index in range(self._config.n_eval_steps)]
            bits = Stories(stories.seed).bits(np.concatenate(batches))
            self._entropy = float(bits[:, 1:].mean()) * _NATS_PER_BIT
        return self._entropy

    def _model_file(self, step: int) -> Path:
        return self._folder / "checkpoints" / f"model_step_{step}.pt"

    def _save_model(self, step: int) -> None:
        write_weights(self._model_file(step), self._trainer.model)

    def _write(self, split: str, step: int, record: Record) -> None:
        assert self._metrics is not None, "records are written while training"
        self._metrics.write(split, step, record)

    def _last_evaluation(self) -> Record | None:
        path = self._folder / METRICS_NAME
        records = read_metrics(path, "eval") if path.is_file() else []
        return records[-1] if records else None


def load_data(config: PretrainConfig) -> tuple[TokenDataset, TokenDataset | None]:
    """Training rows, and held-out rows where they are not taken from those.

    Raises:
        SpdToolsError: when a data set cannot be had.
    """
    data = config.data
    if data.stories is not None:
        seed, n_rows = data.stories.seed, data.stories.n_rows
        return story_rows(seed, 0, n_rows, data.seq_len), story_rows(seed, n_rows, config.n_held_out, data.seq_len)
    return _prepare(data, data.split), _prepare(data, data.eval_split) if data.eval_split else None


def _prepare(data: PretrainData, split: str) -> TokenDataset:
    assert data.source is not None
    return prepare_tokens(
        DataConfig(source=data.source, split=split, column=data.column, seq_len=data.seq_len, tokenizer=data.tokenizer)
    )


def write_weights(path: Path, model: nn.Module) -> None:
    """A state dict, on the CPU, in one piece."""
    state: dict[str, Any] = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpdToolsError(f"Could not make {folder}: {error.strerror}; name another folder.") from error
