"""A pretraining as a folder, in the format in which SPD runs find their targets.

===============================  ===================================================================================
model_config.yaml                the architecture
final_config.yaml                the whole configuration
tokenizer.json                   absent for data that came tokenised
checkpoints/model_step_<n>.pt    weights; the last one is written when training is finished
metrics.jsonl                    a record per line: training losses, held-out losses
training.pt                      state of a training in progress: whoever finds it goes on from it
lock                             held by the process that trains
===============================  ===================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import yaml

from spd_tools.errors import SpdToolsError
from spd_tools.files import write_bytes
from spd_tools.settings import Settings
from spd_tools.targets.build import build_in_repo_target
from spd_tools.tokens import DataConfig, TokenDataset, prepare_tokens, story_rows
from spd_tools.training.data import TokenBatches
from spd_tools.training.distributed import World, find_device, join_world, leave_world
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.loop import CHECKPOINT_SECONDS, CheckpointFile, OnStep, TrainingLoop
from spd_tools.training.pretrain import Pretrainer, initialise, rhythm_of
from spd_tools.training.pretrain_config import PretrainConfig, PretrainData
from spd_tools.training.pretrain_report import PretrainReport, weights_path
from spd_tools.training.ranks import Ranked
from spd_tools.training.reporting import last_evaluation
from spd_tools.training.run_folder import CHECKPOINT_NAME, claimed

MODEL_CONFIG, FINAL_CONFIG, TOKENIZER = "model_config.yaml", "final_config.yaml", "tokenizer.json"


@dataclass(frozen=True, kw_only=True)
class PretrainRequest:
    """What `pretrain` is asked to do."""

    config: PretrainConfig
    """What to train, on what."""
    out: str | None = None
    """Folder of the run; None: one below ``SPD_OUT_DIR/runs``, by name and configuration."""
    device: str | None = None
    """None: CUDA where there is one."""
    threads: int | None = None
    """Of torch on the CPU; None: as torch chooses."""
    wait: bool = False
    """Wait for a process that still trains in the folder; else it is an error."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Least time between two checkpoints."""
    progress: bool = True
    """Lines on stderr."""


@dataclass(frozen=True)
class PretrainOutcome:
    """What became of a pretraining."""

    folder: Path
    """The run."""
    step: int
    """Steps that are done."""
    finished: bool
    """False: it was asked to stop, and goes on from here when it is started again."""
    held_out: dict[str, float]
    """The last evaluation; empty before the first."""


def pretrain(request: PretrainRequest, *, on_step: OnStep = lambda done, total: None) -> PretrainOutcome:
    """Pretrain a target model, or go on with it.

    Args:
        request: What to do.
        on_step: Progress.

    Raises:
        SpdToolsError: when data, sizes and folder do not fit together, or the loss is no longer finite.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    device = find_device(request.device)
    world = join_world(device)
    try:
        return _Run(request, device, world).run(on_step)
    finally:
        leave_world(world)


RANKED = Ranked(PretrainRequest, PretrainOutcome, pretrain)


def run_folder(request: PretrainRequest) -> Path:
    """Where the run goes."""
    if request.out is not None:
        return Path(request.out).expanduser().resolve()
    name = f"pretrain-{request.config.name}-{request.config.identity()[:8]}"
    return Settings.from_environment().run_cache(name)


class _Run:
    """One call of ``pretrain``."""

    def __init__(self, request: PretrainRequest, device: torch.device, world: World) -> None:
        self._request, self._config, self._device, self._world = request, request.config, device, world
        self._folder = run_folder(request)
        with world.first_alone():
            self._dataset, held_out = load_data(self._config)
        self._identity = self._config.identity(self._dataset.fingerprint)
        self._batches = TokenBatches(
            self._dataset,
            batch_size=self._config.batch_size,
            eval_dataset=held_out,
            eval_batch_size=self._config.eval_batch_size,
            n_eval_steps=self._config.n_eval_steps,
            seed=self._config.seed,
            shuffle_each_epoch=True,
            world=world,
        )

    def run(self, on_step: OnStep) -> PretrainOutcome:
        """Train, unless that is done already."""
        if not self._world.is_first:
            return self._outcome(self._config.steps) if self._world.agreed(False) else self._train(None)
        with claimed(self._folder, wait=self._request.wait):
            self._write_description()
            finished = weights_path(self._folder, self._config.steps).is_file()
            if self._world.agreed(finished):
                self._checkpoint.path.unlink(missing_ok=True)
                return self._outcome(self._config.steps)
            return self._train(on_step)

    @property
    def _checkpoint(self) -> CheckpointFile:
        return CheckpointFile(
            path=self._folder / CHECKPOINT_NAME, identity=self._identity, seconds=self._request.checkpoint_seconds
        )

    def _train(self, on_step: OnStep | None) -> PretrainOutcome:
        """Train; ``on_step``: of the first rank, which alone writes and evaluates."""
        config = self._config
        target = build_in_repo_target(config.model["model_type"], self._folder / MODEL_CONFIG)
        self._check(target.vocab_size, target.context)
        initialise(target.module, target.config["n_layer"], config.seed)
        trainer = Pretrainer(target.module, config, self._batches, device=self._device, world=self._world)
        loop = TrainingLoop(trainer, rhythm_of(config), checkpoint=self._checkpoint, world=self._world)
        loop.restore()
        report = None if on_step is None else self._report(trainer, loop.step)
        with StopSignal() as stop:
            finished = loop.run(report, stop=stop, on_step=on_step or (lambda done, total: None))
        if finished and report is not None:
            # The weights are written: whoever comes now finds a finished run.
            self._checkpoint.path.unlink(missing_ok=True)
        return self._outcome(loop.step)

    def _report(self, trainer: Pretrainer, steps_done: int) -> PretrainReport:
        report = PretrainReport(
            trainer, self._folder, batches=self._batches, steps_done=steps_done, quiet=not self._request.progress
        )
        n_parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
        report.say(
            f"{self._config.name}: {n_parameters:,} parameters, step {steps_done:,} of {self._config.steps:,}, "
            f"on {trainer.device}, in {self._folder}"
        )
        return report

    def _outcome(self, step: int) -> PretrainOutcome:
        found = last_evaluation(self._folder) if self._world.is_first else {}  # which the first rank may be writing
        return PretrainOutcome(self._folder, step, step == self._config.steps, found)

    def _check(self, vocab_size: int, context: int | None) -> None:
        dataset = self._dataset
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

    def _write_description(self) -> None:
        """What the run is, before it has weights; a folder of another run is refused."""
        folder, document = self._folder, self._config.model_dump(mode="json")
        existing = folder / FINAL_CONFIG
        if existing.is_file() and yaml.safe_load(existing.read_text()).get("identity") != self._identity:
            raise SpdToolsError(f"{folder} holds a run of another configuration or of other data; name another folder.")
        _make_folder(folder / "checkpoints")
        tokenizer = None
        if self._dataset.tokenizer_path is not None:
            write_bytes(folder / TOKENIZER, self._dataset.tokenizer_path.read_bytes())
            tokenizer = TOKENIZER
        document |= {"identity": self._identity, "train_dataset_config": {"hf_tokenizer_path": tokenizer}}
        write_bytes(folder / MODEL_CONFIG, yaml.safe_dump(self._config.model).encode())
        write_bytes(existing, yaml.safe_dump(document).encode())


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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SpdToolsError(f"Could not make {folder}: {error.strerror}; name another folder.") from error
