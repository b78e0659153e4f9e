"""Every training loss in the slow, obvious way: a weight matrix is made for every position, component by component."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.decompositions.spd.components import locate
from spd_tools.decompositions.spd.config import CiConfig, ModuleInfo
from spd_tools.decompositions.spd.loader import build_ci_function
from spd_tools.targets.build import Target
from spd_tools.training.initialise import initialise
from spd_tools.training.model import ComponentModel

VOCAB, WIDTH, HIDDEN, BATCH, SEQ = 7, 4, 5, 2, 3
LAYERS = {"embed": 6, "fc": 5, "out": 3}
EPS = 1e-12


class TinyLm(nn.Module):
    """No attention: positions do not see each other, which keeps the slow version short."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCAB, WIDTH)
        self.fc = nn.Linear(WIDTH, HIDDEN)
        self.out = nn.Linear(HIDDEN, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(torch.tanh(self.fc(self.embed(tokens))))


def tiny_model(seed: int = 0) -> ComponentModel:
    """A f64 model whose causal importances lie below 0, within 0..1 and above 1."""
    torch.manual_seed(seed)
    module = TinyLm().double()
    target = Target(module=module, architecture="x", config={}, vocab_size=VOCAB, context=None, unembedding=None)
    components = locate(module, [ModuleInfo(module_pattern=name, C=n) for name, n in LAYERS.items()], None)
    ci_function = build_ci_function(CiConfig(mode="global", fn_type="global_shared_mlp", hidden_dims=[6]), components)
    model = ComponentModel(
        target=target,
        components=components,
        ci_function=ci_function,
        sigmoid_type="leaky_hard",
        output_attr=None,
        is_toy=False,
    )
    initialise(model, seed)
    model.ci_function.double()
    for layer in model.components.values():
        layer.double()
    for parameter in model.component_parameters() + model.ci_parameters():
        parameter.requires_grad_()
    with torch.no_grad():
        for name, parameter in model.ci_function.named_parameters():
            parameter.normal_(0.5 if name.endswith("2.b") else 0.0, 0.7)
    return model


class ScriptedNoise:
    """Gives f64 numbers and remembers them in order; read back by the slow version."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self.drawn: list[Tensor] = []

    def _remember(self, x: Tensor) -> Tensor:
        self.drawn.append(x)
        return x.clone()

    def uniform(self, *shape: int) -> Tensor:
        return self._remember(torch.rand(*shape, generator=self._generator, dtype=torch.float64))

    def fair_coins(self, *shape: int) -> Tensor:
        return self._remember(torch.rand(*shape, generator=self._generator, dtype=torch.float64).round())


class _SlowLower(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx, gradient):
        (x,) = ctx.saved_tensors
        result = torch.zeros_like(x)
        for at in torch.ones_like(x).nonzero():
            i = tuple(at.tolist())
            if 0 <= x[i] <= 1:
                result[i] = gradient[i]
            elif x[i] < 0 and gradient[i] < 0:  # descent would raise x
                result[i] = 0.01 * gradient[i]
        return result


def slow_upper(x: float | Tensor) -> Tensor:
    if x < 0:
        return x * 0
    return x if x <= 1 else 1 + 0.01 * (x - 1)


class Slow:
    """One batch."""

    def __init__(self, model: ComponentModel, tokens: Tensor, jitter: Mapping[str, Tensor] | None = None) -> None:
        self.model, self.tokens = model, tokens
        lm = model.target.module
        self.V = {name: layer.V for name, layer in model.components.items()}
        self.U = {name: layer.U for name, layer in model.components.items()}
        self.W = {"embed": lm.embed.weight, "fc": lm.fc.weight.T, "out": lm.out.weight.T}
        embedded = lm.embed(tokens)
        inputs = {"embed": tokens, "fc": embedded, "out": torch.tanh(lm.fc(embedded))}
        pre = model.ci_function(
            inputs, lambda name: self.V[name][tokens] if name == "embed" else inputs[name] @ self.V[name]
        )
        jittered = {name: x if jitter is None else 1.05 * x - 0.05 * jitter[name] for name, x in pre.items()}
        self.g = {name: _SlowLower.apply(x) for name, x in jittered.items()}
        self.pre = pre
        self.target_logits = lm(tokens).detach()

    def positions(self):
        return [(b, t) for b in range(BATCH) for t in range(SEQ)]

    def weight(self, name: str, mask: Tensor, delta: Tensor | float) -> Tensor:
        total = torch.zeros_like(self.W[name])
        for c in range(LAYERS[name]):
            total = total + mask[c] * torch.outer(self.V[name][:, c], self.U[name][c])
        rest = self.W[name]
        for c in range(LAYERS[name]):
            rest = rest - torch.outer(self.V[name][:, c], self.U[name][c])
        return total + delta * rest

    def kl(self, weights: Callable[[str, tuple[int, int]], Tensor | None]) -> Tensor:
        """Mean KL when position p uses weights(name, p) in a layer (None: the target's)."""
        lm = self.model.target.module
        total = torch.zeros((), dtype=torch.float64)
        for p in self.positions():
            used = {name: self.W[name] if (w := weights(name, p)) is None else w for name in LAYERS}
            hidden = torch.tanh(used["embed"][self.tokens[p]] @ used["fc"] + lm.fc.bias)
            log_q = F.log_softmax(hidden @ used["out"], dim=-1)
            log_p = F.log_softmax(self.target_logits[p], dim=-1)
            for token in range(VOCAB):
                total = total + log_p[token].exp() * (log_p[token] - log_q[token])
        return total / (BATCH * SEQ)

    def source_kl(
        self, s: Mapping[str, Tensor], d: Mapping[str, Tensor], routed, g: Mapping[str, Tensor] | None = None
    ):
        """Mean KL under m = g + (1 - g) s; s and d [batch, seq, ...]; routed(name, p) says who uses components."""
        g = self.g if g is None else g

        def weights(name, p):
            if not routed(name, p):
                return None
            mask = g[name][p] + (1 - g[name][p]) * s[name][p]
            return self.weight(name, mask, d[name][p].squeeze() if d else 0.0)

        return self.kl(weights)

    def faithfulness(self) -> Tensor:
        total, n = torch.zeros((), dtype=torch.float64), 0
        for name in LAYERS:
            rest = self.weight(name, torch.zeros(LAYERS[name]), 1.0)
            total, n = total + sum(x**2 for x in rest.flatten()), n + rest.numel()
        return total / n

    def importance(self, p: float, beta: float) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for name, n_components in LAYERS.items():
            for c in range(n_components):
                powers = sum((slow_upper(self.pre[name][at][c]) + EPS) ** p for at in self.positions())
                total = total + powers / (BATCH * SEQ) * (1 + beta * torch.log2(1 + powers))
        return total


def subset_rule(k_numbers: Tensor, numbers: Tensor) -> Callable[[str, tuple[int, int]], bool]:
    """At each position, the k layers with the smallest numbers; k from 1 to M."""
    names = list(LAYERS)

    def routed(name: str, p: tuple[int, int]) -> bool:
        flat = p[0] * SEQ + p[1]
        k = 1 + math.floor(float(k_numbers[flat, 0]) * len(names))
        chosen: Sequence[str] = sorted(names, key=lambda other: float(numbers[flat, names.index(other)]))[:k]
        return name in chosen

    return routed


def spread(rows: Tensor, routed, name: str) -> Tensor:
    """Numbers drawn for the routed positions of a layer only -> [batch, seq, ...]."""
    whole = torch.full((BATCH, SEQ, rows.shape[-1]), float("nan"), dtype=torch.float64)
    chosen = [(b, t) for b in range(BATCH) for t in range(SEQ) if routed(name, (b, t))]
    assert len(chosen) == len(rows)
    for p, row in zip(chosen, rows, strict=True):
        whole[p] = row
    return whole
