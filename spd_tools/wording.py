"""Numbers of things in sentences."""

from __future__ import annotations

_HISSING = ("s", "x", "z", "ch", "sh")


def plural(n: float, noun: str) -> str:
    """ "1 token", "8,192 tokens", "2 near misses", "0.5 firings": n with its thousands separated, and the noun."""
    ending = "" if n == 1 else "es" if noun.endswith(_HISSING) else "s"
    return f"{n:,} {noun}{ending}"
