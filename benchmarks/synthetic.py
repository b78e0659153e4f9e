"""Made-up firings of the size of a real harvest: C = 40,000, V = 50,000, about 100 firings per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_model import densities
from spd_tools.harvest.clock import StageClock
from spd_tools.harvest.firings import MASS_UNIT_BITS, FiringBlock, Firings, NextTokens, RowTotals
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.rows import Batch
from spd_tools.store.schema import DataInfo, DecompositionInfo, HarvestConfig

C, V, SEQ, BATCH = 40_000, 50_000, 128, 32
N_LAYERS, N_GROUPS, NEXT = 25, 500, 50
KINDS = ["causal_importance", "component_activation"]
LAYERS = [(f"h.{i}", C // N_LAYERS) for i in range(N_LAYERS)]


def synthetic_plan(n_batches: int, fingerprint: str) -> HarvestPlan:
    return HarvestPlan(
        decomposition=DecompositionInfo(
            run_id="synthetic",
            reference="synthetic",
            fingerprint="synthetic",
            layers=LAYERS,
            vocab_size=V,
            gating_kind=KINDS[0],
            ranking_kind=KINDS[1],
            kinds=KINDS,
        ),
        data=DataInfo(source="synthetic", fingerprint=fingerprint, tokenizer=None),
        config=HarvestConfig(n_batches=n_batches, batch_size=BATCH, seq_len=SEQ, log_share=1.0),
    )


@dataclass
class SyntheticFirings:
    """Even components fire independently, odd ones in 500 groups; the same for a row, whatever batch it is in."""

    density: NDArray[np.float64] = field(init=False)
    groups: list[NDArray[np.int64]] = field(init=False)
    group_density: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        generator = np.random.default_rng(0)
        self.density = np.zeros(C)
        self.density[::2] = densities(C // 2, 50, generator)
        self.density[0] = 0.35  # the component of bench-read
        self.groups = np.array_split(generator.permutation(np.arange(1, C, 2)), N_GROUPS)
        # Log-uniform as well, 50 firings per token in all; 40 % of the groups are nearly dead.
        draws = 1e-4 * 3000 ** generator.random(N_GROUPS)
        draws[generator.permutation(N_GROUPS)[: int(0.4 * N_GROUPS)]] = 1e-5
        self.group_density = draws * 50 / (draws.sum() * C / 2 / N_GROUPS * 0.9)

    def __call__(self, batch: Batch, clock: StageClock) -> Firings:
        with clock("generation"):
            parts = [self._row(int(row)) for row in batch.rows]
            position = np.concatenate([s * SEQ + p for s, (p, _) in enumerate(parts)])
            component = np.concatenate([c for _, c in parts])
            order = np.lexsort((position, component))
            blocks = list(_blocks(component[order], position[order], len(batch.rows)))
            q = self._next_tokens(batch.rows)
        return Firings(batch.rows, batch.tokens, batch.included, q, blocks)

    def _row(self, row: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(position, component) of one row's firings, without duplicates."""
        generator = np.random.default_rng(row)
        counts = generator.binomial(SEQ, self.density)
        found = [self._scatter(generator, np.flatnonzero(counts), counts[counts > 0])]
        for group in np.flatnonzero(generator.random(N_GROUPS) < 1 - (1 - self.group_density) ** SEQ):
            on = np.flatnonzero(generator.random(SEQ) < self.group_density[group])
            members = self.groups[group]
            fires = generator.random((len(on), len(members))) < 0.9
            at, who = np.nonzero(fires)
            found.append((on[at], members[who]))
        return np.concatenate([p for p, _ in found]), np.concatenate([c for _, c in found])

    @staticmethod
    def _scatter(
        generator: np.random.Generator, components: NDArray[np.int64], counts: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Each component at that many different positions."""
        ranks = generator.random((len(components), SEQ)).argsort(1)
        chosen = ranks < counts[:, None]
        at, position = np.nonzero(chosen)
        return position, components[at]

    @staticmethod
    def _next_tokens(rows: NDArray[np.int64]) -> NextTokens:
        draws = np.stack([np.random.default_rng(int(row) + 10**6).random((SEQ, NEXT, 2)) for row in rows])
        draws = draws.reshape(-1, NEXT, 2)
        tokens = np.sort(((V * draws[..., 0] ** 3).astype(np.int64) + np.arange(NEXT) * 7) % V, 1)
        kept = np.concatenate([np.ones((len(tokens), 1), bool), tokens[:, 1:] != tokens[:, :-1]], 1)
        masses = np.where(kept, -np.log1p(-draws[..., 1]), 0)
        masses = np.floor(masses / masses.sum(1, keepdims=True) * 2**MASS_UNIT_BITS * 0.95).astype(np.int64)
        kept &= masses > 0
        indptr = np.concatenate([[0], np.cumsum(kept.sum(1))]).astype(np.int64)
        return NextTokens(indptr, NextTokens.pack(tokens[kept], masses[kept]))


def _blocks(component: NDArray[np.int64], position: NDArray[np.int64], n_rows: int) -> Iterator[FiringBlock]:
    per_layer = C // N_LAYERS
    bounds = np.searchsorted(component, np.arange(0, C + 1, per_layer))
    for layer, (a, b) in enumerate(pairwise(bounds)):
        local = component[a:b] - layer * per_layer
        values = ((position[a:b] * 2654435761 + component[a:b] * 40503) % 65536).astype(np.float32) / 65536
        positions = position[a:b].astype(np.int32)
        yield FiringBlock(
            start=layer * per_layer,
            stop=(layer + 1) * per_layer,
            indptr=np.searchsorted(local, np.arange(per_layer + 1)).astype(np.int64),
            positions=positions,
            values=np.stack([values * 0.5 + 0.5, values * 8 - 4]),
            windows=OwnValueWindows(),
            row_totals={1: RowTotals(np.full((n_rows, per_layer), 0.125))},
        )


class OwnValueWindows:
    """Windows of a constant: what stands in them costs as much to keep as anything else."""

    def fill(
        self,
        out: NDArray[np.float32],
        slots: NDArray[np.int64],
        components: NDArray[np.int64],
        positions: NDArray[np.int64],
    ) -> None:
        out[slots] = (positions % SEQ).astype(np.float32)[:, None, None]
