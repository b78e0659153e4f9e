"""Text of data sets inside a prompt: data that can neither end its section nor pretend to be ours, and stays small."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache

TOKEN_LIMIT = 48
"""Characters shown of one token, once escaped."""
OPEN, CLOSE = "«", "»"
"""Around a marked token."""
MORE = "…"
"""Where something was left out."""
_OURS = {"\\": "\\\\", "<": "\\x3c", OPEN: "\\xab", CLOSE: "\\xbb", MORE: "\\u2026"}
"""Characters that mean something in a prompt. Without ``<`` no tag can be closed or opened."""
_NAMED = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


class Quoted(str):
    """Text that may stand in a prompt as it is; templates refuse any other."""

    __slots__ = ()


@lru_cache(maxsize=1 << 14)
def _escaped(char: str) -> str:
    code = ord(char)
    if char in _OURS:
        return _OURS[char]
    if char in _NAMED:
        return _NAMED[char]
    # A variation selector is printable by name only; a series of them hides a text.
    if char.isprintable() and not (0xFE00 <= code < 0xFE10 or 0xE0100 <= code < 0xE01F0):
        return char
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quoted(text: str, limit: int = TOKEN_LIMIT) -> Quoted:
    """A text on one line, escaped as in a Python string, cut after about ``limit`` characters."""
    shown: list[str] = []
    length = 0
    for char in text:
        piece = _escaped(char)
        if length + len(piece) > limit:
            shown.append(MORE)
            break
        shown.append(piece)
        length += len(piece)
    return Quoted("".join(shown))


def quoted_token(text: str) -> Quoted:
    """A token alone, in quotation marks that show the spaces at its ends."""
    return Quoted('"' + quoted(text).replace('"', '\\"') + '"')


def excerpt(texts: Sequence[str], marks: Collection[int], focus: int, *, limit: int, begins: bool) -> Quoted:
    """Neighbouring tokens as running text, some of them marked.

    Args:
        texts: of the tokens.
        marks: places of those to mark.
        focus: a place that is shown whatever happens; what is farthest from it is left out first.
        limit: characters, about.
        begins: whether the row begins with ``texts[0]``.
    """
    shown = {focus: _piece(texts[focus], focus in marks)}
    left, right, length = focus - 1, focus + 1, len(shown[focus])
    while left >= 0 or right < len(texts):
        # To the left stands what a causal model has seen, so it goes first when both sides are as far away.
        place = left if left >= 0 and (right >= len(texts) or focus - left <= right - focus) else right
        piece = _piece(texts[place], place in marks)
        length += len(piece)
        if length > limit:
            break
        shown[place] = piece
        left, right = (left - 1, right) if place < focus else (left, right + 1)
    before = "" if begins and left < 0 else MORE
    return Quoted(before + "".join(shown[place] for place in sorted(shown)) + (MORE if right < len(texts) else ""))


def _piece(text: str, marked: bool) -> str:
    return OPEN + quoted(text) + CLOSE if marked else quoted(text)
