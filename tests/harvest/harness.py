"""Harvest made-up activations: everything of the product but the model."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
from reference import Input, output_units

from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.extract import Columns, LayerActivations, extract_block
from spd_tools.harvest.firings import Firings, NextTokens
from spd_tools.harvest.hashing import permuted_rows
from spd_tools.harvest.merge import merge_shards
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.rows import Batch, HarvestRows
from spd_tools.harvest.worker import work
from spd_tools.store.schema import DataInfo, DecompositionInfo, HarvestConfig
from spd_tools.tokens import TokenDataset


def dataset_of(given: Input) -> TokenDataset:
    """A token file whose rows, in the harvest's order, are those of ``given``."""
    n_rows, seq = given.tokens.shape
    back = np.argsort(permuted_rows(given.seed, n_rows))
    return TokenDataset(
        folder=Path("nowhere"),
        fingerprint="made-up",
        source="made up",
        n_rows=n_rows,
        seq_len=seq,
        n_tokens=len(given.positions()),
        max_token=int(given.tokens.max()),
        tokenizer_path=None,
        tokens=given.tokens.astype(np.uint16)[back],
        row_lengths=np.asarray(given.lengths, np.int32)[back],
        excluded=None if given.excluded is None else given.excluded[back],
    )


def plan_of(given: Input, layers: list[tuple[str, int]], batch_size: int, world_size: int = 1) -> HarvestPlan:
    kinds = [given.gating] if given.gating == given.ranking else [given.gating, given.ranking]
    n_rows, seq = given.tokens.shape
    return HarvestPlan(
        decomposition=DecompositionInfo(
            run_id="made-up",
            reference="made up",
            fingerprint="0" * 64,
            layers=layers,
            vocab_size=given.vocab_size,
            gating_kind=given.gating,
            ranking_kind=given.ranking,
            kinds=kinds,
        ),
        data=DataInfo(source="made up", fingerprint="made-up", tokenizer=None),
        config=HarvestConfig(
            n_batches=-(-n_rows // batch_size),
            batch_size=batch_size,
            seq_len=seq,
            threshold=given.threshold,
            p_min=given.p_min,
            n_uniform=given.n_uniform,
            n_top=given.n_top,
            window=given.window,
            log_share=given.log_share,
            seed=given.seed,
            world_size=world_size,
        ),
    )


def rows_of(given: Input, plan: HarvestPlan) -> HarvestRows:
    return HarvestRows(dataset_of(given), given.seed, None, plan.config.batch_size)


class MadeUp:
    """Stands in for the model: hands out the activations of a batch's rows."""

    def __init__(self, given: Input, layers: list[tuple[str, int]], low: float = -np.inf) -> None:
        self.given = given
        self.layers = layers
        self.low = low

    def __call__(self, batch: Batch, clock: StageClock) -> Firings:
        return Firings(batch.rows, batch.tokens, batch.included, self._next_tokens(batch), self._blocks(batch))

    def _blocks(self, batch: Batch):
        given, start = self.given, 0
        for name, n in self.layers:
            gating = self._columns(given.gating, batch, start, n)
            ranking = None if given.ranking == given.gating else self._columns(given.ranking, batch, start, n)
            gating = dataclasses.replace(gating, low=self.low)
            yield extract_block(LayerActivations(name, start, n, gating, ranking), given.threshold, batch.included)
            start += n

    def _columns(self, kind: str, batch: Batch, start: int, n: int) -> Columns:
        dense = self.given.activations[kind][batch.rows]
        return Columns(np.ascontiguousarray(dense.reshape(-1, dense.shape[-1])), start)

    def _next_tokens(self, batch: Batch) -> NextTokens:
        tokens, masses, counts = [], [], []
        for row in range(len(batch.rows)):
            for position in range(batch.tokens.shape[1]):
                units = {}
                if batch.included[row, position]:
                    units = output_units(self.given.probabilities[batch.rows[row], position], self.given.p_min)
                tokens += units.keys()
                masses += units.values()
                counts.append(len(units))
        indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return NextTokens(indptr, NextTokens.pack(np.asarray(tokens, np.int64), np.asarray(masses, np.int64)))


def harvest_made_up(
    given: Input,
    layers: list[tuple[str, int]],
    *,
    batch_size: int = 4,
    world_size: int = 1,
    memory_bytes: int = 1 << 30,
    merge_bytes: int = 1 << 30,
) -> Path:
    """Work all ranks and merge; returns the store's folder."""
    plan = plan_of(given, layers, batch_size, world_size)
    plan.save()
    rows = rows_of(given, plan)
    for rank in range(world_size):
        work(plan, rank, rows, MadeUp(given, layers), memory_bytes=memory_bytes)
    merge_shards(plan, rows, memory_bytes=merge_bytes)
    return plan.folder


def contents(folder: Path) -> dict[str, str]:
    """sha256 of every file but the manifest (which names batch size and world size)."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
