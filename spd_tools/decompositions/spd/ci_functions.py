"""Causal-importance functions: from the inputs of decomposed modules to one number per component, before squashing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.decompositions.spd.components import Components
from spd_tools.decompositions.spd.state_dict import dashed
from spd_tools.errors import SpdToolsError

InnerActivation = Callable[[str], Tensor]
"""Layer -> x V [batch, seq, C]."""

_BLOCK_ELEMENTS = 1 << 24
"""Per-component MLPs work on so many hidden numbers at a time: their memory does not grow with C."""


class CiFunction(nn.Module):
    """All of a run's causal importances before squashing."""

    def forward(self, inputs: Mapping[str, Tensor], inner: InnerActivation) -> dict[str, Tensor]:
        """Layer -> [batch, seq, C].

        Args:
            inputs: Layer -> the module's input [batch, seq, d_in], for embeddings token ids [batch, seq].
            inner: Layer -> x V, computed when it is asked for.
        """
        raise NotImplementedError

    def by_layer(self, inputs: Mapping[str, Tensor], inner: InnerActivation) -> Iterator[tuple[str, Tensor]]:
        """The same, layer by layer; a function per layer computes each only when it is asked for."""
        yield from self(inputs, inner).items()


class CiLinear(nn.Module):
    """x W + b with W [in, out]."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(d_in, d_out))
        self.b = nn.Parameter(torch.zeros(d_out))

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., in] -> [..., out]."""
        return F.linear(x, self.W.T, self.b)


