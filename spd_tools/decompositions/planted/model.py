"""The planted target model: a small residual network whose every number is a dyadic fraction.

Sums of such numbers are exact in float32, so nothing depends on the order of a matrix product: logits and activations
are the same bits for every batch size and on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from spd_tools.decompositions.planted.wiring import WINDOW


@dataclass(frozen=True)
class Change:
    """What ``run`` changes in one layer."""

    mask: Tensor | None = None
    """[batch, seq, C]"""
    clamp: Mapping[int, float | Tensor] = field(default_factory=dict[int, float | Tensor])
    """Component -> number or [batch, seq]."""
    delta: float = 1.0


class LayerOutput(NamedTuple):
    """What one layer did."""

    written: Tensor
    """[batch, seq, d_model]: what it adds to the stream."""
    natural: Tensor
    """[batch, seq, C]: component activations, given its input."""
    applied: Tensor
    """[batch, seq, C]: the same after mask and clamps."""


class Layer(nn.Module):
    """Hidden neurons over the last ``WINDOW`` positions, then the decomposed matrix [H, d_model].

    In the attention layer each neuron looks at one distance back, as a head with a fixed pattern does; what it finds
    is never negative, so that relu passes it on.
    """

    wraps: Tensor

    def __init__(
        self, w_in: Tensor, bias: Tensor, wraps: Tensor, read: Tensor, write: Tensor, uncovered: Tensor
    ) -> None:
        """Weights of the layer.

        Shapes: w_in [WINDOW, readable, H]; bias, wraps [H]; read [C, H]; write [C, d_model]; uncovered [H, d_model].
        """
        super().__init__()
        self.n_readable, self.n_hidden = w_in.shape[1:]
        # One product for all distances; hidden_BSH adds up its slices.
        self.w_in = _frozen(w_in.permute(1, 0, 2).reshape(self.n_readable, WINDOW * self.n_hidden))
        self.bias = _frozen(bias)
        self.register_buffer("wraps", wraps)
        self.read = _frozen(read)
        self.write = _frozen(write)
        self.uncovered = _frozen(uncovered)
        self.weight = _frozen(read.T @ write + uncovered)

    def hidden(self, stream: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Neurons [batch, seq, H], and the projections of the last positions for the next call."""
        batch, seq = stream.shape[:2]
        projected = (stream[..., : self.n_readable] @ self.w_in).view(batch, seq, WINDOW, self.n_hidden)
        if past is None:
            past = projected.new_zeros(batch, WINDOW - 1, WINDOW, self.n_hidden)
        seen = torch.cat([past, projected], dim=1)
        total = self.bias
        for distance in range(WINDOW):
            start = WINDOW - 1 - distance
            total = total + seen[:, start : start + seq, distance]
        folded = torch.where(self.wraps, (total - self.bias).frac() * 8 + self.bias, total)
        return folded.relu(), seen[:, seq:]

    def forward(self, hidden: Tensor, change: Change | None) -> LayerOutput:
        """What the layer writes, as the target (None) or component by component."""
        natural = hidden @ self.read.T
        if change is None:
            return LayerOutput(hidden @ self.weight, natural, natural)
        applied = natural if change.mask is None else natural * change.mask
        if change.clamp:
            applied = applied.clone()
            for index, value in change.clamp.items():
                applied[..., index] = value
        return LayerOutput(applied @ self.write + change.delta * (hidden @ self.uncovered), natural, applied)


class PlantedModel(nn.Module):
    """Embedding, layers that add to the stream one after the other, unembedding."""

    def __init__(
        self, token_embedding: Tensor, position_embedding: Tensor, layers: Mapping[str, Layer], unembedding: Tensor
    ) -> None:
        """Shapes: token_embedding [vocab, d_model]; position_embedding [seq, d_model]; unembedding [d_model, vocab]."""
        super().__init__()
        self.token_embedding = _frozen(token_embedding)
        self.position_embedding = _frozen(position_embedding)
        self.unembedding = _frozen(unembedding)
        self.names = list(layers)
        self.layers = nn.ModuleList(layers.values())

    def layer(self, name: str) -> Layer:
        """The layer of that name."""
        layer = self.layers[self.names.index(name)]
        assert isinstance(layer, Layer)
        return layer

    def forward(
        self, tokens: Tensor, changes: Mapping[str, Change], start: int = 0, past: list[Tensor] | None = None
    ) -> tuple[Tensor, dict[str, LayerOutput], list[Tensor]]:
        """Logits [batch, seq, vocab], the layers' outputs, and the state with which the row can be continued.

        Args:
            tokens: [batch, seq] int64.
            changes: layer -> what is different there.
            start: position of the first token.
            past: the state that the call for the positions before ``start`` returned.
        """
        stream = self.token_embedding[tokens] + self.position_embedding[start : start + tokens.shape[1]]
        outputs: dict[str, LayerOutput] = {}
        state: list[Tensor] = []
        for at, name in enumerate(self.names):
            layer = self.layer(name)
            hidden, seen = layer.hidden(stream, past[at] if past else None)
            outputs[name] = layer(hidden, changes.get(name))
            stream = stream + outputs[name].written
            state.append(seen)
        return stream @ self.unembedding, outputs, state


def _frozen(weight: Tensor) -> nn.Parameter:
    return nn.Parameter(weight.contiguous(), requires_grad=False)
