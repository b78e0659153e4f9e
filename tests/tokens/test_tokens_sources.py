import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import prepare_tokens
from spd_tools.tokens.resolve import open_source

AB_CDE = [[2, 3, 0, 4], [5, 6, 0]]
"""Documents "a b" and "c d e", packed into rows of 4."""


def rows_of(dataset):
    return [row[:length].tolist() for row, length in zip(dataset.tokens, dataset.row_lengths, strict=True)]


def write_jsonl(path, *documents, column="text"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({column: document}) + "\n" for document in documents))
    return path


def write_parquet(path, values, kind=None, column="text", **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({column: pa.array(values, kind)}), path, **options)
    return path


def texts_of(source):
    return [text for batch in source.batches() for text in batch.texts]


def test_jsonl(tmp_path, config):
    assert rows_of(prepare_tokens(config(write_jsonl(tmp_path / "a.jsonl", "a b", "c d e")))) == AB_CDE


def test_jsonl_gz(tmp_path, config):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a b"}\n{"text": "c d e"}'))
    assert rows_of(prepare_tokens(config(path))) == AB_CDE


def test_jsonl_with_byte_order_mark_blank_lines_and_carriage_returns(tmp_path, config):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a b"}\r\n\r\n{"text": "c d e"}\r\n')
    assert rows_of(prepare_tokens(config(path))) == AB_CDE


def test_jsonl_of_token_ids(tmp_path, config):
    path = write_jsonl(tmp_path / "a.jsonl", [5, 6, 7, 8, 9], [1])
    assert rows_of(prepare_tokens(config(path, tokenizer=None))) == [[5, 6, 7, 8], [9], [1]]


def test_the_column_is_chosen(tmp_path, config):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "z", "story": "a b"}\n{"story": "c d e"}\n')
    assert rows_of(prepare_tokens(config(path, column="story"))) == AB_CDE


def test_a_text_file_is_one_document_per_paragraph(tmp_path, config):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\n\na\nb\r\n \n\nc\nd\ne")
    source = open_source(config(path))
    assert texts_of(source) == ["a\nb", "c\nd\ne"]


def test_documents_end_with_their_text_file(tmp_path, config):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "2.txt").write_text("c d e\n")
    (tmp_path / "texts" / "1.txt").write_text("a b")
    assert rows_of(prepare_tokens(config(tmp_path / "texts"))) == AB_CDE


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_text(tmp_path, config, kind):
    assert rows_of(prepare_tokens(config(write_parquet(tmp_path / "a.parquet", ["a b", "c d e"], kind)))) == AB_CDE


@pytest.mark.parametrize("kind", [pa.list_(pa.int32()), pa.large_list(pa.uint16()), pa.list_(pa.int64())])
def test_parquet_token_ids_are_split_and_short_rows_keep_their_length(tmp_path, config, kind):
    path = write_parquet(tmp_path / "a.parquet", [[5, 6, 7, 8, 9], [1], [], [2, 3]], kind, column="input_ids")
    assert rows_of(prepare_tokens(config(path, column="input_ids", tokenizer=None))) == [[5, 6, 7, 8], [9], [1], [2, 3]]


def test_parquet_token_ids_of_fixed_length(tmp_path, config):
    path = write_parquet(tmp_path / "a.parquet", [[5, 6], [7, 8]], pa.list_(pa.int32(), 2))
    assert rows_of(prepare_tokens(config(path, tokenizer=None))) == [[5, 6], [7, 8]]


def test_parquet_over_many_batches_and_row_groups(tmp_path, config):
    letters = [chr(97 + at % 26) for at in range(5000)]
    path = write_parquet(tmp_path / "a.parquet", letters, row_group_size=1500)
    assert texts_of(open_source(config(path))) == letters


def test_batches_report_how_much_is_done(tmp_path, config):
    source = open_source(config(write_parquet(tmp_path / "a.parquet", ["a"] * 2000)))
    assert [batch.done for batch in source.batches()] == [1024 / 2000, 1.0]


def test_lines_report_how_much_is_done(tmp_path, config):
    path = write_jsonl(tmp_path / "a.jsonl", *["a"] * 2048)
    assert [batch.done for batch in open_source(config(path)).batches()] == [0.5, 1.0]


