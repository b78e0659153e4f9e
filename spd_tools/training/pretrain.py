"""Training of small target models on the next token: AdamW, and checkpoints from which it goes on to the bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError
from spd_tools.training.checkpoints import Stateful, load_checkpoint, save_checkpoint
from spd_tools.training.data import Batches
from spd_tools.training.distributed import World
from spd_tools.training.interrupts import StopSignal
from spd_tools.training.pretrain_config import PretrainConfig

Record = dict[str, Any]

_INIT_STD = 0.02
_RESIDUAL_WRITERS = ("o_proj", "c_proj", "down_proj")
"""Modules whose output is added to the residual stream."""


def initialise(model: nn.Module, n_layer: int, seed: int) -> None:
    """Draw weights as GPT-2 does (Radford et al. 2019, section 2.3).

    N(0, 0.02²); what writes to the residual stream is scaled by 1/√(2·n_layer); biases 0, norms 1.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and name != "lm_head":  # lm_head is the embedding
            writes = name.rpartition(".")[2] in _RESIDUAL_WRITERS
            std = _INIT_STD / math.sqrt(2 * n_layer) if writes else _INIT_STD
            nn.init.normal_(module.weight, std=std, generator=generator)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)


def next_token_losses(model: nn.Module, rows: Tensor) -> Tensor:
    """Nats per predicted token, f32: rows [batch, seq] int64 -> [batch, seq - 1]."""
    logits = model(rows)[0][:, :-1]
    losses = F.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), reduction="none")
    return losses.view(len(rows), -1)


class Pretrainer:
    """Trains a target model in place.

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

    def __init__(
        self,
        model: nn.Module,
        config: PretrainConfig,
        batches: Batches,
        *,
        device: torch.device,
        world: World | None = None,
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 120.0,
        identity: str = "",
    ) -> None:
        self.model = model.to(device).requires_grad_().train()
        self.config = config
        self.batches = batches
        self.device = device
        self.world = world or World()
        self._checkpoint, self._checkpoint_seconds, self._identity = checkpoint, checkpoint_seconds, identity
        self._parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in self._parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
                {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0},
            ],
            lr=config.lr_schedule.start_val,
            betas=config.betas,
            fused=True,
        )
        self.step = 0
        """Steps that are done."""
        self._last_saved = time.monotonic()

    @property
    def _parts(self) -> dict[str, Stateful]:
        return {"model": self.model, "optimizer": self.optimizer}

    def restore(self) -> None:
        """Go on from the checkpoint, if there is one.

        Raises:
            SpdToolsError: when it is damaged or belongs to another training.
        """
        if self._checkpoint is not None:
            self.step = load_checkpoint(self._checkpoint, identity=self._identity, parts=self._parts) or 0

    def save(self) -> None:
        """Write the checkpoint."""
        self._last_saved = time.monotonic()
        if self._checkpoint is not None and self.world.is_first:
            save_checkpoint(self._checkpoint, step=self.step, identity=self._identity, parts=self._parts)

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
            log: Takes the number of a step and its loss, every ``log_freq`` steps.
            evaluate: Called on the first rank with the steps done, every ``eval_freq`` steps and at the end.
            save_model: Likewise, every ``save_freq`` steps and at the end.
            stop: Asked after every step whether to save and stop.

        Returns:
            Whether training is finished.

        Raises:
            SpdToolsError: when the loss is no longer finite.
        """
        config = self.config
        while self.step < config.steps:
            record = self._train_step()
            if self.step % config.log_freq == 0 or self.step == config.steps - 1:
                self.world.average([record["loss"]])
                log(self.step, {name: self._finite(name, value) for name, value in record.items()})
            self.step += 1
            finished = self.step == config.steps
            if self.world.is_first and (finished or self.step % config.eval_freq == 0):
                evaluate(self.step)
            if self.world.is_first and (finished or (config.save_freq and self.step % config.save_freq == 0)):
                save_model(self.step)
            stopping = not finished and stop is not None and self.world.agreed(stop.requested)
            if not finished and (stopping or time.monotonic() - self._last_saved >= self._checkpoint_seconds):
                self.save()
            if stopping:
                return False
        return True

    def _train_step(self) -> dict[str, Tensor]:
        config = self.config
        rate = config.lr_schedule.at(self.step, config.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        rows = self.batches.train(self.step).to(self.device, non_blocking=True)
        autocast = config.autocast_bf16 and self.device.type == "cuda"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            loss = next_token_losses(self.model, rows).mean()
        loss.backward()
        self.world.average_gradients(self._parameters)
        norm = nn.utils.get_total_norm([p.grad for p in self._parameters if p.grad is not None])
        if config.grad_clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, config.grad_clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.detach(), "grad_norm": norm, "lr": torch.tensor(rate)}

    def _finite(self, name: str, value: Tensor) -> float:
        number = float(value)
        if not math.isfinite(number):
            raise SpdToolsError(
                f"{name} is {number} at step {self.step}: training has diverged; lower lr_schedule.start_val."
            )
        return number

    @torch.no_grad()
    def evaluate(self) -> list[Tensor]:
        """Held-out losses in nats, [rows, seq - 1] per evaluation batch, f32 without autocast."""
        self.model.eval()
        try:
            return [
                next_token_losses(self.model, self.batches.evaluation(index).to(self.device)).cpu()
                for index in range(self.config.n_eval_steps)
            ]
        finally:
            self.model.train()
