"""The loop of every training: the steps that are left, with records, evaluations, models and checkpoints in between."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from spd_tools.training.checkpoints import Stateful, load_checkpoint, save_checkpoint
from spd_tools.training.distributed import World
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.schedules import Schedule

CHECKPOINT_SECONDS = 120.0
"""Default of the least time between two checkpoints."""
Record = dict[str, float]
"""Names and numbers of one step or evaluation."""
OnStep = Callable[[int, int], None]
"""Takes the steps that are done, those of earlier processes included, and all of them."""


class Stepper(Protocol):
    """What is trained."""

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """Its learning rate is set before every step."""
        ...

    def parts(self) -> Mapping[str, Stateful]:
        """Everything that changes from step to step, by the names that checkpoints know."""
        ...

    def take_step(self, step: int, *, with_record: bool) -> Record:
        """Take the step that comes after ``step`` others; on all ranks alike.

        Returns:
            Losses before the step and whatever else is worth a record, means over ranks; empty if none was asked for.

        Raises:
            SpdToolsError: when a number of the record is no longer finite.
        """
        ...


class Report(Protocol):
    """What the first rank does with a training's numbers and weights."""

    def log(self, step: int, record: Record) -> None:
        """Takes the record of the step that came after ``step`` others."""
        ...

    def evaluate(self, step: int) -> None:
        """Called when ``step`` steps are done."""
        ...

    def save_model(self, step: int) -> None:
        """Called when ``step`` steps are done."""
        ...


@dataclass(frozen=True, kw_only=True)
class Rhythm:
    """How many steps there are, and what happens at which."""

    steps: int
    lr_schedule: Schedule
    log_freq: int
    """Steps between records; the last step has one too."""
    eval_freq: int
    """Steps between evaluations; there is one at the end too."""
    save_freq: int | None
    """Steps between models; None: only the one at the end."""


@dataclass(frozen=True, kw_only=True)
class CheckpointFile:
    """Where the state of a training in progress lies."""

    path: Path
    identity: str
    """Hash of everything that decides what is trained."""
    seconds: float = CHECKPOINT_SECONDS
    """Least time between two checkpoints; 0: one after every step."""


class TrainingLoop:
    """Takes the steps of a training, in this process and, after an interruption, in the next."""

    def __init__(
        self, stepper: Stepper, rhythm: Rhythm, *, checkpoint: CheckpointFile | None, world: World | None = None
    ) -> None:
        """``checkpoint``: None: nothing is saved."""
        self._stepper, self._rhythm, self._checkpoint = stepper, rhythm, checkpoint
        self._world = world or World()
        self.step = 0
        """Steps that are done."""
        self._last_saved = time.monotonic()

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            SpdToolsError: when it is damaged or belongs to another training.
        """
        known = self._checkpoint
        if known is not None:
            self.step = load_checkpoint(known.path, identity=known.identity, parts=self._stepper.parts()) or 0

    def run(
        self,
        report: Report | None,
        *,
        stop: StopSignal | None = None,
        on_step: OnStep = lambda done, total: None,
    ) -> bool:
        """Take the steps that are left.

        Args:
            report: Of the first rank; None on the others.
            stop: Asked after every step whether to save and stop.
            on_step: Progress.

        Returns:
            Whether training is finished.

        Raises:
            SpdToolsError: when the training diverges or the disk is full.
        """
        steps = self._rhythm.steps
        while self.step < steps:
            self._take_step(report)
            finished = self.step == steps
            if report is not None:
                self._report(report, finished)
            on_step(self.step, steps)
            stopping = not finished and stop is not None and self._world.agreed(stop.requested)
            if not finished and (stopping or self._checkpoint_due()):
                self._save()
            if stopping:
                return False
        return True

    def _take_step(self, report: Report | None) -> None:
        rhythm = self._rhythm
        rate = rhythm.lr_schedule.at(self.step, rhythm.steps)
        for group in self._stepper.optimizer.param_groups:
            group["lr"] = rate
        due = self.step % rhythm.log_freq == 0 or self.step == rhythm.steps - 1
        record = self._stepper.take_step(self.step, with_record=due)
        if due and report is not None:
            report.log(self.step, {"lr": rate} | record)
        self.step += 1

    def _report(self, report: Report, finished: bool) -> None:
        rhythm = self._rhythm
        if finished or self.step % rhythm.eval_freq == 0:
            report.evaluate(self.step)
        if finished or (rhythm.save_freq is not None and self.step % rhythm.save_freq == 0):
            report.save_model(self.step)

    def _checkpoint_due(self) -> bool:
        seconds = math.inf if self._checkpoint is None else self._checkpoint.seconds
        return time.monotonic() - self._last_saved >= seconds

    def _save(self) -> None:
        self._last_saved = time.monotonic()
        known = self._checkpoint
        if known is not None and self._world.is_first:
            save_checkpoint(known.path, step=self.step, identity=known.identity, parts=self._stepper.parts())
