"""Which failures are tried again, and when."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

OVERLOADED = frozenset((429, 503, 529))
"""Statuses that ask for fewer requests."""
_JITTER = 0.1
"""Share that is waited longer than the server said, so that not all come back at once."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How patient we are with one call."""

    attempts: int = 8
    """Requests at most, the first one included."""
    first_seconds: float = 0.5
    """Pause before the second request, where the server names none; doubled before each further one."""
    longest_seconds: float = 30.0
    """Of those pauses."""
    patience_seconds: float = 900.0
    """A server that asks for a longer pause is not waited for."""

    def pause(self, attempt: int, retry_after: float | None) -> float | None:
        """Seconds to wait after the ``attempt``-th request failed (1, 2, ...); None: give up."""
        if attempt >= self.attempts or (retry_after or 0) > self.patience_seconds:
            return None
        if retry_after is not None:
            return retry_after * (1 + random.uniform(0, _JITTER))
        longest = min(self.first_seconds * 2 ** (attempt - 1), self.longest_seconds)
        return random.uniform(longest / 2, longest)


def is_transient(status: int) -> bool:
    """Whether the same request may do better later."""
    return status in (408, 409, 429) or status >= 500


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Seconds that the server asks to wait."""
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit)
        except (KeyError, ValueError):
            continue
    try:
        until = parsedate_to_datetime(headers["retry-after"])
    except (KeyError, ValueError, TypeError):
        return None
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