def test_a_glob_takes_its_files_in_order(tmp_path, config):
    write_jsonl(tmp_path / "2.jsonl", "c d e")
    write_jsonl(tmp_path / "1.jsonl", "a b")
    write_jsonl(tmp_path / "other.jsonl", "z")
    assert rows_of(prepare_tokens(config(tmp_path / "[12].jsonl"))) == AB_CDE


def test_a_glob_without_match_is_named(tmp_path, config):
    with pytest.raises(SpdToolsError, match=r"No file matches .*\*\.jsonl"):
        open_source(config(tmp_path / "*.jsonl"))


@pytest.mark.parametrize(
    ("split", "text"), [("train", "a"), ("validation", "b"), ("test", "c")], ids=["train", "validation", "test"]
)
def test_a_folder_has_the_splits_that_its_file_names_tell(tmp_path, config, split, text):
    write_parquet(tmp_path / "data" / "train-00000-of-00001.parquet", ["a"])
    write_parquet(tmp_path / "data" / "dev" / "0.parquet", ["b"])
    write_parquet(tmp_path / "data" / "test.parquet", ["c"])
    assert texts_of(open_source(config(tmp_path / "data", split=split))) == [text]


def test_a_split_that_a_folder_does_not_have_is_named(tmp_path, config):
    write_parquet(tmp_path / "data" / "train.parquet", ["a"])
    with pytest.raises(SpdToolsError, match="has no split 'test'; it has 'train': choose with --split"):
        open_source(config(tmp_path / "data", split="test"))


def test_a_folder_where_only_some_names_tell_a_split_is_refused(tmp_path, config):
    write_parquet(tmp_path / "data" / "train.parquet", ["a"])
    write_parquet(tmp_path / "data" / "more.parquet", ["a"])
    with pytest.raises(SpdToolsError, match=r"\(train\.parquet\) and files whose names do not \(more\.parquet\)"):
        open_source(config(tmp_path / "data"))


def test_a_file_has_no_splits(tmp_path, config):
    with pytest.raises(SpdToolsError, match="has no splits, but 'test' was asked for"):
        open_source(config(write_jsonl(tmp_path / "a.jsonl", "a"), split="test"))


def test_a_folder_of_mixed_files_is_refused(tmp_path, config):
    write_parquet(tmp_path / "data" / "a.parquet", ["a"])
    write_jsonl(tmp_path / "data" / "b.jsonl", "a")
    with pytest.raises(SpdToolsError, match="mixes jsonl and parquet files"):
        open_source(config(tmp_path / "data"))


def test_hidden_files_of_a_folder_are_no_data(tmp_path, config):
    write_jsonl(tmp_path / "data" / "a.jsonl", "a")
    write_jsonl(tmp_path / "data" / ".checkpoints" / "b.jsonl", "b")
    assert texts_of(open_source(config(tmp_path / "data"))) == ["a"]


def test_a_folder_without_data_is_named(tmp_path, config):
    with pytest.raises(SpdToolsError, match="holds none of"):
        open_source(config(tmp_path))


def test_a_file_of_another_format_is_named(tmp_path, config):
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(SpdToolsError, match=r"a\.csv is not in a known format"):
        open_source(config(tmp_path / "a.csv"))


@pytest.mark.parametrize("name", ["./missing", "missing.jsonl", "a b", "x" * 5000 + "/" + "y" * 5000 + ".txt", "a\0b"])
def test_what_is_neither_a_path_nor_a_hub_name_is_named(config, name):
    with pytest.raises(SpdToolsError, match="There is no file or folder"):
        open_source(config(name))


def test_equal_content_elsewhere_has_the_same_fingerprint(tmp_path, config):
    one = prepare_tokens(config(write_jsonl(tmp_path / "a.jsonl", "a b")))
    two = prepare_tokens(config(write_jsonl(tmp_path / "b.jsonl", "a b")))
    assert one.fingerprint == two.fingerprint


def test_rows_are_memory_mapped(tmp_path, config):
    dataset = prepare_tokens(config(write_jsonl(tmp_path / "a.jsonl", "a b")))
    assert isinstance(dataset.tokens, np.memmap)
    assert not dataset.tokens.flags.writeable
