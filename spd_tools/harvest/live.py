"""A decomposition run on one batch -> Firings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from spd_tools.decompositions.base import Decomposition, LayerParts, computing_at
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.extract import Columns, LayerActivations, Projection, extract_block
from spd_tools.harvest.extract_device import extract_block_on_device
from spd_tools.harvest.firings import FiringBlock, Firings
from spd_tools.harvest.next_tokens import select_next_tokens
from spd_tools.keys import KeySpace
from spd_tools.store.schema import HarvestConfig


def run_batch(
    decomposition: Decomposition,
    rows: NDArray[np.int64],
    tokens: NDArray[np.int32],
    included: NDArray[np.bool_],
    config: HarvestConfig,
    clock: StageClock,
) -> Firings:
    """Run the decomposition once on a batch.

    Args:
        decomposition: where it is decides the device.
        rows: [rows] numbers of the rows within the harvest.
        tokens: [rows, seq]
        included: [rows, seq]
        config: threshold, precision and p_min are used.
        clock: gets the stages "forward", "softmax", "gating" and "firings".

    The blocks of the result are computed while they are iterated over.

    Raises:
        SpdToolsError: when an activation or a logit is NaN or infinite.
    """
    device = decomposition.device
    with torch.inference_mode(), computing_at(config.precision, device):
        with clock("forward"):
            logits, layers = decomposition.parts(torch.from_numpy(tokens).to(device, torch.int64))
        with clock("softmax"):
            next_tokens = select_next_tokens(logits, included, config.p_min)
        del logits
    return Firings(rows, tokens, included, next_tokens, _blocks(decomposition, layers, included, config, clock))


def _blocks(
    decomposition: Decomposition,
    layers: Iterator[LayerParts],
    included: NDArray[np.bool_],
    config: HarvestConfig,
    clock: StageClock,
) -> Iterator[FiringBlock]:
    keys = KeySpace(decomposition.layers)
    previous: tuple[Tensor, Projection] | None = None
    while True:
        with clock("gating"), torch.inference_mode(), computing_at(config.precision, decomposition.device):
            parts = next(layers, None)
        if parts is None:
            return
        with clock("firings"), torch.inference_mode():
            if decomposition.device.type == "cpu":
                layer = _on_host(parts, keys, previous)
                if parts.inputs is not None and isinstance(layer.ranking, Projection):
                    previous = parts.inputs, layer.ranking
                block = extract_block(layer, config.threshold, included)
            else:
                mask = torch.from_numpy(included).to(decomposition.device)
                block = extract_block_on_device(parts, keys.start(parts.layer), config.threshold, mask)
        yield block


def _on_host(parts: LayerParts, keys: KeySpace, previous: tuple[Tensor, Projection] | None = None) -> LayerActivations:
    """``previous``: inputs of the layer before, which are often those of this one (q, k and v read the same)."""
    ranking: Columns | Projection | None = None
    if parts.inputs is not None:
        assert parts.weights is not None
        if previous is not None and previous[0] is parts.inputs:
            ranking = Projection(previous[1].inputs, _array(parts.weights), previous[1].sums)
        else:
            ranking = Projection(_array(parts.inputs.flatten(0, -2)), _array(parts.weights))
    elif parts.ranking is not None:
        ranking = Columns(*_matrix(parts.ranking))
    return LayerActivations(
        name=parts.layer,
        start=keys.start(parts.layer),
        n=keys.layers[parts.layer],
        gating=Columns(*_matrix(parts.gating), parts.low, parts.high),
        ranking=ranking,
    )


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.float().contiguous().numpy()


def _matrix(tensor: Tensor) -> tuple[NDArray[np.float32], int]:
    """[batch, seq, n] as columns of a contiguous [positions, width] matrix, without copying a slice of one."""
    flat = tensor.float().flatten(0, -2)
    width, offset = flat.stride(0), flat.storage_offset()
    if flat.stride(-1) == 1 and offset + flat.shape[-1] <= width and flat.shape[0] > 1:
        whole = torch.as_strided(flat, (flat.shape[0], width), (width, 1), 0)
        return whole.numpy(), int(offset)
    return flat.contiguous().numpy(), 0
