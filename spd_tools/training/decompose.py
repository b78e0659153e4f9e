"""`decompose`: from a configuration or an experiment's name to a run in the public format."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from spd_tools.decompositions.spd.components import locate
from spd_tools.decompositions.spd.files import TARGET_CONFIG_NAME
from spd_tools.decompositions.spd.loader import build_ci_function, fill
from spd_tools.decompositions.spd.state_dict import fingerprint
from spd_tools.errors import SpdToolsError
from spd_tools.settings import Settings
from spd_tools.training.config import TrainingConfig, parse_training_config, remarks
from spd_tools.training.configuration import Configuration, read_configuration
from spd_tools.training.data_sources import DataChoice, copy_tokenizer, open_batches
from spd_tools.training.distributed import World, find_device, join_world, leave_world
from spd_tools.training.experiments import experiment
from spd_tools.training.initialise import initialise
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.loop import CHECKPOINT_SECONDS, CheckpointFile, OnStep, TrainingLoop
from spd_tools.training.metric_configs import default_eval_metrics
from spd_tools.training.model import ComponentModel
from spd_tools.training.ranks import Ranked
from spd_tools.training.reporting import last_evaluation
from spd_tools.training.run_folder import (
    CHECKPOINT_NAME,
    check_folder,
    claimed,
    model_path,
    write_config,
    write_identity,
)
from spd_tools.training.run_report import RunReport
from spd_tools.training.target import LoadedTarget, copy_target, load_target
from spd_tools.training.toys import toy_target_run
from spd_tools.training.trainer import Trainer, rhythm_of

logger = logging.getLogger(__name__)

State = Literal["finished", "already finished", "stopped"]


@dataclass(frozen=True, kw_only=True)
class DecomposeRequest:
    """What `decompose` is asked to do."""

    source: str
    """A configuration file, the folder of a run, or an experiment's name."""
    configuration: Configuration | None = None
    """What the source names, where it has been read already."""
    out: str | None = None
    """Folder of the run; None: one below SPD_OUT_DIR, named by the configuration and its hash."""
    target: str | None = None
    """In place of the target that the configuration names."""
    data: DataChoice = field(default_factory=DataChoice)
    """In place of the data that the configuration names."""
    steps: int | None = None
    """In place of the configuration's."""
    seed: int | None = None
    """In place of the configuration's."""
    device: str | None = None
    """None: CUDA where there is one."""
    threads: int | None = None
    """Of torch on the CPU; None: as torch chooses."""
    resume: bool = False
    """Go on from an interrupted training in the folder."""
    wait: bool = False
    """Wait for a process that still trains in the folder; else it is an error."""
    checkpoint_seconds: float = CHECKPOINT_SECONDS
    """Least time between two checkpoints."""
    wandb: bool = False
    """Log to W&B too."""
    progress: bool = True
    """Lines on stderr."""


@dataclass(frozen=True)
class DecomposeOutcome:
    """What became of it."""

    folder: Path
    """The run: what `load_decomposition` takes."""
    state: State
    """stopped: somebody asked to; --resume goes on."""
    steps_done: int
    """Of the configuration's."""
    metrics: dict[str, float]
    """Of the last evaluation, those that are finite; empty when there was none."""
    reads_tokens: bool
    """Whether it can be harvested: not so the decomposition of a toy."""


