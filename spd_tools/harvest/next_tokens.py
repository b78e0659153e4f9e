"""Logits -> the next-token probabilities that count."""

from __future__ import annotations

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from spd_tools.errors import SpdToolsError
from spd_tools.harvest.firings import MASS_UNIT_BITS, NextTokens
from spd_tools.harvest.parallel import even_bounds, n_threads, run_ranges

_BLOCK = 16
_UNIT = float(2**MASS_UNIT_BITS)
_SLACK = 1e-3  # candidates are taken generously by their logit; the probability itself decides


@njit(nogil=True, cache=True)
def _select(logits, log_total, included, p_min, t0, t1, capacity, counts, tokens, masses):  # noqa: ANN001, ANN202
    """Entries with probability >= p_min of positions t0..t1-1. Returns (number found, found a NaN)."""
    found = 0
    vocab = logits.shape[1]
    log_p_min = np.log(np.float64(p_min))
    for t in range(t0, t1):
        if not included[t]:
            continue
        if log_total[t] - log_total[t] != 0:
            return found, True
        cut = np.float32(log_total[t] + log_p_min - _SLACK)
        row = logits[t]
        before = found
        for b in range(0, vocab, _BLOCK):
            stop = min(b + _BLOCK, vocab)
            hits = 0
            if stop - b == _BLOCK:
                for j in range(_BLOCK):
                    hits += row[b + j] >= cut
            else:
                for j in range(b, stop):
                    hits += row[j] >= cut
            if hits == 0:
                continue
            for j in range(b, stop):
                if row[j] >= cut:
                    p = np.float32(np.exp(np.float64(row[j]) - np.float64(log_total[t])))
                    if p >= p_min:
                        if found < capacity:
                            tokens[found] = j
                            masses[found] = np.int64(np.floor(np.float64(p) * _UNIT + 0.5))
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
    log_total = torch.logsumexp(flat, -1).double().cpu().numpy()
    matrix = flat.contiguous().cpu().numpy()
    mask = included.reshape(-1)
    counts = np.zeros(len(mask), np.int64)
    bounds = even_bounds(len(mask), n_threads())
    parts: list[tuple[NDArray[np.int32], NDArray[np.int64]]] = [(np.empty(0, np.int32), np.empty(0, np.int64))] * len(
        bounds
    )

    def select(part: int, t0: int, t1: int) -> None:
        capacity = 64 * (t1 - t0)
        while True:
            tokens, masses = np.empty(capacity, np.int32), np.empty(capacity, np.int64)
            found, broken = _select(
                matrix, log_total, mask, np.float32(p_min), t0, t1, capacity, counts, tokens, masses
            )
            if broken:
                raise SpdToolsError(
                    "The model's logits contain NaN or infinity; check the checkpoint, or harvest with --precision f32."
                )
            if found <= capacity:
                parts[part] = (tokens[:found], masses[:found])
                return
            capacity = found

    run_ranges(select, bounds)
    indptr = np.zeros(len(mask) + 1, np.int64)
    np.cumsum(counts, out=indptr[1:])
    return NextTokens(indptr, np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))
