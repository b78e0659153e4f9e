"""Batches: functions of the step alone, so that a training that goes on sees what it would have seen."""

from __future__ import annotations

import logging
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import TokenDataset
from spd_tools.training.config import GENERATION_TYPES
from spd_tools.training.distributed import World

logger = logging.getLogger(__name__)

_TRAIN, _EVAL = 0, 1


class Batches(Protocol):
    """Where a training's batches come from."""

    def train(self, step: int) -> Tensor:
        """This rank's share of a training batch."""
        ...

    def evaluation(self, index: int) -> Tensor:
        """A whole evaluation batch; the same for equal indices."""
        ...


class FeatureBatches:
    """Sparse features of toys: f32 [batch, n_features], 0 where inactive."""

    def __init__(
        self,
        *,
        n_features: int,
        feature_probability: float,
        generation: str,
        low: float,
        batch_size: int,
        eval_batch_size: int,
        seed: int,
        world: World | None = None,
    ) -> None:
        """Describe the distribution.

        Args:
            n_features: Width.
            feature_probability: Of being active, under "at_least_zero_active".
            generation: One of GENERATION_TYPES.
            low: Active features are U(low, 1).
            batch_size: Samples per step over all ranks.
            eval_batch_size: Samples per evaluation batch.
            seed: Of everything.
            world: Which share is ours.
        """
        self._n_features = n_features
        self._probability = feature_probability
        self._n_active = GENERATION_TYPES[generation]
        if self._n_active is not None and self._n_active > n_features:
            raise SpdToolsError(f"data_generation_type {generation} needs more than {n_features} features.")
        self._low = low
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._seed = seed
        self._world = world or World()

    def train(self, step: int) -> Tensor:
        """[batch_size / ranks, n_features]"""
        share = _share(self._batch_size, self._world)
        return self._draw(share, _TRAIN, step, self._world.rank)

    def evaluation(self, index: int) -> Tensor:
        """[eval_batch_size, n_features]"""
        return self._draw(self._eval_batch_size, _EVAL, index, 0)

    def _draw(self, n: int, *key: int) -> Tensor:
        generator = np.random.Generator(np.random.SFC64([self._seed, *key]))
        shape = (n, self._n_features)
        values = generator.random(shape, dtype=np.float32) * (1 - self._low) + self._low
        chances = generator.random(shape, dtype=np.float32)
        if self._n_active is None:
            active = chances < self._probability
        else:
            active = np.zeros(shape, dtype=bool)
            chosen = np.argpartition(chances, self._n_active - 1, axis=1)[:, : self._n_active]
            np.put_along_axis(active, chosen, True, axis=1)
        return torch.from_numpy(values * active)


class TokenBatches:
    """Rows of token ids, int64 [rows, seq]: every epoch in a new order, rows that are not full left out."""

    def __init__(
        self,
        dataset: TokenDataset,
        *,
        batch_size: int,
        eval_dataset: TokenDataset | None,
        eval_batch_size: int,
        n_eval_steps: int,
        seed: int,
        shuffle_each_epoch: bool,
        world: World | None = None,
    ) -> None:
        """Choose the rows.

        Args:
            dataset: Training rows.
            batch_size: Rows per step over all ranks.
            eval_dataset: Evaluation rows; None: held out of the training rows.
            eval_batch_size: Rows per evaluation batch.
            n_eval_steps: Evaluation batches.
            seed: Of the order, and of which rows are held out.
            shuffle_each_epoch: False: every epoch has the order of the first.
            world: Which share is ours.

        Raises:
            SpdToolsError: when there are too few full rows.
        """
        self._dataset = dataset
        self._eval_dataset = dataset if eval_dataset is None else eval_dataset
        self._batch_size, self._eval_batch_size = batch_size, eval_batch_size
        self._seed, self._shuffle = seed, shuffle_each_epoch
        self._world = world or World()
        self._epoch: tuple[int, np.ndarray] | None = None
        wanted = eval_batch_size * n_eval_steps
        rows = _full_rows(dataset)
        if eval_dataset is None:
            order = np.random.Generator(np.random.SFC64([seed, _EVAL])).permutation(rows)
            held_out = min(wanted, len(rows) // 2)
            self._eval_rows, self._rows = order[:held_out], np.sort(order[held_out:])
        else:
            eval_rows = _full_rows(eval_dataset)
            order = np.random.Generator(np.random.SFC64([seed, _EVAL])).permutation(eval_rows)
            self._eval_rows, self._rows = order[:wanted], rows
        if not len(self._rows) or not len(self._eval_rows):
            raise SpdToolsError(
                f"{dataset.source} has {len(rows)} full rows of {dataset.seq_len} tokens, too few to train and "
                "evaluate on; give more data or a smaller max_seq_len."
            )

    def train(self, step: int) -> Tensor:
        """[batch_size / ranks, seq]"""
        share = _share(self._batch_size, self._world)
        first = step * self._batch_size + self._world.rank * share
        return _read(self._dataset, self._at(np.arange(first, first + share)))

    def evaluation(self, index: int) -> Tensor:
        """[eval_batch_size, seq]; rows come again where there are too few."""
        at = np.arange(index * self._eval_batch_size, (index + 1) * self._eval_batch_size)
        return _read(self._eval_dataset, self._eval_rows[at % len(self._eval_rows)])

    def _at(self, places: np.ndarray) -> np.ndarray:
        """Rows at places in the endless sequence of epochs."""
        epochs, offsets = np.divmod(places, len(self._rows))
        rows = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(int(epoch))[offsets[here]]
        return rows

    def _order(self, epoch: int) -> np.ndarray:
        epoch = epoch if self._shuffle else 0
        if self._epoch is None or self._epoch[0] != epoch:
            generator = np.random.Generator(np.random.SFC64([self._seed, _TRAIN, epoch]))
            self._epoch = (epoch, generator.permutation(self._rows))
        return self._epoch[1]


def _share(batch_size: int, world: World) -> int:
    if batch_size % world.size:
        raise SpdToolsError(
            f"batch_size {batch_size} cannot be shared by {world.size} processes; make it a multiple of that."
        )
    return batch_size // world.size


def _full_rows(dataset: TokenDataset) -> np.ndarray:
    full = np.asarray(dataset.row_lengths) == dataset.seq_len
    if full.mean() < 0.9:
        logger.warning(
            "%s: %d of %d rows are shorter than %d tokens and are not trained on.",
            dataset.source,
            len(full) - full.sum(),
            len(full),
            dataset.seq_len,
        )
    return np.flatnonzero(full)


def _read(dataset: TokenDataset, rows: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(dataset.tokens[rows], dtype=np.int64))
