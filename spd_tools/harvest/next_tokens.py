"""Logits -> the next-token probabilities that count."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.firings import MASS_BITS, MASS_UNIT_BITS, NextTokens

_BLOCK = 16
_SHIFT = np.uint64(MASS_BITS)
_UNIT = float(2**MASS_UNIT_BITS)
_PIECE = 32
_SLACK = 1e-3  # candidates are taken generously by their logit; the probability itself decides


@njit(nogil=True, cache=True)
def _select(
    logits: NDArray[Any],
    largest: NDArray[Any],
    total: NDArray[Any],
    included: NDArray[Any],
    p_min: np.float32,
    counts: NDArray[Any],
    packed: NDArray[Any],
) -> tuple[int, bool]:
    """Entries with probability >= p_min. Returns (number found, found a NaN or infinity)."""
    found = 0
    vocab = logits.shape[1]
    log_p_min = np.float32(np.log(p_min) - _SLACK)
    candidates = np.empty(vocab + _BLOCK, np.int32)
    for t in range(len(included)):
        if not included[t]:
            continue
        if total[t] - total[t] != 0:
            return found, True
        cut = largest[t] + np.log(total[t]) + log_p_min
        row = logits[t]
        n = 0
        for b in range(0, vocab, _BLOCK):
            stop = min(b + _BLOCK, vocab)
            hits = 0
            if stop - b == _BLOCK:
                for j in range(_BLOCK):
                    hits += row[b + j] >= cut
            else:
                hits = 1
            if hits == 0:
                continue
            for j in range(b, stop):  # no branch: which of them hit cannot be predicted
                candidates[n] = j
                n += row[j] >= cut
        before = found
        for i in range(n):
            p = np.exp(row[candidates[i]] - largest[t]) / total[t]
            if p >= p_min:
                mass = np.uint64(np.float64(p) * _UNIT + 0.5)
                packed[found] = (np.uint64(candidates[i]) << _SHIFT) | mass
                found += 1
        counts[t] = found - before
    return found, False


def select_next_tokens(logits: Tensor, included: NDArray[np.bool_], p_min: float) -> NextTokens:
    """Softmax each position in float32 and keep probabilities >= p_min.

    Args:
        logits: [rows, seq, vocab], any float type, on any device.
        included: [rows, seq]
        p_min: smallest probability that counts.

    Raises:
        SpdToolsError: when a logit is NaN or infinite.
    """
    flat = logits.reshape(-1, logits.shape[-1]).float()
    if flat.device.type != "cpu":
        return _select_on_device(flat, included, p_min)
    # In pieces that stay in the cache, as each is read several times.
    largest, total = torch.empty(len(flat)), torch.empty(len(flat))
    for at in range(0, len(flat), _PIECE):
        piece = flat[at : at + _PIECE]
        most = piece.amax(-1, keepdim=True)
        largest[at : at + _PIECE] = most[:, 0]
        total[at : at + _PIECE] = (piece - most).exp_().sum(-1)
    matrix = flat.contiguous().numpy()
    mask = included.reshape(-1)
    counts = np.zeros(len(mask), np.int64)
    # No more than 1 / p_min probabilities of p_min fit into one (and a few for rounding).
    capacity = len(mask) * min(matrix.shape[1], int(1.001 / p_min) + 1)
    packed = np.empty(capacity, np.uint64)
    found, broken = _select(matrix, largest.numpy(), total.numpy(), mask, np.float32(p_min), counts, packed)
    if broken:
        raise _not_finite()
    return NextTokens(_indptr(counts), packed[:found].copy())


def _select_on_device(flat: Tensor, included: NDArray[np.bool_], p_min: float) -> NextTokens:
    """The same where the logits are: only what counts comes to the host."""
    mask = torch.from_numpy(included.reshape(-1)).to(flat.device)
    p = flat.softmax(-1)
    if not p[mask].isfinite().all():
        raise _not_finite()
    kept = (p >= p_min) & mask[:, None]
    tokens = kept.nonzero()[:, 1]
    masses = (p[kept].double() * _UNIT + 0.5).long()
    packed = tokens * 2**MASS_BITS + masses
    return NextTokens(_indptr(kept.sum(1).cpu().numpy()), packed.cpu().numpy().astype(np.uint64))


def _indptr(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])


def _not_finite() -> SpdToolsError:
    return SpdToolsError(
        "The model's logits contain NaN or infinity; check the checkpoint, or harvest with --precision f32."
    )
