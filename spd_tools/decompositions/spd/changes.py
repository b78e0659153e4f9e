"""How a run of the target is changed: inputs per position, changed activations, replaced forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from spd_tools.errors import SpdToolsError


def per_position(x: Tensor, tokens: Tensor, name: str) -> Tensor:
    """An input as [batch, seq, ...]: modules that read positions get them once for all rows."""
    batch, seq = tokens.shape
    is_ids = not x.is_floating_point()
    features = x.shape[x.ndim if is_ids else -1 :]
    leading = x.shape[: x.ndim - len(features)]
    if leading in ((batch, seq), (1, seq), (seq,)):
        return x.expand(batch, seq, *features)
    raise SpdToolsError(
        f"Module {name} reads a tensor of shape {list(x.shape)}, which does not have one vector per token position "
        f"[{batch}, {seq}]; this target cannot be read yet."
    )


def change(inner: Tensor, mask: Tensor | None, clamps: Mapping[int, float | Tensor], norms: Tensor) -> Tensor:
    """x V with a mask multiplied on and then single components set; clamps are in units of (x V_c) ||U_c||."""
    changed = inner if mask is None else inner * mask.to(inner.dtype)
    if not clamps:
        return changed
    changed = changed.clone()
    for index, value in clamps.items():
        # A component that writes nothing has no units; whatever it is set to, it writes nothing.
        changed[..., index] = value / norms[index] if norms[index] > 0 else 0.0
    return changed


@contextmanager
def forwards_replaced(forwards: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Within the block, the modules compute something else; their hooks run as ever."""
    before = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.__dict__["forward"] = forward
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = forward
