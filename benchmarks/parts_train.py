"""What a training step of `make bench-train` cannot do without, in plain torch: its parts, each timed apart.

FROZEN: this file imports nothing of spd_tools, so its times move with the machine and with torch only. Formulas are
those of Bushnaq et al. 2025 (arXiv:2506.20790), written as lean as plain torch allows: what the components leave over
costs no product of its own (((x V) (m - d)) U + d x W), and the subset loss computes components at the positions that
use them only. The numbers that masks are made from are given; drawing them is no part, nor is the optimiser.

Sizes are those of the story model: a LlamaSimpleMLP of 2 layers, d 128, and its decomposition.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

N_LAYER, D, HIDDEN, HEADS, VOCAB = 2, 128, 512, 4, 949
BATCH, SEQ = 8, 128
CI_HIDDEN = 256
C = {
    "mlp.c_fc": 512,
    "mlp.down_proj": 512,
    "attn.q_proj": 64,
    "attn.k_proj": 64,
    "attn.v_proj": 128,
    "attn.o_proj": 128,
}
LAYERS = [f"h.{i}.{name}" for name in C for i in range(N_LAYER)]
EPS, LEAK = 1e-12, 0.01


@dataclass(frozen=True)
class Weights:
    """Everything that the parts compute with; matrices are [in, out]."""

    embedding: Tensor
    norms: Mapping[str, Tensor]
    target: Mapping[str, Tensor]
    V: Mapping[str, Tensor]
    U: Mapping[str, Tensor]
    ci: Mapping[str, tuple[Tensor, Tensor, Tensor, Tensor]]
    """Layer -> W and b of the hidden layer, W and b of the output."""

    def trained(self) -> list[Tensor]:
        """All V and U, then what the causal-importance functions consist of."""
        components = [matrix for name in LAYERS for matrix in (self.V[name], self.U[name])]
        return components + [tensor for name in LAYERS for tensor in self.ci[name]]


@dataclass(frozen=True)
class Numbers:
    """What the masks of one stochastic loss are made from: layer -> s and d at ``rows`` (None: all positions)."""

    s: Mapping[str, Tensor]
    d: Mapping[str, Tensor]
    rows: Mapping[str, Tensor | None]


Module = Callable[[str, Tensor], Tensor]
"""A layer's output from its name and its input [positions, in]."""


def run(weights: Weights, tokens: Tensor, module: Module) -> Tensor:
    """Logits [positions, vocab]; ``module`` computes the decomposed layers."""
    x = weights.embedding[tokens.flatten()]
    for i in range(N_LAYER):
        read = F.rms_norm(x, (D,), weights.norms[f"h.{i}.rms_1"], 1e-6)
        q, k, v = (heads(module(f"h.{i}.attn.{name}_proj", read)) for name in "qkv")
        mixed = F.scaled_dot_product_attention(rotated(q), rotated(k), v, is_causal=True)
        x = x + module(f"h.{i}.attn.o_proj", mixed.transpose(1, 2).reshape(-1, D))
        read = F.rms_norm(x, (D,), weights.norms[f"h.{i}.rms_2"], 1e-6)
        x = x + module(f"h.{i}.mlp.down_proj", F.gelu(module(f"h.{i}.mlp.c_fc", read), approximate="tanh"))
    return F.rms_norm(x, (D,), weights.norms["ln_f"], 1e-6) @ weights.embedding.T


def heads(x: Tensor) -> Tensor:
    """[positions, D] -> [batch, heads, seq, D / heads]."""
    return x.view(BATCH, SEQ, HEADS, -1).transpose(1, 2)


