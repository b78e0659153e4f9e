"""Random numbers of a training step: a stream for every (seed, step, rank), so there is no state to lose."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

_STEPS_OF_16_BITS = 2.0**-16


class Noise:
    """Uniform numbers that depend on seed, step, rank and the order of calls only.

    On the CPU they are the midpoints of 2^16 equal cells, four from each 64-bit output of SFC64: several times faster
    than torch.rand, and masks do not need more digits. Elsewhere they are torch.rand's on that device.
    """

    def __init__(self, device: torch.device, *key: int) -> None:
        """``key``: non-negative integers, equal keys give equal numbers."""
        sequence = np.random.SeedSequence(key)
        self._device = device
        self._bits = np.random.SFC64(sequence)
        self._generator: torch.Generator | None = None
        if device.type != "cpu":
            self._generator = torch.Generator(device).manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def uniform(self, *shape: int) -> Tensor:
        """f32 in (0, 1) (on devices other than the CPU [0, 1))."""
        if self._generator is not None:
            return torch.rand(*shape, generator=self._generator, device=self._device)
        return self._cells(*shape).to(torch.float32).mul_(_STEPS_OF_16_BITS).add_(0.5 + _STEPS_OF_16_BITS / 2)

    def fair_coins(self, *shape: int) -> Tensor:
        """f32, 0 or 1 with equal chances."""
        if self._generator is not None:
            return torch.rand(*shape, generator=self._generator, device=self._device).round_()
        return (self._cells(*shape) & 1).to(torch.float32)

    def _cells(self, *shape: int) -> Tensor:
        """int16, all values equally likely."""
        n = math.prod(shape)
        raw = self._bits.random_raw(-(-n // 4)).view(np.int16)
        return torch.from_numpy(raw)[:n].view(shape)
