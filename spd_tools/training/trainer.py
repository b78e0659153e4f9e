"""The training loop: faithfulness warm-up, then AdamW on all losses, with evaluations and checkpoints."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError
from spd_tools.training.checkpoints import Stateful, load_checkpoint, save_checkpoint
from spd_tools.training.config import TrainingConfig
from spd_tools.training.data import Batches
from spd_tools.training.distributed import World
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.losses import build_loss, faithfulness_pieces
from spd_tools.training.model import ComponentModel
from spd_tools.training.noise import Noise
from spd_tools.training.step import WeightedLoss, backward_step

CHECKPOINT_NAME = "training.pt"
"""State of a training in progress, in the run's folder; removed when it is finished."""
_TRAINING_NOISE = 0

Record = dict[str, Any]


class Trainer:
    """Trains a model in place."""

    def __init__(
        self,
        model: ComponentModel,
        config: TrainingConfig,
        batches: Batches,
        *,
        device: torch.device,
        world: World | None = None,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 120.0,
        identity: str = "",
    ) -> None:
        """Prepare a training.

        Args:
            model: Initialised; it is moved to the device.
            config: What to do.
            batches: What to train on.
            device: Where.
            world: Which of how many processes this is.
            checkpoint: File for the state; None: nothing is saved.
            checkpoint_seconds: Least time between two checkpoints; 0: one after every step.
            identity: Hash of everything that decides what is trained.
        """
        self.model = model
        self.config = config
        self.batches = batches
        self.device = device
        self.world = world or World()
        self._checkpoint, self._checkpoint_seconds, self._identity = checkpoint, checkpoint_seconds, identity
        model.to(device)
        for parameter in (*model.component_parameters(), *model.ci_parameters()):
            parameter.requires_grad_()
        self.losses = [
            WeightedLoss(entry.classname, entry.coeff or 0.0, build_loss(entry)) for entry in config.loss_metric_configs
        ]
        self.optimizer = torch.optim.AdamW(
            [{"params": model.component_parameters()}, {"params": model.ci_parameters()}],
            lr=config.lr_schedule.start_val,
            weight_decay=0.0,
            fused=True,
        )
        self.step = 0
        """Steps that are done."""
        self._last_saved = time.monotonic()

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Stateful] = {
            f"model.{name}": module for name, module in self.model.modules_by_key().items() if name != "target_model"
        }
        parts |= {f"loss.{weighted.name}": weighted.loss for weighted in self.losses}
        return parts | {"optimizer": self.optimizer}

    def restore(self) -> bool:
        """Go on from the checkpoint, if there is one; returns whether there was."""
        if self._checkpoint is None:
            return False
        step = load_checkpoint(self._checkpoint, identity=self._identity, parts=self._parts())
        self.step = step or 0
        return step is not None

    def save(self) -> None:
        """Write the checkpoint."""
        self._last_saved = time.monotonic()
        if self._checkpoint is not None and self.world.is_first:
            save_checkpoint(self._checkpoint, step=self.step, identity=self._identity, parts=self._parts())

    def warm_up(self) -> None:
        """Faithfulness alone, with an AdamW of its own; all ranks do the same."""
        config = self.config
        parameters = self.model.component_parameters()
        optimizer = torch.optim.AdamW(
            parameters,
            lr=config.faithfulness_warmup_lr,
            weight_decay=config.faithfulness_warmup_weight_decay,
            fused=True,
        )
        for _ in range(config.faithfulness_warmup_steps):
            for piece in faithfulness_pieces(self.model):
                piece.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def train(
        self,
        *,
        log: Callable[[int, Record], None],
        evaluate: Callable[[int], None],
        save_model: Callable[[int], None],
        stop: StopSignal | None = None,
    ) -> bool:
        """Take the steps that are left.

        Args:
            log: Takes a step's number (those done before it) and its losses, every ``train_log_freq`` steps.
            evaluate: Called on every rank before step 0, then every ``eval_freq`` steps and at the end.
            save_model: Called on the first rank with the steps done, every ``save_freq`` steps and at the end.
            stop: Asked after every step whether to save and stop.

        Returns:
            Whether training is finished.

        Raises:
            SpdToolsError: when a loss is no longer finite.
        """
        config = self.config
        if self.step == 0:
            self.warm_up()
            evaluate(0)
        while self.step < config.steps:
            logging_due = self.step % config.train_log_freq == 0 or self.step == config.steps - 1
            record = self._train_step(with_record=logging_due)
            if logging_due:
                log(self.step, record)
            self.step += 1
            finished = self.step == config.steps
            if self.step % config.eval_freq == 0 or finished:
                evaluate(self.step)
            if self.world.is_first and (finished or (config.save_freq and self.step % config.save_freq == 0)):
                save_model(self.step)
            stopping = not finished and stop is not None and self.world.agreed(stop.requested)
            if not finished and (stopping or self._checkpoint_due()):
                self.save()
            if stopping:
                return False
        return True

    def _checkpoint_due(self) -> bool:
        return self._checkpoint is not None and time.monotonic() - self._last_saved >= self._checkpoint_seconds

    def _train_step(self, *, with_record: bool) -> Record:
        config, step = self.config, self.step
        rate = config.lr_schedule.at(step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        values = backward_step(
            self.model,
            self.losses,
            config,
            self.batches.train(step).to(self.device, non_blocking=True),
            noise=Noise(self.device, config.seed, _TRAINING_NOISE, step, self.world.rank),
            step=step,
            world=self.world,
            autocast=config.autocast_bf16 and self.device.type == "cuda",
        )
        components, ci_function = self.model.component_parameters(), self.model.ci_parameters()
        self.world.average_gradients([*components, *ci_function])
        record = self._record(values, rate) if with_record else {}
        for name, parameters, norm in (
            ("components", components, config.grad_clip_norm_components),
            ("ci_fns", ci_function, config.grad_clip_norm_ci_fns),
        ):
            gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
            if gradients and (norm is not None or with_record):
                found = nn.utils.get_total_norm(gradients)
                if norm is not None:
                    nn.utils.clip_grads_with_norm_(parameters, norm, found)
                if with_record:
                    record[f"grad_norm/{name}"] = float(found)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return record

    def _record(self, values: dict[str, Tensor], rate: float) -> Record:
        """Losses of the step, means over ranks."""
        stacked = torch.stack(list(values.values()))
        self.world.average([stacked])
        losses = dict(zip(values, stacked.tolist(), strict=True))
        for name, value in losses.items():
            if value != value or value in (float("inf"), float("-inf")):
                raise SpdToolsError(
                    f"{name} is {value} at step {self.step}: training has diverged; lower lr_schedule.start_val or the "
                    "coefficients."
                )
        total = sum(weighted.coeff * losses[weighted.name] for weighted in self.losses)
        return {"lr": rate, "loss/total": total} | {f"loss/{name}": value for name, value in losses.items()}