def decompose(request: DecomposeRequest, *, on_step: OnStep = lambda done, total: None) -> DecomposeOutcome:
    """Train a decomposition.

    Args:
        request: What to do.
        on_step: Progress.

    Raises:
        SpdToolsError: for a configuration that cannot be trained, a target or data that cannot be had, a folder that
            belongs to another training, or training that diverges.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    world = join_world(device := find_device(request.device))
    try:
        return _Decomposing(request, device, world).run(on_step)
    finally:
        leave_world(world)


RANKED = Ranked(DecomposeRequest, DecomposeOutcome, decompose)


def prepare_decomposition(request: DecomposeRequest) -> Path:
    """Download the target, train a toy one, tokenise the data, and see that all of it fits; nothing is trained.

    Returns:
        The folder that the run will have.

    Raises:
        SpdToolsError: as ``decompose``.
    """
    return _Decomposing(request, torch.device("cpu"), World()).folder


def read_request(request: DecomposeRequest) -> tuple[Configuration, TrainingConfig]:
    """The configuration that a request asks for, checked as far as that goes without its target and data.

    Raises:
        SpdToolsError: when it cannot be trained, or the target of an experiment has to be named.
    """
    found = _changed(request.configuration or read_configuration(request.source), request)
    if found.base is None and not found.document.get("pretrained_model_name") and experiment(found.name).toy is None:
        raise SpdToolsError(
            f"{found.name} needs a target that is pretrained first; name its run (the folder with "
            f"{TARGET_CONFIG_NAME}) with --target."
        )
    return found, parse_training_config(found.document, request.source)


class _Decomposing:
    """One call of ``decompose``: everything is found first, then the folder is claimed and trained in."""

    def __init__(self, request: DecomposeRequest, device: torch.device, world: World) -> None:
        self.request, self.device, self.world = request, device, world
        found, self.config = read_request(request)
        self.name, self.base = found.name, found.folder
        with world.first_alone():
            self.raw = _with_toy_target(found, request.seed)
            self.config = parse_training_config(self.raw, request.source)
            self._remark()
            self.loaded = load_target(self.config, self.base)
            self.model = build_model(self.config, self.loaded)
            self.batches, data_identity = open_batches(
                self.config, request.data, self.loaded, base=self.base, world=world
            )
        self.identity = _identity(self.config, self.loaded, data_identity)
        self.metrics = (
            default_eval_metrics(toy=self.config.is_toy)
            if self.config.eval_metric_configs is None
            else self.config.eval_metric_configs
        )

    def _remark(self) -> None:
        if not self.world.is_first:
            return
        for sentence in remarks(self.config, self.raw):
            logger.warning("%s", sentence)
        if self.config.wandb_project and not self.request.wandb:
            logger.warning("wandb_project is given, but nothing is logged to W&B without --wandb.")

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        if self.request.out is not None:
            return Path(self.request.out).expanduser().resolve()
        return Settings.from_environment().decompositions_dir / f"{self.name}-{self.identity[:8]}"

    def run(self, on_step: OnStep) -> DecomposeOutcome:
        """Train, unless that is done already."""
        if not self.world.is_first:
            return self._train(None) if not self.world.agreed(False) else self._outcome("already finished")
        if self.config.autocast_bf16 and self.device.type == "cpu":
            logger.warning("autocast_bf16 is for CUDA: on the CPU training runs in f32.")
        with claimed(self.folder, wait=self.request.wait):
            check_folder(self.folder, self.identity, resume=self.request.resume)
            finished = model_path(self.folder, self.config.steps).exists()
            if self.world.agreed(finished and not (self.folder / CHECKPOINT_NAME).exists()):
                return self._outcome("already finished")
            self._write_run()
            return self._train(on_step)

    def _write_run(self) -> None:
        write_identity(self.folder, self.identity, version("spd-tools"))
        document = copy.deepcopy(self.raw)
        if (name := copy_target(self.loaded, self.folder)) is not None:
            document["pretrained_model_name"] = name
            document["pretrained_model_path"] = None
        if not self.config.is_toy:
            document["tokenizer_name"] = copy_tokenizer(self.config, self.loaded, self.folder, self.base)
        write_config(self.folder, document)

    def _train(self, on_step: OnStep | None) -> DecomposeOutcome:
        """Train; ``on_step``: of the first rank, which alone writes and evaluates."""
        config, request = self.config, self.request
        self.world.wait()  # until the first rank has written what the folder is
        trainer = Trainer(self.model, config, self.batches, device=self.device, world=self.world)
        checkpoint = CheckpointFile(
            path=self.folder / CHECKPOINT_NAME, identity=self.identity, seconds=request.checkpoint_seconds
        )
        loop = TrainingLoop(trainer, rhythm_of(config), checkpoint=checkpoint, world=self.world)
        loop.restore()
        report = None if on_step is None else self._report(trainer, loop.step)
        with StopSignal() as stop:
            if loop.step == 0:
                trainer.warm_up()
                if report is not None:
                    report.evaluate(0)
            finished = loop.run(report, stop=stop, on_step=on_step or (lambda done, total: None))
        if report is not None:
            report.finish()
            if finished:
                checkpoint.path.unlink(missing_ok=True)
        return self._outcome("finished" if finished else "stopped", loop.step)

    def _report(self, trainer: Trainer, steps_done: int) -> RunReport:
        return RunReport(
            self.config,
            trainer,
            self.folder,
            steps_done=steps_done,
            metrics=self.metrics,
            batches=self.batches,
            raw=self.raw,
            wandb=self.request.wandb,
            quiet=not self.request.progress,
        )

    def _outcome(self, state: State, steps_done: int | None = None) -> DecomposeOutcome:
        done = self.config.steps if steps_done is None else steps_done
        found = last_evaluation(self.folder) if self.world.is_first else {}  # which the first rank may be writing
        return DecomposeOutcome(self.folder, state, done, found, not self.config.is_toy)


def _changed(found: Configuration, request: DecomposeRequest) -> Configuration:
    """A configuration with what the request wants otherwise."""
    raw = copy.deepcopy(found.document)
    if request.target is not None:
        raw |= {"pretrained_model_name": _absolute(request.target), "pretrained_model_path": None}
    if request.steps is not None:
        raw["steps"] = request.steps
    if request.seed is not None:
        raw["seed"] = request.seed
    if isinstance(start := raw.get("init_spd_checkpoint"), str):
        raw["init_spd_checkpoint"] = str((found.folder / Path(start).expanduser()).resolve())
    return dataclasses.replace(found, document=request.data.applied(raw, found.folder))


def _with_toy_target(found: Configuration, seed: int | None) -> dict[str, Any]:
    """The configuration with the toy target that its experiment trains, for the same seed; others as they are."""
    if found.base is not None or found.document.get("pretrained_model_name"):
        return found.document
    recipe = experiment(found.name).toy
    assert recipe is not None, "seen before"
    recipe = recipe if seed is None else recipe.model_copy(update={"seed": seed})
    return found.document | {
        "pretrained_model_name": str(toy_target_run(recipe, Settings.from_environment().targets_dir))
    }


def _absolute(name: str) -> str:
    """A local path as an absolute one; other names (hub ids, W&B runs) as they are."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def build_model(config: TrainingConfig, loaded: LoadedTarget) -> ComponentModel:
    """The model before the first step.

    Raises:
        SpdToolsError: when components, target and init_spd_checkpoint do not fit together.
    """
    components = locate(loaded.target.module, config.module_info, config.identity_module_info)
    model = ComponentModel(
        target=loaded.target,
        components=components,
        ci_function=build_ci_function(config.ci_config, components),
        sigmoid_type=config.sigmoid_type,
        output_attr=config.pretrained_model_output_attr,
        is_toy=config.is_toy,
    )
    initialise(model, config.seed)
    if config.init_spd_checkpoint is not None:
        path = Path(config.init_spd_checkpoint)
        if not path.is_file():
            raise SpdToolsError(f"There is no init_spd_checkpoint {path}; correct that field.")
        fill(path, loaded.target, components, model.ci_function)
    return model


def _identity(config: TrainingConfig, loaded: LoadedTarget, data_identity: str) -> str:
    """Hash of everything that decides what is trained."""
    description = {
        "config": config.model_dump(mode="json", exclude={"pretrained_model_name", "pretrained_model_path"}),
        "target": fingerprint(loaded.target.config, [("target", loaded.target.module)]),
        "data": data_identity,
    }
    return hashlib.sha256(json.dumps(description, sort_keys=True).encode()).hexdigest()
