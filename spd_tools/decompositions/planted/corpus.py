"""Text for the planted model, drawn from the model itself: what components write is what comes next."""

from __future__ import annotations

import numpy as np
import torch

from spd_tools.decompositions.planted.grammar import FIRST_CONTEXT, bigram_logits
from spd_tools.decompositions.planted.model import PlantedModel
from spd_tools.decompositions.planted.vocabulary import Cast

_ROWS_AT_ONCE = 1024


def sample_rows(model: PlantedModel, cast: Cast, n_rows: int, seq_len: int) -> np.ndarray:
    """Rows 0..n_rows-1 of the seed's corpus: [n_rows, seq_len] int64.

    A row depends on the seed and its number only; a shorter seq_len gives the start of the same row.
    """
    rows = np.empty((n_rows, seq_len), dtype=np.int64)
    first = bigram_logits(cast)[None, cast.token(FIRST_CONTEXT)]
    with torch.inference_mode():
        for start in range(0, n_rows, _ROWS_AT_ONCE):
            numbers = np.arange(start, min(start + _ROWS_AT_ONCE, n_rows), dtype=np.uint64)
            part = rows[start : start + len(numbers)]
            part[:, 0] = _draw(np.repeat(first, len(numbers), axis=0), _uniform(cast.seed, numbers, 0))
            past = None
            for position in range(1, seq_len):
                token = torch.from_numpy(part[:, position - 1 : position]).to(model.unembedding.device)
                logits, _, past = model(token, {}, start=position - 1, past=past)
                part[:, position] = _draw(logits[:, 0].cpu().numpy(), _uniform(cast.seed, numbers, position))
    return rows


def _draw(logits: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """One token per row of logits [n, vocab] by inverting the distribution at uniform [n]."""
    # float64: machines may round exp differently, which here moves a boundary by 1e-16 of the whole.
    weights = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    steps = np.cumsum(weights, axis=1)
    return np.argmax(steps > (uniform * steps[:, -1])[:, None], axis=1)


def _uniform(seed: int, rows: np.ndarray, position: int) -> np.ndarray:
    """[0, 1) per row (uint64): splitmix64 of seed, row and position."""
    bits = _mix(_mix(_mix(np.full(rows.shape, seed, dtype=np.uint64)) + rows) + np.uint64(position))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
