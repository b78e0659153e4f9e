"""Which data, tokenised how."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from spd_tools.errors import SpdToolsError

Packing = Literal["packed", "cut"]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set and how it becomes rows of token ids.

    Raises:
        SpdToolsError: when a value is out of its range.
    """

    source: str
    """"stories" or "stories:SEED": the corpus that comes with spd-tools. What exists as a path is local: a .parquet,
    .jsonl, .jsonl.gz or .txt file, a folder or a glob of one of those, a folder written by ``datasets``'
    ``save_to_disk``, or the clone of a hub data set. Everything else is the name of a hub data set, ``NAME`` or
    ``NAME:CONFIG`` (for example "allenai/c4:en")."""
    split: str = "train"
    column: str = "text"
    """Column (jsonl: field) with the text or the token ids; not used for .txt files."""
    seq_len: int
    """Width of a row."""
    tokenizer: str | None
    """Hub name, tokenizer file or its folder; None is enough for a data set that is tokenised."""
    packing: Packing = "packed"
    """"packed": all documents in one stream, the end token after each, sliced into rows of ``seq_len``; the last row
    may be shorter. "cut": every document begins a row of its own, longer ones go on in further rows; special tokens as
    the tokenizer adds them by default. Tokenised data sets are always cut."""
    streaming: bool = False
    """Read from the front and only as much as ``max_rows`` needs; hub data sets are streamed, not downloaded."""
    is_tokenized: bool | None = None
    """Whether the column holds token ids; None: the column's type tells."""
    max_rows: int | None = None
    """With ``streaming``, rows to make at most; without, no effect: the whole data set is tokenised. Of stories, which
    have no end, rows to make in any case."""
    exclude_tokens: tuple[int, ...] = ()
    """Positions with these token ids count nowhere (BOS, say)."""

    def __post_init__(self) -> None:
        if not self.source.strip():
            raise SpdToolsError("The data set's name is empty: give a path or the name of a hub data set.")
        if self.seq_len < 1:
            raise SpdToolsError(f"seq_len is {self.seq_len}; a row needs at least one position.")
        if self.max_rows is not None and self.max_rows < 1:
            raise SpdToolsError(f"max_rows is {self.max_rows}; ask for at least one row.")
        if self.packing not in ("packed", "cut"):
            raise SpdToolsError(f"packing is {self.packing!r}; choose 'packed' or 'cut'.")
        if any(token < 0 for token in self.exclude_tokens):
            raise SpdToolsError(f"exclude_tokens has {min(self.exclude_tokens)}; token ids are not negative.")

    @property
    def row_limit(self) -> int | None:
        """Rows at which the token file ends, or None."""
        return self.max_rows if self.streaming else None
