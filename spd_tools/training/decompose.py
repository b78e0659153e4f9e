"""`decompose`: from a configuration or an experiment's name to a run in the public format."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from spd_tools.decompositions.spd.components import locate
from spd_tools.decompositions.spd.files import CONFIG_NAME, TARGET_CONFIG_NAME
from spd_tools.decompositions.spd.loader import build_ci_function, fill
from spd_tools.decompositions.spd.state_dict import fingerprint
from spd_tools.errors import SpdToolsError
from spd_tools.settings import Settings
from spd_tools.targets.build import read_yaml_mapping
from spd_tools.training.config import TrainingConfig, parse_training_config, remarks
from spd_tools.training.data_sources import DataChoice, copy_tokenizer, open_batches
from spd_tools.training.distributed import World, join_world, leave_world
from spd_tools.training.experiments import experiment
from spd_tools.training.initialise import initialise
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.metric_configs import default_eval_metrics
from spd_tools.training.model import ComponentModel
from spd_tools.training.run_folder import (
    check_folder,
    claimed,
    model_path,
    write_config,
    write_identity,
)
from spd_tools.training.run_report import RunReport
from spd_tools.training.target import LoadedTarget, copy_target, load_target
from spd_tools.training.toys import toy_target_run
from spd_tools.training.trainer import CHECKPOINT_NAME, Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DecomposeRequest:
    """What `decompose` is asked to do."""

    source: str
    """A configuration file, the folder of a run, or an experiment's name."""
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
    checkpoint_seconds: float = 120.0
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
    state: Literal["finished", "already finished", "stopped"]
    """stopped: somebody asked to; --resume goes on."""
    steps_done: int
    """Of the configuration's."""
    metrics: dict[str, float]
    """Of the last evaluation in this process; empty when there was none."""
    reads_tokens: bool
    """Whether it can be harvested: not so the decomposition of a toy."""