_FREQUENCIES = 10000.0 ** -(torch.arange(0, D // HEADS, 2) / (D // HEADS))
_ANGLES = torch.outer(torch.arange(SEQ).float(), _FREQUENCIES)
_COS, _SIN = _ANGLES.cos(), _ANGLES.sin()


def rotated(x: Tensor) -> Tensor:
    """Rotary position embedding of [batch, heads, seq, width], halves as pairs."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * _COS - second * _SIN, second * _COS + first * _SIN], dim=-1)


class LowerLeaky(torch.autograd.Function):
    """clamp(x, 0, 1); below 0 a gradient that would raise x passes with slope LEAK."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        outside = torch.where(x < 0, LEAK * gradient.clamp_max(0), 0.0)
        return torch.where((x >= 0) & (x <= 1), gradient, outside)


def upper_leaky(x: Tensor) -> Tensor:
    """max(x, 0), with slope LEAK above 1."""
    return torch.where(x > 1, 1 + LEAK * (x - 1), x.relu())


class Parts:
    """The parts of one step on one batch; each is a function to time, and all together are the step."""

    def __init__(self, weights: Weights, tokens: Tensor, numbers: Mapping[str, Numbers], p: float) -> None:
        """``numbers``: those of StochasticReconSubsetLoss and StochasticReconLoss."""
        self.weights, self.tokens, self.numbers, self.p = weights, tokens, numbers, p
        self.losses: dict[str, Tensor] = {}
        self.target_forward()
        with torch.no_grad():
            pre = self.pre_ci()
            self.lower = {name: x.clamp(0, 1).requires_grad_() for name, x in pre.items()}
            self.upper = {name: upper_leaky(x).requires_grad_() for name, x in pre.items()}

    def forget_gradients(self) -> None:
        """As before a step."""
        for tensor in (*self.weights.trained(), *self.lower.values(), *self.upper.values()):
            tensor.grad = None

    def by_name(self) -> dict[str, Callable[[], None]]:
        """In the order in which they make a step: the losses' gradients are what the last one differentiates."""
        return {
            "target forward": self.target_forward,
            "FaithfulnessLoss": self.faithfulness,
            "ImportanceMinimalityLoss": self.importance_minimality,
            "StochasticReconSubsetLoss": lambda: self.reconstruction("StochasticReconSubsetLoss"),
            "StochasticReconLoss": lambda: self.reconstruction("StochasticReconLoss"),
            "CIMaskedReconLoss": lambda: self.reconstruction("CIMaskedReconLoss"),
            "causal importances": self.causal_importances,
        }

    def target_forward(self) -> None:
        """The target as it is, what its decomposed modules read, and its log-probabilities."""
        self.inputs: dict[str, Tensor] = {}

        def module(name: str, x: Tensor) -> Tensor:
            self.inputs[name] = x
            return x @ self.weights.target[name]

        with torch.no_grad():
            self.log_p = run(self.weights, self.tokens, module).log_softmax(-1)
            self.p_target = self.log_p.exp()

    def pre_ci(self) -> dict[str, Tensor]:
        """Layer -> [positions, C]."""
        pre: dict[str, Tensor] = {}
        for name in LAYERS:
            w1, b1, w2, b2 = self.weights.ci[name]
            pre[name] = torch.addmm(b2, F.gelu(torch.addmm(b1, self.inputs[name], w1)), w2)
        return pre

    def causal_importances(self) -> None:
        """Forward and backward, from the gradients that the losses left."""
        pre = self.pre_ci()
        lower = [LowerLeaky.apply(x) for x in pre.values()]
        upper = [upper_leaky(x) for x in pre.values()]
        leaves = [*self.lower.values(), *self.upper.values()]
        torch.autograd.backward([*lower, *upper], [leaf.grad for leaf in leaves])  # pyright: ignore

    def faithfulness(self) -> None:
        """Forward and backward."""
        weights = self.weights
        squares = [(weights.target[n] - weights.V[n] @ weights.U[n]).square().sum() for n in LAYERS]
        loss = torch.stack(squares).sum() / sum(weights.target[name].numel() for name in LAYERS)
        self._finish("FaithfulnessLoss", loss)

    def importance_minimality(self) -> None:
        """Forward and backward, down to the causal importances."""
        loss = torch.stack([(x + EPS).pow(self.p).mean(0).sum() for x in self.upper.values()]).sum()
        self._finish("ImportanceMinimalityLoss", loss)

    def reconstruction(self, name: str) -> None:
        """One masked forward and backward, down to the causal importances."""
        log_q = self.masked_logits(name).log_softmax(-1)
        self._finish(name, (self.p_target * (self.log_p - log_q)).sum() / (BATCH * SEQ))

    def masked_logits(self, loss: str) -> Tensor:
        """[positions, vocab] under a loss's masks."""
        weights, numbers = self.weights, self.numbers.get(loss)

        def module(name: str, x: Tensor) -> Tensor:
            g, V, U = self.lower[name], weights.V[name], weights.U[name]
            if numbers is None:
                return ((x @ V) * g) @ U
            s, d, rows = numbers.s[name], numbers.d[name], numbers.rows[name]
            whole = x @ weights.target[name]
            if rows is None:
                return ((x @ V) * (g + (1 - g) * s - d)) @ U + d * whole
            g, x = g.index_select(0, rows), x.index_select(0, rows)
            changed = ((x @ V) * (g + (1 - g) * s - d)) @ U + d * whole.index_select(0, rows)
            return whole.index_copy(0, rows, changed)

        return run(weights, self.tokens, module)

    def _finish(self, name: str, loss: Tensor) -> None:
        self.losses[name] = loss.detach()
        loss.backward()
