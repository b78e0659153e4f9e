"""What may be written: checks of names, texts, keys and ids from outside."""

from __future__ import annotations

import math
from pathlib import PurePath

from spd_tools.annotations.records import MAX_NAME, MAX_TEXT
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey, KeySpace

_MAX_KEY = 500
MAX_WORDS = 50
"""In a query of the full-text search."""
_SHOWN = 60


def shown(text: str) -> str:
    """A text quoted in an error: on one line, short, with nothing in it that steers a terminal."""
    return repr(text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…")


def text_of(what: str, text: str, limit: int = MAX_TEXT) -> str:
    """A text that can be stored: any characters, but not blank, not too long and no halves of surrogate pairs.

    Raises:
        SpdToolsError: otherwise.
    """
    if len(text) > limit:
        raise SpdToolsError(f"{what} has {len(text):,} characters, and at most {limit:,} are kept; shorten it.")
    if not text.strip():
        raise SpdToolsError(f"{what} is blank; write something.")
    return storable(what, text)


def storable(what: str, text: str) -> str:
    """The text, if it is Unicode.

    Raises:
        SpdToolsError: for halves of surrogate pairs.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise SpdToolsError(
            f"{what} holds half of a surrogate pair (U+{code:04X}), which is no character; leave it out."
        ) from None
    return text


def name_of(what: str, text: str) -> str:
    """A short text. Raises SpdToolsError as ``text_of``."""
    return text_of(what, text, MAX_NAME)


def key_of(key: str | ComponentKey, keys: KeySpace | None) -> str:
    """A component's key as it is stored.

    Raises:
        SpdToolsError: when it is none, or ``keys`` do not hold it.
    """
    text = str(key)
    if len(text) > _MAX_KEY:
        raise SpdToolsError(f"A key of {len(text):,} characters is no component; write LAYER:INDEX.")
    storable("A component's key", text)
    parsed = ComponentKey.parse(text)
    if keys is not None:
        keys.flat(parsed)
    return str(parsed)


def run_name(run_id: str) -> str:
    """A run id that names a file in the folder of annotations and nothing outside of it.

    Raises:
        SpdToolsError: otherwise.
    """
    plain = run_id.isprintable() and "\\" not in run_id and PurePath(run_id).name == run_id
    if not plain or run_id[:1] in ("", ".") or len(run_id.encode()) > MAX_NAME:
        raise SpdToolsError(f"{shown(run_id)} is no run id: those are plain file names; `spd-tools runs` lists them.")
    return run_id


def share_of(what: str, value: float) -> float:
    """A number from 0 to 1.

    Raises:
        SpdToolsError: for any other.
    """
    if not 0 <= value <= 1:
        raise SpdToolsError(f"{what} is {value}; give a number from 0 to 1.")
    return float(value)


def finite(what: str, value: float) -> float:
    """A finite number.

    Raises:
        SpdToolsError: for infinities and NaN.
    """
    if not math.isfinite(value):
        raise SpdToolsError(f"{what} is {value}; only finite numbers are kept: leave out what could not be computed.")
    return float(value)


def count_of(what: str, n: int, low: int, high: int = 2**53) -> int:
    """A whole number within bounds.

    Raises:
        SpdToolsError: for any other.
    """
    if not low <= n <= high:
        raise SpdToolsError(f"{what} is {n}; give a number from {low} {f'to {high}' if high < 2**53 else 'on'}.")
    return n
