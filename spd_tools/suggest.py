"""The end of an error sentence that helps with a mistyped name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 12


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """A question that names the known names close to ``name``, or else a list of (the first of) all of them.

    Args:
        name: what was typed.
        known: names that exist, at least one.
        what: what they are called, in the plural.
    """
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.75)
    if close:
        return f"did you mean {' or '.join(close)}?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"the {what} are {', '.join(names[:_LISTED])}{more}."
