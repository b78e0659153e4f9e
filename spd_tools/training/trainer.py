"""SPD training a step at a time: AdamW on all losses, after a warm-up on faithfulness alone."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError
from spd_tools.training.checkpoints import Stateful
from spd_tools.training.config import TrainingConfig
from spd_tools.training.data import Batches
from spd_tools.training.distributed import World
from spd_tools.training.loop import Record, Rhythm
from spd_tools.training.losses import build_loss, faithfulness_pieces
from spd_tools.training.model import ComponentModel
from spd_tools.training.noise import Noise
from spd_tools.training.step import WeightedLoss, backward_step

_TRAINING_NOISE = 0


def rhythm_of(config: TrainingConfig) -> Rhythm:
    """How many steps there are, and what happens at which."""
    return Rhythm(
        steps=config.steps,
        lr_schedule=config.lr_schedule,
        log_freq=config.train_log_freq,
        eval_freq=config.eval_freq,
        save_freq=config.save_freq,
    )


class Trainer:
    """Trains a model in place; a ``Stepper`` of the loop."""

    def __init__(
        self,
        model: ComponentModel,
        config: TrainingConfig,
        batches: Batches,
        *,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        """Prepare a training.

        Args:
            model: Initialised; it is moved to the device.
            config: What to do.
            batches: What to train on.
            device: Where.
            world: Which of how many processes this is.
        """
        self.model = model
        self.config = config
        self.batches = batches
        self.device = device
        self.world = world or World()
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

    def parts(self) -> dict[str, Stateful]:
        """Components, causal-importance function, losses that keep something, optimiser."""
        parts: dict[str, Stateful] = {
            f"model.{name}": module for name, module in self.model.modules_by_key().items() if name != "target_model"
        }
        parts |= {f"loss.{weighted.name}": weighted.loss for weighted in self.losses}
        return parts | {"optimizer": self.optimizer}

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

    def take_step(self, step: int, *, with_record: bool) -> Record:
        """See ``Stepper``."""
        config = self.config
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
        record = self._losses(values, step) if with_record else {}
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

    def _losses(self, values: dict[str, Tensor], step: int) -> Record:
        """Losses of the step, means over ranks."""
        stacked = torch.stack(list(values.values()))
        self.world.average([stacked])
        losses = dict(zip(values, stacked.tolist(), strict=True))
        for name, value in losses.items():
            if not math.isfinite(value):
                raise SpdToolsError(
                    f"{name} is {value} at step {step}: training has diverged; lower lr_schedule.start_val or the "
                    "coefficients."
                )
        total = sum((weighted.coeff * losses[weighted.name] for weighted in self.losses), 0.0)
        return {"loss/total": total} | {f"loss/{name}": value for name, value in losses.items()}
