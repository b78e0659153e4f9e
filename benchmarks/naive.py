"""Forward pass and causal importances of the benchmark's model, written straight from the formulas.

Frozen: this is what `harvest_over_naive` is measured against, so it gets neither faster nor slower with the product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from spd_tools.decompositions.spd.decomposition import SpdDecomposition


def weights_of(decomposition: SpdDecomposition) -> tuple[dict[str, Tensor], dict[str, list[Tensor]]]:
    """(target weights by name, layer -> [W0, b0, W1, b1] of its causal-importance function)."""
    ci = {}
    for name in decomposition.layers:
        layers = decomposition._ci_function._ci_fns[name.replace(".", "-")].layers
        ci[name] = [layers[0].W, layers[0].b, layers[2].W, layers[2].b]
    return dict(decomposition.target.module.state_dict()), ci


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * weight


def rotate(x: Tensor) -> Tensor:
    """x: [batch, heads, seq, d]; rotary embedding over half-split pairs, base 10,000."""
    d, seq = x.shape[-1], x.shape[-2]
    frequencies = 10000.0 ** (-torch.arange(0, d, 2, device=x.device).float() / d)
    angles = torch.arange(seq, device=x.device).float()[:, None] * frequencies
    cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def attention(q: Tensor, k: Tensor, v: Tensor, n_head: int) -> Tensor:
    batch, seq, d = q.shape
    q, k, v = (t.view(batch, seq, n_head, d // n_head).transpose(1, 2) for t in (q, k, v))
    q, k = rotate(q), rotate(k)
    scores = q @ k.transpose(-1, -2) / math.sqrt(d // n_head)
    future = torch.ones(seq, seq, dtype=torch.bool, device=q.device).triu(1)
    weights = torch.softmax(scores.masked_fill(future, -math.inf), -1)
    return (weights @ v).transpose(1, 2).reshape(batch, seq, d)


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def forward(
    tokens: Tensor, w: dict[str, Tensor], ci: dict[str, list[Tensor]], n_layer: int, n_head: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and lower-leaky causal importances by layer."""
    inputs: dict[str, Tensor] = {}

    def linear(name: str, x: Tensor) -> Tensor:
        inputs[name] = x
        return x @ w[f"{name}.weight"].T

    x = w["wte.weight"][tokens]
    for i in range(n_layer):
        h = rms_norm(x, w[f"h.{i}.rms_1.weight"])
        q, k, v = (linear(f"h.{i}.attn.{name}_proj", h) for name in "qkv")
        x = x + linear(f"h.{i}.attn.o_proj", attention(q, k, v, n_head))
        h = rms_norm(x, w[f"h.{i}.rms_2.weight"])
        x = x + linear(f"h.{i}.mlp.down_proj", gelu_tanh(linear(f"h.{i}.mlp.c_fc", h)))
    logits = rms_norm(x, w["ln_f.weight"]) @ w["wte.weight"].T
    importances = {}
    for name, (w0, b0, w1, b1) in ci.items():
        importances[name] = torch.clamp(gelu(inputs[name] @ w0 + b0) @ w1 + b1, 0, 1)
    return logits, importances
