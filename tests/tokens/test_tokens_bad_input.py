import gzip
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import DataConfig, list_token_caches, prepare_tokens


def refused(config, match):
    """One printable sentence, and no token file."""
    with pytest.raises(SpdToolsError, match=match) as caught:
        prepare_tokens(config)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert list_token_caches() == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b'{"text": "a"}\n{"text": \n', r"bad\.jsonl, line 2: not JSON"),
        (b'{"text": "a"}\n' + b"[" * 100_000 + b"\n", r"bad\.jsonl, line 2: not JSON"),
        (b'{"text": "a"}\n["a"]\n', r"bad\.jsonl, line 2: not a JSON object"),
        (b'{"text": "a"}\n\n{"a\\u001b[31m": "a"}\n', r"bad\.jsonl, line 3: no field 'text'; its fields are 'a\\x1b"),
        (b'{"text": "a"}\n{}\n', r"bad\.jsonl, line 2: no field 'text'; its fields are none"),
        (b'{"text": "a"}\n{"text": null}\n', r"bad\.jsonl, line 2: 'text' is null"),
        (b'{"text": "a"}\n{"text": 3}\n', r"bad\.jsonl, line 2: 'text' is of type int, not text"),
        (b'{"text": "a"}\n{"text": [3]}\n', r"bad\.jsonl, line 2: 'text' is of type list, not text"),
        (b'{"text": [1]}\n{"text": "a"}\n', r"bad\.jsonl, line 2: 'text' is not a list of token ids"),
        (b'{"text": [1]}\n{"text": [true]}\n', r"bad\.jsonl, line 2: 'text' is not a list of token ids"),
        (b'{"text": [1]}\n{"text": [1e400]}\n', r"bad\.jsonl, line 2: 'text' is not a list of token ids"),
        (b'{"text": [1]}\n{"text": [9223372036854775808]}\n', r"bad\.jsonl, line 2: 'text' is not a list of token ids"),
        (b'{"text": [-1]}\n', "holds token id -1"),
        (b'{"text": [2147483648]}\n', "holds token id 2147483648"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"bad\.jsonl, line 2: not valid UTF-8 at byte 10"),
        (
            b'{"text": "a"}\n{"text": "b\\ud800"}\n',
            r"bad\.jsonl, line 2: the text has an unpaired surrogate at .* 1",
        ),
        (b"", r"bad\.jsonl holds no documents"),
        (b"\n\n", r"bad\.jsonl holds no documents"),
        (b'{"text": ""}\n{"text": "  "}\n', r"bad\.jsonl holds no documents"),
    ],
)
def test_bad_jsonl(tmp_path, config, content, match):
    (tmp_path / "bad.jsonl").write_bytes(content)
    refused(config(tmp_path / "bad.jsonl"), match)


def test_a_line_that_is_too_long(tmp_path, config, monkeypatch):
    monkeypatch.setattr("spd_tools.tokens.lines.MAX_DOCUMENT", 20)
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": "aaaaaaaaaaaaaaaaaa"}\n')
    refused(config(tmp_path / "bad.jsonl"), r"bad\.jsonl, line 2: longer than 20 bytes")


def test_a_torn_gz(tmp_path, config):
    lines = b"".join(b'{"text": "%d"}\n' % number for number in range(5000))
    (tmp_path / "bad.jsonl.gz").write_bytes(gzip.compress(lines)[:-2000])
    refused(config(tmp_path / "bad.jsonl.gz"), r"bad\.jsonl\.gz is not a whole gzip file \(torn after line \d+\)")


def test_a_gz_that_is_none(tmp_path, config):
    (tmp_path / "bad.jsonl.gz").write_bytes(b'{"text": "a"}\n')
    refused(config(tmp_path / "bad.jsonl.gz"), r"bad\.jsonl\.gz is not a whole gzip file")


def test_a_damaged_gz(tmp_path, config):
    packed = bytearray(gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(5000))))
    packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    (tmp_path / "bad.jsonl.gz").write_bytes(packed)
    refused(config(tmp_path / "bad.jsonl.gz"), r"bad\.jsonl\.gz(, line \d+:| is not a whole gzip file)")


def test_a_text_file_that_is_not_utf8(tmp_path, config):
    (tmp_path / "bad.txt").write_bytes(b"a\nb\xe9\n")
    refused(config(tmp_path / "bad.txt"), r"bad\.txt, line 2: not valid UTF-8 at byte 1")


def test_a_paragraph_that_is_too_long_is_named_by_its_first_line(tmp_path, config, monkeypatch):
    monkeypatch.setattr("spd_tools.tokens.lines.MAX_DOCUMENT", 20)
    (tmp_path / "bad.txt").write_text("a\n\naaaaaaaaa\nbbbbbbbbb\nccccccccc\n")
    refused(config(tmp_path / "bad.txt"), r"bad\.txt, line 3: a paragraph of more than 20 characters begins here")


