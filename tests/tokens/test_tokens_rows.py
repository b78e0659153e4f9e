import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.rows import ROWS_AT_ONCE, cut_rows, given_rows, limit_rows, packed_rows
from spd_tools.tokens.source import TokenBatch

END = 0
DOCUMENTS = st.lists(st.lists(st.lists(st.integers(1, 50), max_size=20), max_size=6), max_size=5)
"""Batches of documents of token ids."""
SEQ_LEN = st.integers(1, 9)


def batches_of(batches: list[list[list[int]]]) -> list[TokenBatch]:
    return [
        TokenBatch(
            np.array([token for document in batch for token in document], dtype=np.int64),
            np.array([len(document) for document in batch], dtype=np.int64),
        )
        for batch in batches
    ]


def rows_of(blocks) -> list[list[int]]:
    rows = []
    for block in blocks:
        for tokens, length in zip(block.tokens, block.lengths, strict=True):
            assert not tokens[length:].any()
            rows.append(tokens[:length].tolist())
    return rows


@given(batches=DOCUMENTS, seq_len=SEQ_LEN)
def test_packed_rows_hold_every_token_in_order_with_the_end_token_after_each_document(batches, seq_len):
    rows = rows_of(packed_rows(batches_of(batches), seq_len, END))
    stream = [token for batch in batches for document in batch if document for token in [*document, END]]
    assert [token for row in rows for token in row] == stream


@given(batches=DOCUMENTS, seq_len=SEQ_LEN)
def test_all_packed_rows_but_the_last_are_full(batches, seq_len):
    lengths = [len(row) for row in rows_of(packed_rows(batches_of(batches), seq_len, END))]
    assert all(length == seq_len for length in lengths[:-1])
    assert all(1 <= length <= seq_len for length in lengths[-1:])


@given(batches=DOCUMENTS, seq_len=SEQ_LEN)
def test_cut_rows_are_slices_of_one_document_each(batches, seq_len):
    rows = rows_of(cut_rows(batches_of(batches), seq_len))
    documents = [document for batch in batches for document in batch]
    assert rows == [document[at : at + seq_len] for document in documents for at in range(0, len(document), seq_len)]


def test_cut_rows_of_a_large_batch_come_in_blocks():
    batch = [[7]] * (ROWS_AT_ONCE + 1)
    assert [len(block.lengths) for block in cut_rows(batches_of([batch]), 3)] == [ROWS_AT_ONCE, 1]


@given(rows=st.lists(st.lists(st.integers(1, 50), min_size=1, max_size=4), max_size=5))
def test_given_rows_are_kept(rows):
    assert rows_of(given_rows(iter(rows), 4)) == rows


@pytest.mark.parametrize("row", [[], [1, 2, 3]])
def test_given_rows_of_another_length_are_refused(row):
    with pytest.raises(SpdToolsError, match=f"A row has {len(row)} tokens; rows of this token file have 1 to 2"):
        list(given_rows([[1], row], 2))


@given(sizes=st.lists(st.integers(1, 5), max_size=5), limit=st.integers(1, 12))
def test_limit_rows_keeps_the_first_ones(sizes, limit):
    rows = [[1 + at] for at in range(sum(sizes))]
    blocks = [block for size in sizes for block in given_rows([rows.pop(0) for _ in range(size)], 1)]
    assert rows_of(limit_rows(blocks, limit)) == rows_of(blocks)[:limit]


def test_limit_rows_reads_nothing_behind_the_limit():
    def blocks():
        yield from given_rows([[1], [2]], 1)
        raise AssertionError("read on")

    assert rows_of(limit_rows(blocks(), 2)) == [[1], [2]]
