"""How many requests may be under way: what the server says in its rate-limit headers and its refusals."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

_CUT = 0.7
"""Factor on the number of requests at once when the server refuses one."""
_ROUNDING = 1e-6
_LONGEST_WAIT = 60.0
"""Seconds after which the state of a bucket is looked at again."""
_PREFIX = "anthropic-ratelimit-"
REQUESTS = "requests"
INPUT_BUCKETS = ("input-tokens", "tokens")
BUCKETS = (REQUESTS, *INPUT_BUCKETS, "output-tokens")


class _Bucket:
    """A copy of one of the server's token buckets, brought up to date by each reply."""

    def __init__(self) -> None:
        self._level = float("inf")
        self._rate = 0.0
        self._capacity = float("inf")
        self._at = 0.0

    def observe(self, capacity: float, remaining: float, to_reset: float, uncounted: float, now: float) -> None:
        """``uncounted``: what was started after the request whose reply says this."""
        if to_reset <= 0:
            remaining = capacity
        if remaining < capacity:
            self._rate = (capacity - remaining) / to_reset
        self._capacity, self._level, self._at = capacity, remaining - uncounted, now

    def wait(self, need: float, now: float) -> float:
        """Seconds until ``need`` can be taken, as far as is known."""
        need = min(need, self._capacity)
        missing = need - self._refilled(now)
        if missing <= _ROUNDING:
            return 0.0
        return min(missing / self._rate, _LONGEST_WAIT) if self._rate > 0 else _LONGEST_WAIT

    def take(self, amount: float, now: float) -> None:
        self._level, self._at = self._refilled(now) - amount, now

    def _refilled(self, now: float) -> float:
        return min(self._capacity, self._level + self._rate * (now - self._at))


class Slot:
    """One request under way."""

    def __init__(self, number: int, input_tokens: int) -> None:
        self.number = number
        self.charges = {REQUESTS: 1.0, "output-tokens": 1.0} | dict.fromkeys(INPUT_BUCKETS, float(input_tokens))


class Pace:
    """When the next request may start. Lowered at each refusal, raised by one per round of replies."""

    def __init__(self, max_concurrent: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.max_concurrent = max_concurrent
        self.limit = float(max_concurrent)
        """Requests at once, between 1 and ``max_concurrent``."""
        self._clock = clock
        self._buckets = {name: _Bucket() for name in BUCKETS}
        self._under_way: dict[int, Slot] = {}
        self._n_started = 0
        self._last_cut = 0
        self._paused_until = 0.0

    def wait(self, input_tokens: int) -> float | None:
        """0 when a request may start; seconds after which to ask again; None: ask when one has ended."""
        if len(self._under_way) >= int(self.limit):
            return None
        now = self._clock()
        charges = Slot(0, input_tokens).charges
        # An empty pipeline always may send one request: only its reply brings news.
        buckets = (self._buckets[name].wait(amount, now) for name, amount in charges.items())
        return max(self._paused_until - now, 0.0, *(buckets if self._under_way else ()))

    def start(self, input_tokens: int) -> Slot:
        """Count a request that starts now."""
        self._n_started += 1
        slot = Slot(self._n_started, input_tokens)
        self._under_way[slot.number] = slot
        now = self._clock()
        for name, amount in slot.charges.items():
            self._buckets[name].take(amount, now)
        return slot

    def end(self, slot: Slot) -> None:
        """Count a request that has ended, however it did."""
        del self._under_way[slot.number]

    def succeeded(self, slot: Slot, headers: Mapping[str, str]) -> None:
        """A reply came."""
        self.limit = min(self.max_concurrent, self.limit + 1 / self.limit)
        self._observe(slot, headers)

    def refused(self, slot: Slot, headers: Mapping[str, str], retry_after: float | None) -> None:
        """The server has too much to do: nothing starts before ``retry_after`` seconds, and less at once."""
        self._observe(slot, headers)
        if slot.number > self._last_cut:  # the others of its round say nothing new
            self.limit = max(1.0, _CUT * min(self.limit, len(self._under_way)))
            self._last_cut = self._n_started
        self._paused_until = max(self._paused_until, self._clock() + (retry_after or 0.0))

    def _observe(self, slot: Slot, headers: Mapping[str, str]) -> None:
        later = [other for number, other in self._under_way.items() if number > slot.number]
        now = self._clock()
        for name, bucket in self._buckets.items():
            found = _bucket_headers(headers, name)
            if found is not None:
                bucket.observe(*found, uncounted=sum(other.charges[name] for other in later), now=now)


def _bucket_headers(headers: Mapping[str, str], name: str) -> tuple[float, float, float] | None:
    """(limit, remaining, seconds until it is full), None when the server does not say."""
    try:
        capacity, remaining = (float(headers[f"{_PREFIX}{name}-{what}"]) for what in ("limit", "remaining"))
        reset = datetime.fromisoformat(headers[f"{_PREFIX}{name}-reset"])
        return capacity, remaining, (reset - _server_time(headers)).total_seconds()
    except (KeyError, ValueError, TypeError):
        return None


def _server_time(headers: Mapping[str, str]) -> datetime:
    """By the server's clock where it tells; ours may be wrong."""
    return parsedate_to_datetime(headers["date"]) if "date" in headers else datetime.now(UTC)


class Slots:
    """``Pace`` for tasks: they wait in line."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._line = asyncio.Lock()
        self._ended = asyncio.Event()

    async def acquire(self, input_tokens: int) -> Slot:
        """Wait until a request may start, and count it."""
        async with self._line:
            while True:
                self._ended.clear()
                seconds = self._pace.wait(input_tokens)
                if seconds == 0:
                    return self._pace.start(input_tokens)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ended.wait(), seconds)

    def release(self, slot: Slot) -> None:
        """Count its end."""
        self._pace.end(slot)
        self._ended.set()
