"""The model while it is trained: frozen target, components and causal-importance function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.decompositions.spd.changes import forwards_replaced, per_position, picked_output
from spd_tools.decompositions.spd.ci_functions import CiFunction
from spd_tools.decompositions.spd.components import Components
from spd_tools.decompositions.spd.sigmoids import squashing
from spd_tools.decompositions.spd.state_dict import dashed
from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import Target


@dataclass(frozen=True)
class LayerMask:
    """Masks of one layer, m on its components and d on what they leave over.

    The layer computes ((x V) * m) U + d x (W - V U)^T + bias, which is ((x V) * (m - d)) U + d x W^T + bias.
    """

    surplus: Tensor
    """m - d: [*positions, C], or [rows, C] where only some positions use components."""
    delta: Tensor | None = None
    """d: [*positions, 1] or [rows, 1]; None is 0 everywhere."""
    rows: Tensor | None = None
    """[rows] int64: flat positions that use components, the others run as the target does; None: all of them."""


@dataclass(frozen=True)
class CleanPass:
    """The target as it is; no gradients."""

    output: Tensor
    """[batch, seq, vocab], of toys [batch, n_features]."""
    inputs: dict[str, Tensor]
    """Layer -> what the decomposed module reads [*positions, d_in], for embeddings token ids [*positions]."""
    positions: torch.Size
    """(batch, seq), of toys (batch,)."""


class ComponentModel:
    """A target whose decomposed modules can be run on masked components."""

    def __init__(
        self,
        *,
        target: Target,
        components: Mapping[str, Components],
        ci_function: CiFunction,
        sigmoid_type: str,
        output_attr: str | None,
        is_toy: bool,
    ) -> None:
        """The target's weights must be there; those of the others may come later."""
        self.target = target
        self.components = dict(components)
        self.ci_function = ci_function
        self.lower = squashing(sigmoid_type, "lower")
        self.upper = squashing(sigmoid_type, "upper")
        self._output_attr = output_attr
        self._is_toy = is_toy
        target.module.requires_grad_(False).eval()
        self._weights = {name: _weight_as_map(layer) for name, layer in self.components.items()}

    def to(self, device: torch.device) -> None:
        """Move in place."""
        for module in (self.target.module, *self.components.values(), self.ci_function):
            module.to(device)
        self._weights = {name: _weight_as_map(layer) for name, layer in self.components.items()}

    @property
    def layers(self) -> dict[str, int]:
        """Layer -> C, in layer order."""
        return {name: layer.n_components for name, layer in self.components.items()}

    def component_parameters(self) -> list[nn.Parameter]:
        """V and U of every layer."""
        return [parameter for layer in self.components.values() for parameter in (layer.V, layer.U)]

    def ci_parameters(self) -> list[nn.Parameter]:
        """Parameters of the causal-importance function."""
        return list(self.ci_function.parameters())

    def positions(self, batch: Tensor) -> torch.Size:
        """Shape of what has one vector each."""
        return batch.shape[:-1] if self._is_toy else batch.shape

    @torch.no_grad()
    def clean(self, batch: Tensor) -> CleanPass:
        """Run the target as it is and keep what the decomposed modules read.

        Raises:
            SpdToolsError: when the target does not run every decomposed module exactly once.
        """
        inputs: dict[str, Tensor] = {}
        positions = self.positions(batch)

        def recorder(name: str, module: nn.Module) -> Callable[[Tensor], Tensor]:
            def forward(x: Tensor) -> Tensor:
                if name in inputs:
                    raise SpdToolsError(
                        f"The target runs module {name} more than once per forward pass, which cannot be read yet."
                    )
                inputs[name] = per_position(x, positions, name)
                return type(module).forward(module, x)

            return forward

        recorders = {layer.module: recorder(name, layer.module) for name, layer in self.components.items()}
        with forwards_replaced(recorders):
            output = self._output(batch)
        for name in self.components:
            if name not in inputs:
                raise SpdToolsError(f"The target's forward pass never runs the decomposed module {name}.")
        return CleanPass(output, {name: inputs[name] for name in self.components}, positions)

    def pre_ci(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Causal importances before squashing: layer -> [*positions, C], at least f32."""
        values = self.ci_function(inputs, lambda name: self.components[name].inner(inputs[name]))
        return {name: at_least_f32(values[name]) for name in self.components}

    def masked(self, batch: Tensor, masks: Mapping[str, LayerMask]) -> Tensor:
        """The target's output with masked components in the named layers, at least f32.

        Layers that are not named run as the target does.
        """
        positions = self.positions(batch)

        def forward_of(name: str, mask: LayerMask) -> Callable[[Tensor], Tensor]:
            layer = self.components[name]
            run = _masked_everywhere if mask.rows is None else _masked_at_rows
            return lambda x: run(layer, per_position(x, positions, name), mask)

        replaced = {self.components[name].module: forward_of(name, mask) for name, mask in masks.items()}
        with forwards_replaced(replaced):
            return at_least_f32(self._output(batch))

    def _output(self, batch: Tensor) -> Tensor:
        return picked_output(self.target.module(batch), self._output_attr, self.positions(batch))

    def faithfulness(self, name: str) -> Tensor:
        """||W - sum_c W_c||_F^2 of a layer."""
        layer = self.components[name]
        with torch.autocast(layer.V.device.type, enabled=False):
            return F.mse_loss(layer.V @ layer.U, self._weights[name], reduction="sum")

    def weight(self, name: str) -> Tensor:
        """W of a layer as [d_in, d_out]."""
        return self._weights[name]

    @property
    def n_weights(self) -> int:
        """Entries of all decomposed weights."""
        return sum(weight.numel() for weight in self._weights.values())

    def modules_by_key(self) -> dict[str, nn.Module]:
        """The parts of a public checkpoint: key prefix -> module."""
        return {
            "target_model": self.target.module,
            **{f"_components.{dashed(name)}": layer for name, layer in self.components.items()},
            "ci_fn": self.ci_function,
        }


def at_least_f32(x: Tensor) -> Tensor:
    """Half-precision numbers as f32, others as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _weight_as_map(layer: Components) -> Tensor:
    """W as [d_in, d_out], in the layout of V U."""
    module = layer.module
    if isinstance(module, nn.Identity):
        return torch.eye(layer.V.shape[0], dtype=layer.V.dtype, device=layer.V.device)
    weight = module.weight
    assert isinstance(weight, Tensor)
    same_layout = layer.is_embedding or not isinstance(module, nn.Linear)
    return weight.detach() if same_layout else weight.detach().T.contiguous()


def _with_bias(out: Tensor, layer: Components) -> Tensor:
    return out if layer.bias is None else out + layer.bias


def _masked_everywhere(layer: Components, x: Tensor, mask: LayerMask) -> Tensor:
    out = (layer.inner(x) * mask.surplus) @ layer.U
    if mask.delta is not None:
        out = torch.addcmul(out, mask.delta, layer.target_map(x))
    return _with_bias(out, layer)


def _masked_at_rows(layer: Components, x: Tensor, mask: LayerMask) -> Tensor:
    assert mask.rows is not None
    n_features = 0 if layer.is_embedding else 1
    leading = x.shape[: x.ndim - n_features]
    target = layer.target_map(x).flatten(0, -2)
    taken = take_rows(x.flatten(0, -1 - n_features), mask.rows) if n_features else x.flatten()[mask.rows]
    out = (layer.inner(taken) * mask.surplus) @ layer.U
    if mask.delta is not None:
        out = torch.addcmul(out, mask.delta, take_rows(target, mask.rows))
    return _with_bias(target.index_copy(0, mask.rows, out.to(target.dtype)).view(*leading, -1), layer)


class _TakeRows(torch.autograd.Function):
    """x[rows] of distinct rows: going back needs no addition, which index_select would do."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor, rows: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.save_for_backward(rows)
        ctx.n_rows = x.shape[0]  # pyright: ignore[reportAttributeAccessIssue]
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (rows,) = ctx.saved_tensors  # pyright: ignore[reportAttributeAccessIssue]
        whole = gradient.new_zeros(ctx.n_rows, *gradient.shape[1:])  # pyright: ignore[reportAttributeAccessIssue]
        return whole.index_copy_(0, rows, gradient), None


take_rows: Callable[[Tensor, Tensor], Tensor] = _TakeRows.apply  # pyright: ignore[reportAssignmentType]
"""x[rows] of distinct rows, differentiable."""
