"""Numbers of things in sentences."""

from __future__ import annotations

_HISSING = ("s", "x", "z", "ch", "sh")


def plural(n: float, noun: str) -> str:
    """ "1 token", "8,192 tokens", "2 near misses", "0.5 firings": n with its thousands separated, and the noun."""
    ending = "" if n == 1 else "es" if noun.endswith(_HISSING) else "s"
    return f"{n:,} {noun}{ending}"


def by_number(n: float, one: str, many: str) -> str:
    """The word that agrees with n: "is" or "are", "it" or "them"."""
    return one if n == 1 else many


def roughly(value: float) -> str:
    """Two significant digits, written out: 0.26, 180, 1,800."""
    return f"{float(f'{value:.2g}'):,.15g}"