def gelu_mlp(d_in: int, hidden_dims: Sequence[int], d_out: int) -> nn.Sequential:
    """CiLinear layers with exact GELU between them; the layers' indices are those of the state dict."""
    widths = [d_in, *hidden_dims, d_out]
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layers += [CiLinear(width_in, width_out), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class _ParallelLinear(nn.Module):
    """One linear map per component: W [C, in, out], b [C, out]."""

    def __init__(self, n_components: int, d_in: int, d_out: int) -> None:
        super().__init__()
        self.W = nn.Parameter(torch.zeros(n_components, d_in, d_out))
        self.b = nn.Parameter(torch.zeros(n_components, d_out))


class _PerComponentMlp(nn.Module):
    """C small MLPs d_in -> h... -> 1, side by side."""

    def __init__(self, n_components: int, d_in: int, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        widths = [d_in, *hidden_dims, 1]
        layers: list[nn.Module] = []
        for width_in, width_out in pairwise(widths):
            layers += [_ParallelLinear(n_components, width_in, width_out), nn.GELU()]
        self.layers = nn.Sequential(*layers[:-1])
        self._n_components = n_components
        self._widest = max(hidden_dims, default=1)

    def _parallel_layers(self) -> list[_ParallelLinear]:
        return [layer for layer in self.layers if isinstance(layer, _ParallelLinear)]

    def _blocks(self, positions: int) -> list[slice]:
        step = max(1, _BLOCK_ELEMENTS // (max(positions, 1) * self._widest))
        return [slice(start, start + step) for start in range(0, self._n_components, step)]

    def _after_first(self, hidden: Tensor, block: slice) -> Tensor:
        """Layers behind the first; hidden: [positions, C of the block, h], before its bias."""
        first, *others = self._parallel_layers()
        hidden = hidden + first.b[block]
        for layer in others:
            hidden = torch.einsum("nci,cio->nco", F.gelu(hidden), layer.W[block]) + layer.b[block]
        return hidden.squeeze(-1)


class ScalarMlps(_PerComponentMlp):
    """fn_type mlp: component c's MLP reads the number x . V_c."""

    def __init__(self, n_components: int, hidden_dims: Sequence[int]) -> None:
        super().__init__(n_components, 1, hidden_dims)

    def forward(self, inner: Tensor) -> Tensor:
        """inner: [..., C], as the result."""
        flat = inner.reshape(-1, inner.shape[-1])
        weight = self._parallel_layers()[0].W.squeeze(1)  # [C, h]
        blocks = [
            self._after_first(flat[:, block, None] * weight[block], block) for block in self._blocks(flat.shape[0])
        ]
        return torch.cat(blocks, dim=-1).view(inner.shape)


class VectorMlps(_PerComponentMlp):
    """fn_type vector_mlp: component c's MLP reads x."""

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., C]."""
        flat = x.reshape(-1, x.shape[-1])
        weight = self._parallel_layers()[0].W  # [C, d_in, h]
        blocks = []
        for block in self._blocks(flat.shape[0]):
            # One matrix product for all components of the block.
            wide = weight[block].transpose(0, 1).flatten(1)
            hidden = (flat @ wide).view(flat.shape[0], -1, weight.shape[2])
            blocks.append(self._after_first(hidden, block))
        return torch.cat(blocks, dim=-1).view(*x.shape[:-1], -1)


class SharedMlp(nn.Module):
    """fn_type shared_mlp: one MLP d_in -> h... -> C."""

    def __init__(self, d_in: int, hidden_dims: Sequence[int], n_components: int) -> None:
        super().__init__()
        self.layers = gelu_mlp(d_in, hidden_dims, n_components)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_in] -> [..., C]."""
        return self.layers(x)


class LayerwiseCi(CiFunction):
    """One function per decomposed module."""

    def __init__(self, layers: Mapping[str, Components], fn_type: str, hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self._reads_inner = fn_type == "mlp"
        self._ci_fns = nn.ModuleDict(
            {dashed(name): self._function(name, layer, fn_type, hidden_dims) for name, layer in layers.items()}
        )

    @staticmethod
    def _function(name: str, layer: Components, fn_type: str, hidden_dims: Sequence[int]) -> nn.Module:
        d_in, n_components = layer.V.shape
        if fn_type == "mlp":
            return ScalarMlps(n_components, hidden_dims)
        if layer.is_embedding:
            raise SpdToolsError(
                f"Layer {name} is an embedding and its causal-importance function a layerwise {fn_type}, which reads "
                "vectors; final_config.yaml must name mlp or a global function."
            )
        if fn_type == "vector_mlp":
            return VectorMlps(n_components, d_in, hidden_dims)
        return SharedMlp(d_in, hidden_dims, n_components)

    def forward(self, inputs: Mapping[str, Tensor], inner: InnerActivation) -> dict[str, Tensor]:
        """As in the base class."""
        return dict(self.by_layer(inputs, inner))

    def by_layer(self, inputs: Mapping[str, Tensor], inner: InnerActivation) -> Iterator[tuple[str, Tensor]]:
        """As in the base class."""
        for name, x in inputs.items():
            yield name, self._ci_fns[dashed(name)](inner(name) if self._reads_inner else x)


class GlobalCi(CiFunction):
    """One function for all decomposed modules: it reads their inputs side by side and its output is split."""

    def __init__(self, layers: Mapping[str, Components], function: nn.Module) -> None:
        """``function`` takes {layer: [batch, seq, width]} and gives {layer: [batch, seq, C]}."""
        super().__init__()
        self._global_ci_fn = function
        self._embeddings = {name for name, layer in layers.items() if layer.is_embedding}

    def forward(self, inputs: Mapping[str, Tensor], inner: InnerActivation) -> dict[str, Tensor]:
        """As in the base class."""
        vectors = {name: inner(name) if name in self._embeddings else x for name, x in inputs.items()}
        values = self._global_ci_fn(vectors)
        return {name: values[name] for name in inputs}


def input_width(layer: Components) -> int:
    """Width of what a global function reads of a layer: d_in, for an embedding its component activations."""
    return layer.n_components if layer.is_embedding else layer.V.shape[0]


class SharedGlobalMlp(nn.Module):
    """fn_type global_shared_mlp: all inputs in sorted name order -> MLP -> split in that order."""

    def __init__(self, layers: Mapping[str, Components], hidden_dims: Sequence[int]) -> None:
        super().__init__()
        self._names = sorted(layers)
        self._sizes = [layers[name].n_components for name in self._names]
        self.layers = gelu_mlp(sum(input_width(layers[name]) for name in self._names), hidden_dims, sum(self._sizes))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layer -> [..., width] -> layer -> [..., C]."""
        values = self.layers(torch.cat([inputs[name] for name in self._names], dim=-1))
        return dict(zip(self._names, values.split(self._sizes, dim=-1), strict=True))
