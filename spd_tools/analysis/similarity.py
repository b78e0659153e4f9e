"""Components that read or write the same direction. Needs the weights, not the harvest."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from spd_tools.decompositions.base import Decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey, KeySpace
from spd_tools.store.records import KeyField, Record
from spd_tools.store.scores import at_least, chosen, first_by

Direction = Literal["read", "write"]
DIRECTIONS: tuple[Direction, ...] = ("read", "write")


class SimilarComponent(Record):
    """A component and how far its direction agrees."""

    key: KeyField
    cosine: float
    """Of the two read (or write) vectors. A component stays the same when both its vectors change sign, so a cosine
    of -1 is as alike as one of 1."""


def similar_components(
    decomposition: Decomposition, key: str | ComponentKey, direction: Direction = "read", limit: int = 20
) -> list[SimilarComponent]:
    """Components by descending |cosine|, from all layers whose vectors have the same width; ties by index.

    Components whose vector is zero have no direction and are left out.

    Raises:
        SpdToolsError: for an unknown component or direction, a negative limit, or a component whose vector is zero.
    """
    keys = KeySpace(decomposition.layers)
    flat = keys.flat(key)
    chosen(direction, DIRECTIONS, "direction")
    at_least(limit, 0, "The limit of a list")
    layer, index = keys.key(flat)
    own = _vectors(decomposition, layer, direction)[index]
    if not own.norm() > 0:
        raise SpdToolsError(f"The {direction} vector of {layer}:{index} is zero, so nothing is similar to it.")
    cosines = np.full(len(keys), np.nan, np.float32)
    for name, n_components in keys.layers.items():
        vectors = _vectors(decomposition, name, direction) if n_components else None
        if vectors is not None and vectors.shape[1] == len(own):
            cosines[keys.span(name)] = _cosines(vectors, own).numpy()
    cosines[flat] = np.nan
    others = np.flatnonzero(~np.isnan(cosines))
    picked = others[first_by(limit, -np.abs(cosines[others]))]
    return [SimilarComponent(key=keys.key(other), cosine=float(cosines[other])) for other in picked.tolist()]


def _vectors(decomposition: Decomposition, layer: str, direction: Direction) -> Tensor:
    """[C, width]"""
    vectors = decomposition.read_vectors(layer) if direction == "read" else decomposition.write_vectors(layer)
    return vectors.detach().to("cpu", torch.float32)


def _cosines(vectors: Tensor, own: Tensor) -> Tensor:
    """[C]; NaN for zero vectors. Each is scaled first: no product over- or underflows."""
    units = vectors / vectors.norm(dim=1, keepdim=True)
    return (units @ (own / own.norm())).clamp(-1, 1)