def test_an_empty_text_file(tmp_path, config):
    (tmp_path / "bad.txt").write_bytes(b"")
    refused(config(tmp_path / "bad.txt"), r"bad\.txt holds no documents")


def test_token_ids_wanted_from_text_files(tmp_path, config):
    (tmp_path / "bad.txt").write_bytes(b"1 2 3")
    refused(config(tmp_path / "bad.txt", is_tokenized=True), r"bad\.txt is text, but token ids were asked for")


INVALID_UTF8 = pa.array([b"a", b"\xff"]).view(pa.string())


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        (pa.array(["a"]), {"column": "x"}, r"bad\.parquet has no column 'x'; its columns are 'text'"),
        (pa.array([1.5]), {}, r"Column 'text' of .*bad\.parquet is of type double"),
        (pa.array([[1.5]]), {}, r"Column 'text' of .*bad\.parquet is of type list"),
        (pa.array([b"a"]), {}, r"Column 'text' of .*bad\.parquet is of type binary"),
        (pa.array(["a"]), {"is_tokenized": True}, r"Column 'text' of .*bad\.parquet holds text, not token ids as"),
        (pa.array([[1]]), {"is_tokenized": False}, r"Column 'text' of .*bad\.parquet holds token ids, not text as"),
        (pa.array(["a", None]), {}, r"Row 1 of .*bad\.parquet is null"),
        (pa.array([[1], None]), {}, r"Row 1 of .*bad\.parquet is null"),
        (pa.array([[1, 2], [], [3, None]]), {}, r"Row 2 of .*bad\.parquet has a null among its token ids"),
        (pa.array([[1 << 63]], pa.list_(pa.uint64())), {}, r"bad\.parquet has a token id above"),
        (pa.array([[-3]]), {}, r"bad\.parquet holds token id -3"),
        (INVALID_UTF8, {}, r"Row 1 of .*bad\.parquet is not valid UTF-8"),
        (pa.array([], pa.string()), {}, r"bad\.parquet holds no documents"),
        (pa.array([[]], pa.list_(pa.int32())), {}, r"bad\.parquet holds no documents"),
    ],
)
def test_bad_parquet(tmp_path, config, values, options, match):
    pq.write_table(pa.table({"text": values}), tmp_path / "bad.parquet")
    refused(config(tmp_path / "bad.parquet", **options), match)


def test_a_parquet_document_that_is_too_long(tmp_path, config, monkeypatch):
    monkeypatch.setattr("spd_tools.tokens.source.MAX_DOCUMENT", 3)
    pq.write_table(pa.table({"text": ["a", "aaaa"]}), tmp_path / "bad.parquet")
    refused(config(tmp_path / "bad.parquet"), r"Row 1 of .*bad\.parquet: the document has more than 3 characters")


@pytest.mark.parametrize("keep", [0, 40, -40])
def test_a_torn_parquet(tmp_path, config, keep):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "whole.parquet")
    (tmp_path / "bad.parquet").write_bytes((tmp_path / "whole.parquet").read_bytes()[:keep])
    refused(config(tmp_path / "bad.parquet"), r"bad\.parquet could not be read as a parquet file")


def test_a_parquet_with_damaged_pages(tmp_path, config):
    pq.write_table(pa.table({"text": ["abc" * 100]}), tmp_path / "bad.parquet", use_dictionary=False)
    content = bytearray((tmp_path / "bad.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "bad.parquet").write_bytes(content)
    refused(config(tmp_path / "bad.parquet"), r"bad\.parquet is damaged and could not be read to its end")


def test_text_and_token_ids_in_one_folder(tmp_path, config):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "data" / "a.parquet")
    pq.write_table(pa.table({"text": [[1]]}), tmp_path / "data" / "b.parquet")
    refused(config(tmp_path / "data"), r"holds token ids in .*b\.parquet and text in .*a\.parquet")


def test_text_without_tokenizer(tmp_path, config):
    (tmp_path / "a.txt").write_text("a")
    refused(config(tmp_path / "a.txt", tokenizer=None), "is text and no tokenizer is known; name one with --tokenizer")


def test_everything_excluded(tmp_path, config):
    (tmp_path / "a.txt").write_text("a a")
    refused(config(tmp_path / "a.txt", exclude_tokens=(0, 2)), r"Every token of .*a\.txt is excluded")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"source": " "}, "The data set's name is empty"),
        ({"seq_len": 0}, "seq_len is 0"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"packing": "loose"}, "packing is 'loose'; choose 'packed' or 'cut'"),
        ({"exclude_tokens": (1, -2)}, "exclude_tokens has -2"),
    ],
)
def test_bad_config(changes, match):
    with pytest.raises(SpdToolsError, match=re.escape(match)):
        DataConfig(**{"source": "a", "seq_len": 1, "tokenizer": None} | changes)
