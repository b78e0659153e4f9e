"""How a run of the target is changed: inputs per position, changed activations, replaced forwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from spd_tools.errors import SpdToolsError


def per_position(x: Tensor, positions: torch.Size, name: str) -> Tensor:
    """An input as [*positions, ...]: modules that read positions get them once for all rows.

    Args:
        x: What a module reads.
        positions: (batch, seq), of toys (batch,).
        name: The module, for messages.
    """
    is_ids = not x.is_floating_point()
    features = x.shape[x.ndim if is_ids else -1 :]
    leading = x.shape[: x.ndim - len(features)]
    if leading == positions or (len(positions) == 2 and leading in ((1, positions[1]), (positions[1],))):
        return x.expand(*positions, *features)
    raise SpdToolsError(
        f"Module {name} reads a tensor of shape {list(x.shape)}, which does not have one vector per token position "
        f"{list(positions)}; this target cannot be read yet."
    )


def picked_output(output: object, attribute: str | None, positions: torch.Size) -> Tensor:
    """What of a target's output is meant: logits [*positions, vocab], of toys features [*positions, n_features].

    Args:
        output: What the target returned.
        attribute: None (the output itself), "idx_N" (its N-th element) or the name of an attribute.
        positions: As above.

    Raises:
        SpdToolsError: when there is no such tensor.
    """
    picked: object = None
    with suppress(AttributeError, IndexError, TypeError, ValueError, KeyError):
        if attribute is None:
            picked = output
        elif attribute.startswith("idx_"):
            picked = output[int(attribute.removeprefix("idx_"))]  # pyright: ignore[reportIndexIssue]
        else:
            picked = getattr(output, attribute)
    if isinstance(picked, Tensor) and picked.shape[:-1] == positions:
        return picked
    raise SpdToolsError(
        f"The target's output, a {type(output).__name__}, has no logits [batch, seq, vocab] at {attribute!r}; "
        "correct pretrained_model_output_attr in final_config.yaml."
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
