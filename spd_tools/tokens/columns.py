"""One Arrow column -> texts or token ids, checked; for parquet files and everything that ``datasets`` reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.source import TextBatch, TokenBatch, check_characters


def is_token_column(schema: pa.Schema, column: str, name: str, is_tokenized: bool | None) -> bool:
    """Whether the column holds token ids (lists of integers) rather than text.

    Raises:
        SpdToolsError: when there is no such column, it holds neither, or not what ``is_tokenized`` says.
    """
    if column not in schema.names:
        names = ", ".join(map(repr, schema.names)) or "none"
        raise SpdToolsError(f"{name} has no column {column!r}; its columns are {names}: choose one with --column.")
    kind = schema.field(column).type
    tokens = _is_list(kind) and pa.types.is_integer(kind.value_type)
    if not tokens and not _is_text(kind):
        raise SpdToolsError(
            f"Column {column!r} of {name} is of type {kind}; choose one that holds text or lists of token ids "
            "with --column."
        )
    if is_tokenized is not None and is_tokenized != tokens:
        has, wanted = ("token ids", "text") if tokens else ("text", "token ids")
        raise SpdToolsError(
            f"Column {column!r} of {name} holds {has}, not {wanted} as asked for; choose another column with --column."
        )
    return tokens


def _is_list(kind: Any) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _is_text(kind: Any) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def read_column(
    values: pa.Array, tokenized: bool, name: str, first_row: int, done: float | None
) -> TextBatch | TokenBatch:
    """Documents of a piece of the column whose first one is row ``first_row`` of ``name``.

    Raises:
        SpdToolsError: naming the row that is null, undecodable or not a list of 32-bit token ids.
    """
    if values.null_count:
        raise SpdToolsError(f"Row {first_row + _first_true(values.is_null())} of {name} is null; fill or drop it.")
    if tokenized:
        return _read_tokens(values, name, first_row, done)
    if pa.types.is_dictionary(values.type):
        values = pc.cast(values, values.type.value_type)
    return TextBatch([_text(value, f"Row {first_row + at} of {name}") for at, value in enumerate(values)], done)


def _text(value: Any, where: str) -> str:
    try:
        text = value.as_py()
    except UnicodeDecodeError as error:
        raise SpdToolsError(f"{where} is not valid UTF-8; mend or drop it.") from error
    return check_characters(text, where)


def _read_tokens(values: pa.Array, name: str, first_row: int, done: float | None) -> TokenBatch:
    lengths = pc.cast(pc.call_function("list_value_length", [values]), pa.int64()).to_numpy(zero_copy_only=False)
    flat = pc.call_function("list_flatten", [values])
    if flat.null_count:
        row = _row_of(lengths, _first_true(flat.is_null()))
        raise SpdToolsError(f"Row {first_row + row} of {name} has a null among its token ids; mend or drop it.")
    try:
        ids = pc.cast(flat, pa.int64()).to_numpy(zero_copy_only=False)
    except pa.ArrowInvalid as error:
        raise SpdToolsError(f"{name} has a token id above 2**63 in rows {first_row} and following.") from error
    return TokenBatch(ids, lengths, done)


def _first_true(mask: pa.Array) -> int:
    return int(np.argmax(mask.to_numpy(zero_copy_only=False)))


def _row_of(lengths: np.ndarray, position: int) -> int:
    return int(np.searchsorted(np.cumsum(lengths), position, side="right"))
