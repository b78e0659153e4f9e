"""Training of small target models on the next token, a step at a time: AdamW."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError
from spd_tools.training.checkpoints import Stateful
from spd_tools.training.data import Batches
from spd_tools.training.distributed import World
from spd_tools.training.loop import Record, Rhythm
from spd_tools.training.pretrain_config import PretrainConfig

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


def rhythm_of(config: PretrainConfig) -> Rhythm:
    """How many steps there are, and what happens at which."""
    return Rhythm(
        steps=config.steps,
        lr_schedule=config.lr_schedule,
        log_freq=config.log_freq,
        eval_freq=config.eval_freq,
        save_freq=config.save_freq,
    )


class Pretrainer:
    """Trains a target model in place; a ``Stepper`` of the loop.

    Args:
        model: Initialised; it is moved to the device.
        config: What to do.
        batches: What to train on.
        device: Where.
        world: Which of how many processes this is.
    """

    def __init__(
        self,
        model: nn.Module,
        config: PretrainConfig,
        batches: Batches,
        *,
        device: torch.device,
        world: World | None = None,
    ) -> None:
        self.model = model.to(device).requires_grad_().train()
        self.config = config
        self.batches = batches
        self.device = device
        self.world = world or World()
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

    def parts(self) -> dict[str, Stateful]:
        """Model and optimiser."""
        return {"model": self.model, "optimizer": self.optimizer}

    def take_step(self, step: int, *, with_record: bool) -> Record:
        """See ``Stepper``."""
        config = self.config
        rows = self.batches.train(step).to(self.device, non_blocking=True)
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
        if not with_record:
            return {}
        mean = loss.detach()
        self.world.average([mean])
        return {"loss": _finite("loss", mean, step), "grad_norm": _finite("grad_norm", norm, step)}

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


def _finite(name: str, value: Tensor, step: int) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise SpdToolsError(f"{name} is {number} at step {step}: training has diverged; lower lr_schedule.start_val.")
    return number
