"""Threads for kernels that release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Result = TypeVar("Result")


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="spd-kernel")


def n_threads() -> int:
    """As many as torch uses on the CPU."""
    return torch.get_num_threads()


def even_bounds(size: int, parts: int) -> list[tuple[int, int]]:
    """Split range(size) into at most ``parts`` contiguous, non-empty ranges of like length."""
    edges = np.linspace(0, size, max(1, min(parts, size)) + 1).astype(np.int64)
    return [(int(a), int(b)) for a, b in zip(edges[:-1], edges[1:], strict=True) if a < b]


def weighted_bounds(weights: NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """Split range(len(weights)) into at most ``parts`` contiguous ranges of like total weight."""
    cumulative = np.cumsum(weights)
    total = int(cumulative[-1]) if len(cumulative) else 0
    edges = [0, *np.searchsorted(cumulative, [total * part // parts for part in range(1, parts)]).tolist()]
    edges.append(len(weights))
    return [(a, b) for a, b in zip(edges[:-1], edges[1:], strict=True) if a < b]


def capped_bounds(sizes: NDArray[np.int64], cap: int) -> list[tuple[int, int]]:
    """Split range(len(sizes)) into contiguous ranges of total size <= cap (or of one element that is larger)."""
    ends = np.cumsum(sizes)
    bounds: list[tuple[int, int]] = []
    start = 0
    while start < len(sizes):
        base = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, base + cap, side="right")))
        bounds.append((start, stop))
        start = stop
    return bounds


def run_ranges(function: Callable[[int, int, int], Result], bounds: Sequence[tuple[int, int]]) -> list[Result]:
    """Call ``function(part, start, stop)`` for every range, in threads when there are several."""
    if len(bounds) <= 1 or n_threads() == 1:
        return [function(part, start, stop) for part, (start, stop) in enumerate(bounds)]
    futures = [_pool(n_threads()).submit(function, part, start, stop) for part, (start, stop) in enumerate(bounds)]
    return [future.result() for future in futures]


def in_order(function: Callable[[int, int], Result], bounds: Sequence[tuple[int, int]]) -> Iterator[Result]:
    """Yield ``function(start, stop)`` of every range in order, computed in threads a few ranges ahead."""
    waiting: deque[Future[Result]] = deque()
    for start, stop in bounds:
        if n_threads() == 1:
            yield function(start, stop)
            continue
        waiting.append(_pool(n_threads()).submit(function, start, stop))
        if len(waiting) > n_threads():
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
