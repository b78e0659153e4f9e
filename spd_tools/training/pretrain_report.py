"""What the first rank of a pretraining reports: records, held-out losses, weights."""

from __future__ import annotations

import io
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from spd_tools.files import atomic_file
from spd_tools.render.safe import visible
from spd_tools.stories import Stories
from spd_tools.training.data import TokenBatches
from spd_tools.training.loop import Record
from spd_tools.training.pretrain import Pretrainer
from spd_tools.training.reporting import METRICS_NAME, MetricsLog

_NATS_PER_BIT = math.log(2)


class PretrainReport:
    """A ``Report`` of the loop."""

    def __init__(
        self, trainer: Pretrainer, folder: Path, *, batches: TokenBatches, steps_done: int, quiet: bool
    ) -> None:
        """Open the log.

        Args:
            trainer: What is trained.
            folder: The run's.
            batches: Of the evaluation.
            steps_done: Steps that it goes on from.
            quiet: No lines on stderr.

        Raises:
            SpdToolsError: when the folder cannot be written.
        """
        self._trainer, self._config, self._folder, self._batches = trainer, trainer.config, folder, batches
        self._quiet = quiet
        self._log = MetricsLog(folder / METRICS_NAME, steps_done=steps_done)
        self._start, self._steps_before = time.monotonic(), steps_done
        self._entropy: float | None = None

    def log(self, step: int, record: Record) -> None:
        """See ``Report``."""
        n_tokens = (step + 1 - self._steps_before) * self._config.batch_size * self._config.data.seq_len
        speed = n_tokens / max(1e-9, time.monotonic() - self._start)
        self._log.write("train", step, record)
        self.say(f"step {step:,}: loss {record['loss']:.4f} ({speed:,.0f} tokens/s)")

    def evaluate(self, step: int) -> None:
        """See ``Report``."""
        losses = torch.cat(self._trainer.evaluate())
        record: Record = {"held_out_loss": float(losses.double().mean())}
        record["held_out_perplexity"] = math.exp(record["held_out_loss"])
        said = f"step {step:,}: held-out perplexity {record['held_out_perplexity']:.4f}"
        if (entropy := self._generator_entropy()) is not None:
            record["generator_loss"], record["generator_perplexity"] = entropy, math.exp(entropy)
            above = math.expm1(record["held_out_loss"] - entropy)
            said += f", {above:+.1%} beside the generator's {record['generator_perplexity']:.4f}"
        self._log.write("eval", step, record)
        self.say(said)

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

    def save_model(self, step: int) -> None:
        """See ``Report``."""
        write_weights(weights_path(self._folder, step), self._trainer.model)

    def say(self, text: str) -> None:
        """A line on stderr."""
        if not self._quiet:
            print(visible(text), file=sys.stderr)


def weights_path(folder: Path, step: int) -> Path:
    """The weights after so many steps."""
    return folder / "checkpoints" / f"model_step_{step}.pt"


def write_weights(path: Path, model: nn.Module) -> None:
    """A state dict, on the CPU, in one piece."""
    state: dict[str, Any] = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic_file(path) as file:
        file.write(buffer.getbuffer())