def decompose(request: DecomposeRequest) -> DecomposeOutcome:
    """Train a decomposition.

    Raises:
        SpdToolsError: for a configuration that cannot be trained, a target or data that cannot be had, a folder that
            belongs to another training, or training that diverges.
    """
    if request.threads is not None:
        torch.set_num_threads(request.threads)
    world = join_world(device := _device(request.device))
    try:
        return _Decomposing(request, device, world).run()
    finally:
        leave_world(world)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise SpdToolsError(f"{name!r} is no device; take cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        raise SpdToolsError(f"Training on {device.type!r} is not supported; take cpu, cuda or cuda:N.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SpdToolsError("There is no CUDA device here; train with --device cpu.")
    return device


class _Decomposing:
    """One call of ``decompose``: everything is found first, then the folder is claimed and trained in."""

    def __init__(self, request: DecomposeRequest, device: torch.device, world: World) -> None:
        self.request, self.device, self.world = request, device, world
        self.name, self.raw, self.base = _read_source(request, world)
        self.config = parse_training_config(self.raw, request.source)
        self._remark()
        self.loaded = load_target(self.config, self.base)
        self.model = _build_model(self.config, self.loaded)
        self.batches, data_identity = open_batches(self.config, request.data, self.loaded, base=self.base, world=world)
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
        if self.config.autocast_bf16 and self.device.type == "cpu":
            logger.warning("autocast_bf16 is for CUDA: on the CPU training runs in f32.")
        if self.config.wandb_project and not self.request.wandb:
            logger.warning("wandb_project is given, but nothing is logged to W&B without --wandb.")

    @property
    def folder(self) -> Path:
        """Where the run goes."""
        if self.request.out is not None:
            return Path(self.request.out).expanduser().resolve()
        return Settings.from_environment().decompositions_dir / f"{self.name}-{self.identity[:8]}"

    def run(self) -> DecomposeOutcome:
        if not self.world.is_first:
            self.world.wait()  # until the first rank has the folder
            return self._train(None)
        with claimed(self.folder):
            check_folder(self.folder, self.identity, resume=self.request.resume)
            finished = model_path(self.folder, self.config.steps).exists()
            if finished and not (self.folder / CHECKPOINT_NAME).exists():
                if self.world.size > 1:
                    raise SpdToolsError(f"{self.folder} is trained already; use it, or name another with --out.")
                return DecomposeOutcome(self.folder, "already finished", self.config.steps, {}, not self.config.is_toy)
            self._write_run()
            self.world.wait()
            return self._train(self.folder)

    def _write_run(self) -> None:
        write_identity(self.folder, self.identity, version("spd-tools"))
        document = copy.deepcopy(self.raw)
        if (name := copy_target(self.loaded, self.folder)) is not None:
            document["pretrained_model_name"] = name
            document["pretrained_model_path"] = None
        if not self.config.is_toy:
            document["tokenizer_name"] = copy_tokenizer(self.config, self.loaded, self.folder, self.base)
        write_config(self.folder, document)

    def _train(self, folder: Path | None) -> DecomposeOutcome:
        """Train; only the first rank has a folder."""
        config, request = self.config, self.request
        trainer = Trainer(
            self.model,
            config,
            self.batches,
            device=self.device,
            world=self.world,
            checkpoint=self.folder / CHECKPOINT_NAME,
            checkpoint_seconds=request.checkpoint_seconds,
            identity=self.identity,
        )
        trainer.restore()
        report = (
            None
            if folder is None
            else RunReport(
                config,
                trainer,
                folder,
                metrics=self.metrics,
                batches=self.batches,
                raw=self.raw,
                wandb=request.wandb,
                quiet=not request.progress,
            )
        )
        with StopSignal() as stop:
            finished = trainer.train(
                log=lambda step, record: None if report is None else report.log("train", step, record),
                evaluate=lambda step: None if report is None else report.evaluate(step),
                save_model=lambda step: None if report is None else report.save_model(step),
                stop=stop,
            )
        if report is not None:
            report.finish()
        if finished and folder is not None:
            (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        return DecomposeOutcome(
            self.folder,
            "finished" if finished else "stopped",
            trainer.step,
            {} if report is None else report.last_metrics,
            not config.is_toy,
        )


def _read_source(request: DecomposeRequest, world: World) -> tuple[str, dict[str, Any], Path]:
    """The run's name, its configuration as a mapping with the request's changes, and the folder it stands in."""
    path = Path(request.source).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    if path.is_file():
        raw, base = read_yaml_mapping(path), path.resolve().parent
        name = base.name if path.name == CONFIG_NAME else path.stem
    else:
        name, base = request.source, Path.cwd()
        raw = _experiment_config(request, world)
    if request.target is not None:
        raw |= {"pretrained_model_name": _absolute(request.target), "pretrained_model_path": None}
    if request.steps is not None:
        raw["steps"] = request.steps
    if request.seed is not None:
        raw["seed"] = request.seed
    if isinstance(start := raw.get("init_spd_checkpoint"), str):
        raw["init_spd_checkpoint"] = str((base / Path(start).expanduser()).resolve())
    return name or "run", request.data.applied(raw, base), base


def _experiment_config(request: DecomposeRequest, world: World) -> dict[str, Any]:
    chosen = experiment(request.source)
    raw = chosen.config()
    if request.target is not None:
        return raw
    if chosen.toy is not None:
        recipe = chosen.toy if request.seed is None else chosen.toy.model_copy(update={"seed": request.seed})
        if not world.is_first:
            world.wait()
        raw["pretrained_model_name"] = str(toy_target_run(recipe, Settings.from_environment().targets_dir))
        if world.is_first:
            world.wait()
    elif not chosen.names_target:
        raise SpdToolsError(
            f"{request.source} needs a target that is pretrained first; name its run (the folder with "
            f"{TARGET_CONFIG_NAME}) with --target."
        )
    return raw


def _absolute(name: str) -> str:
    """A local path as an absolute one; other names (hub ids, W&B runs) as they are."""
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _build_model(config: TrainingConfig, loaded: LoadedTarget) -> ComponentModel:
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
