"""Threads for kernels that release the GIL."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def _pool(n_threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(n_threads, thread_name_prefix="spd-kernel")


_outer: list[int] = []


def n_threads() -> int:
    """As many as torch uses on the CPU (or used, inside ``one_thread_each``)."""
    return _outer[-1] if _outer else torch.get_num_threads()


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Within the block torch's operators stay in the thread that calls them.

    Threads that each run a whole slice of the work need no barrier after every operator, and their data stays in their
    core's cache.
    """
    _outer.append(n_threads())
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_outer.pop())


def for_each(function: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Call ``function`` for every item, in threads when there are several."""
    if len(items) <= 1 or n_threads() == 1:
        for item in items:
            function(item)
        return
    for future in [_pool(n_threads()).submit(function, item) for item in items]:
        future.result()


def weighted_bounds(weights: NDArray[np.int64], parts: int) -> list[tuple[int, int]]:
    """Split range(len(weights)) into at most ``parts`` contiguous ranges of like total weight."""
    cumulative = np.cumsum(weights)
    total = int(cumulative[-1]) if len(cumulative) else 0
    edges = [0, *np.searchsorted(cumulative, [total * part // parts for part in range(1, parts)]).tolist()]
    edges.append(len(weights))
    return [(a, b) for a, b in pairwise(edges) if a < b]


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


class Pipeline:
    """Runs a function over items in threads, a few items ahead of whoever submits them."""

    def __init__(self, function: Callable[[Any], None], ahead: int) -> None:
        """``ahead``: how many items may be under way at once."""
        self._function = function
        self._ahead = ahead
        self._running: deque[Future[None]] = deque()

    def submit(self, items: Sequence[Any]) -> None:
        """Start items, waiting for earlier ones so that no more than ``ahead`` are under way.

        Raises whatever the function raised for an earlier item.
        """
        for item in items:
            if n_threads() == 1:
                self._function(item)
                continue
            while len(self._running) >= self._ahead:
                self._running.popleft().result()
            self._running.append(_pool(n_threads()).submit(self._function, item))

    def wait(self) -> None:
        """Wait for everything that was submitted."""
        while self._running:
            self._running.popleft().result()
