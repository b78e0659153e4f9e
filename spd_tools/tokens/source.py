"""What every kind of data set offers: its identity, and its documents in batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from spd_tools.errors import SpdToolsError

MAX_DOCUMENT = 1 << 26
"""Characters (bytes, while undecoded) that one document may have: what is in memory at once is bounded."""
BATCH_DOCUMENTS = 1024
"""Documents that a source reads at once, at most."""
BATCH_CHARACTERS = 1 << 22
"""Characters after which a batch of lines is closed, however few documents it has."""


@dataclass(frozen=True)
class TextBatch:
    """A few documents in the order of the data set."""

    texts: list[str]
    done: float | None
    """Share of the data set that has been read with this batch, None when its size is unknown."""


@dataclass(frozen=True)
class TokenBatch:
    """A few tokenised documents in the order of the data set."""

    ids: np.ndarray
    """[tokens] int64, the documents one after another"""
    lengths: np.ndarray
    """[documents] int64"""
    done: float | None = None
    """Share of the data set that has been read with this batch, None when its size is unknown."""


class Source(ABC):
    """One split of one data set, opened."""

    name: str
    """For people: absolute path or hub name."""
    tokenized: bool
    """Whether ``batches`` gives TokenBatch (True) or TextBatch."""
    identity: dict[str, Any]
    """JSON that is equal exactly when the documents are, as far as can be told without reading them: content hashes
    of local files, the revision of a hub data set."""

    @abstractmethod
    def batches(self) -> Iterator[TextBatch | TokenBatch]:
        """Read the documents, in the data set's order.

        Raises:
            SpdToolsError: naming file and line (or row) of what cannot be read.
        """


def one_line(error: Exception) -> str:
    """What somebody else's exception says, for use inside a sentence: it may carry text of the data set."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return "".join(char if char.isprintable() else " " for char in line[:300]).rstrip(". ")


def check_characters(text: str, where: str) -> str:
    """Return the text, or refuse what no tokenizer takes.

    Raises:
        SpdToolsError: when it is too long or has half a surrogate pair in it.
    """
    if len(text) > MAX_DOCUMENT:
        raise SpdToolsError(f"{where}: the document has more than {MAX_DOCUMENT:,} characters; split it.")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise SpdToolsError(
                f"{where}: the text has an unpaired surrogate at character {error.start}, which is no valid Unicode; "
                "mend or drop the document."
            ) from error
    return text
