"""Numbers as people read them."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spd_tools.annotations.records import MainNumber
    from spd_tools.experiments import Estimate


def number(value: float | None) -> str:
    """Three significant digits; – for what does not exist, −∞ for the logarithm of zero."""
    if value is None:
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:.{digits}f}"
    return f"{value:.2e}"


def interval(found: Estimate | MainNumber | None) -> str:
    """Its ends; – for what does not exist and where there are too few observations for an interval."""
    if found is None or found.low is None or found.high is None:
        return number(None)
    return f"{number(found.low)} to {number(found.high)}"


def estimate(found: Estimate | MainNumber | None) -> str:
    """The number and its interval."""
    if found is None:
        return number(None)
    if found.low is None or found.high is None:
        return number(found.value)
    return f"{number(found.value)} ({interval(found)})"


def p_value(value: float | None) -> str:
    """Two significant digits; one that underflows is not zero."""
    if value is None:
        return number(None)
    return f"{value:.2g}" if value else "<1e-300"


def logarithm(value: float) -> str:
    """Sign and two digits, as PMI is read; −∞ for the logarithm of zero."""
    return number(value) if math.isinf(value) else f"{round(value, 2) + 0.0:+.2f}"


def count(value: float) -> str:
    """Whole numbers with thousands separated; fractions (probability mass) with one digit while they are small."""
    return f"{value:,.0f}" if float(value).is_integer() or value >= 1000 else f"{value:,.1f}"


def percent(share: float) -> str:
    """0.0123 -> 1.2 %; never rounded to 0 % or 100 % unless it is."""
    value = 100 * share
    if value in (0, 100):
        return f"{value:.0f} %"
    if value < 1:
        return f"{value:.2g} %" if value >= 1e-4 else f"{value:.0e} %"
    # 99.96 would print as 100.0
    return f"{min(value, 99.9):.1f} %" if value < 100 else f"{value:.0f} %"


def density(share: float) -> str:
    """0.0120 -> 1 in 83 tokens (1.2 %)."""
    if share <= 0:
        return "no token"
    if share >= 0.5:
        return f"{percent(share)} of all tokens"
    return f"1 in {round(1 / share):,} tokens ({percent(share)})"


def size(n_bytes: int) -> str:
    """Bytes in decimal units."""
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def date(seconds: float) -> str:
    """Local time to the minute."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
