"""Text from data sets, tokenizers, file names and errors is hostile: made visible before a terminal sees it."""

from __future__ import annotations

import unicodedata

NEWLINE_GLYPH = "⏎"
TAB_GLYPH = "⇥"
SPACE_GLYPH = "·"
_DOTTED_CIRCLE = "◌"
_DELETE = 0x7F

_INVISIBLE_LETTERS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Drawn as nothing although Unicode calls them letters, marks or symbols."""
_VARIATION_SELECTORS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))


def _visible_character(char: str) -> str:
    code = ord(char)
    if char == "\n":
        return NEWLINE_GLYPH
    if char == "\t":
        return TAB_GLYPH
    if code < 0x20:
        return chr(0x2400 + code)
    if code == _DELETE:
        return "␡"
    if code < _DELETE:
        return char
    category = unicodedata.category(char)
    hidden = category in {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"} or char in _INVISIBLE_LETTERS
    # Spaces other than U+0020 look like it (or like nothing), and a variation selector is seen only in what it changes.
    if hidden or category == "Zs" or char in _VARIATION_SELECTORS:
        return f"<U+{code:04X}>"
    return char


def visible(text: str) -> str:
    """The text on one line, with every character that steers a terminal or hides replaced by a visible one.

    Controls become their pictures (⏎ for a newline, ␛ for escape); C1 controls, bidirectional overrides, zero-width,
    unassigned, private and surrogate characters become <U+XXXX>. A leading combining mark sits on a dotted circle
    instead of on whatever is printed before it.
    """
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(map(_visible_character, text))
    return _DOTTED_CIRCLE + shown if unicodedata.category(shown[0]).startswith("M") else shown


def visible_token(text: str) -> str:
    """A token standing alone: like ``visible``, spaces at its ends as ·, and ∅ for a token without characters."""
    shown = visible(text)
    if not shown:
        return "∅"
    core = shown.strip(" ")
    if not core:
        return SPACE_GLYPH * len(shown)
    before = len(shown) - len(shown.lstrip(" "))
    after = len(shown) - len(shown.rstrip(" "))
    return SPACE_GLYPH * before + core + SPACE_GLYPH * after
