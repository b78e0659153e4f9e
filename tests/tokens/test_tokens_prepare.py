import numpy as np
import pytest
from letter_tokenizers import letter_tokenizer
from tokenizers import processors

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import list_token_caches, load_tokenizer, prepare_tokens


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b"}\n{"text": ""}\n{"text": "c d e a"}\n{"text": "   "}\n')
    return path


def rows_of(dataset):
    return [row[:length].tolist() for row, length in zip(dataset.tokens, dataset.row_lengths, strict=True)]


def test_packed(config, source):
    assert rows_of(prepare_tokens(config(source))) == [[2, 3, 0, 4], [5, 6, 2, 0]]


def test_cut(config, source):
    assert rows_of(prepare_tokens(config(source, seq_len=3, packing="cut"))) == [[2, 3], [4, 5, 6], [2]]


def test_a_tokenizer_without_end_token_cuts(config, source, tmp_path):
    letter_tokenizer().save(str(tmp_path / "t.json"))
    with pytest.raises(SpdToolsError, match='choose the packing "cut"'):
        prepare_tokens(config(source, tokenizer=str(tmp_path / "t.json")))
    dataset = prepare_tokens(config(source, tokenizer=str(tmp_path / "t.json"), packing="cut"))
    assert rows_of(dataset) == [[1, 2], [3, 4, 5, 1]]


@pytest.mark.parametrize(
    ("packing", "rows"), [("cut", [[0, 3, 4], [0, 5, 6, 7], [3]]), ("packed", [[3, 4, 1, 5], [6, 7, 3, 1]])]
)
def test_the_beginning_token_of_a_tokenizer_is_added_where_documents_are_not_packed(
    config, source, tmp_path, packing, rows
):
    tokenizer = letter_tokenizer("<s>", "</s>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer.save(str(tmp_path / "t.json"))
    source.write_text('{"text": "a b"}\n{"text": "c d e a"}\n')
    assert rows_of(prepare_tokens(config(source, tokenizer=str(tmp_path / "t.json"), packing=packing))) == rows


def test_excluded_tokens_are_masked_and_not_counted(config, source):
    dataset = prepare_tokens(config(source, seq_len=5, exclude_tokens=(0, 2)))
    assert rows_of(dataset) == [[2, 3, 0, 4, 5], [6, 2, 0]]
    assert dataset.excluded is not None
    assert dataset.excluded.tolist() == [[True, False, True, False, False], [False, True, True, False, False]]
    assert dataset.n_tokens == 4


def test_nothing_to_exclude_leaves_no_mask(config, source):
    dataset = prepare_tokens(config(source, exclude_tokens=(25,)))
    assert dataset.excluded is None
    assert not (dataset.folder / "excluded.npy").exists()


def test_counts_and_facts(config, source):
    dataset = prepare_tokens(config(source, seq_len=5))
    assert (dataset.n_rows, dataset.seq_len, dataset.n_tokens, dataset.max_token) == (2, 5, 8, 6)
    assert dataset.source == str(source)
    assert dataset.row_lengths.dtype == np.int32


def test_the_tokenizer_is_kept_beside_the_tokens(config, source):
    dataset = prepare_tokens(config(source))
    assert dataset.tokenizer_path is not None
    assert load_tokenizer(str(dataset.tokenizer_path)).decode([2, 3]) == "a b"


def test_small_vocabularies_take_two_bytes(config, source):
    assert prepare_tokens(config(source)).tokens.dtype == np.uint16


def test_large_vocabularies_take_four_bytes(config, source, tmp_path):
    tokenizer = letter_tokenizer("[EOS]")
    tokenizer.add_tokens([f"extra{number}" for number in range((1 << 16) - 27)])
    tokenizer.save(str(tmp_path / "t.json"))
    assert prepare_tokens(config(source, tokenizer=str(tmp_path / "t.json"))).tokens.dtype == np.int32


@pytest.mark.parametrize(("vocab_size", "dtype"), [(1 << 16, np.uint16), ((1 << 16) + 1, np.int32), (None, np.int32)])
def test_token_ids_take_what_the_models_vocabulary_needs(config, source, vocab_size, dtype):
    source.write_text('{"text": [65535]}\n')
    dataset = prepare_tokens(config(source, tokenizer=None), vocab_size=vocab_size)
    assert (dataset.tokens.dtype, rows_of(dataset)) == (dtype, [[65535]])


def test_a_token_outside_the_models_vocabulary_is_named(config, source):
    with pytest.raises(SpdToolsError, match="holds token id 6, but the model's vocabulary ends at 5"):
        prepare_tokens(config(source), vocab_size=6)
    assert list_token_caches() == []


def test_a_token_outside_the_models_vocabulary_is_named_when_the_token_file_is_there(config, source):
    prepare_tokens(config(source))
    with pytest.raises(SpdToolsError, match="holds token id 6, but the model's vocabulary ends at 5"):
        prepare_tokens(config(source), vocab_size=6)


def test_ids_that_the_data_does_not_use_may_be_outside(config, source):
    assert prepare_tokens(config(source), vocab_size=7).max_token == 6


def test_the_second_time_nothing_is_tokenised(config, source, monkeypatch):
    first = prepare_tokens(config(source))
    monkeypatch.setattr("spd_tools.tokens.prepare.encode", None)
    assert rows_of(prepare_tokens(config(source))) == rows_of(first)


@pytest.mark.parametrize(
    "changes",
    [
        {"seq_len": 5},
        {"packing": "cut"},
        {"exclude_tokens": (2,)},
        {"column": "other"},
        {"streaming": True, "max_rows": 1},
    ],
)
def test_what_changes_the_rows_changes_the_fingerprint(config, source, changes):
    source.write_text('{"text": "a b", "other": "a b"}\n{"text": "c d e", "other": "f"}\n')
    assert prepare_tokens(config(source)).fingerprint != prepare_tokens(config(source, **changes)).fingerprint


def test_other_content_has_another_fingerprint(config, source):
    before = prepare_tokens(config(source)).fingerprint
    source.write_text('{"text": "a b"}\n')
    assert prepare_tokens(config(source)).fingerprint != before


def test_another_tokenizer_has_another_fingerprint(config, source, tmp_path):
    letter_tokenizer("</s>").save(str(tmp_path / "t.json"))
    other = prepare_tokens(config(source, tokenizer=str(tmp_path / "t.json")))
    assert other.fingerprint != prepare_tokens(config(source)).fingerprint


@pytest.mark.parametrize("changes", [{"max_rows": 1}, {"streaming": True}, {"split": "train"}, {"is_tokenized": False}])
def test_what_does_not_change_the_rows_does_not_change_the_fingerprint(config, source, changes):
    assert prepare_tokens(config(source)).fingerprint == prepare_tokens(config(source, **changes)).fingerprint


def test_the_order_of_excluded_tokens_does_not_matter(config, source):
    one = prepare_tokens(config(source, exclude_tokens=(2, 3)))
    assert one.fingerprint == prepare_tokens(config(source, exclude_tokens=(3, 2, 3))).fingerprint


def test_streaming_a_local_file_stops_at_max_rows(config, source):
    assert rows_of(prepare_tokens(config(source, streaming=True, max_rows=1))) == [[2, 3, 0, 4]]


def test_hashes_of_large_files_are_remembered(config, source, monkeypatch):
    monkeypatch.setattr("spd_tools.tokens.file_hashes.REMEMBER_FROM", 1)
    monkeypatch.setattr("spd_tools.tokens.file_hashes.SETTLED_NS", 0)
    before = prepare_tokens(config(source)).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("spd_tools.tokens.file_hashes.file_sha256", None)
        assert prepare_tokens(config(source)).fingerprint == before
    source.write_text('{"text": "a b c"}\n')
    assert prepare_tokens(config(source)).fingerprint != before


def test_a_damaged_memory_of_hashes_is_not_believed(config, source, monkeypatch, out_dir):
    monkeypatch.setattr("spd_tools.tokens.file_hashes.REMEMBER_FROM", 1)
    monkeypatch.setattr("spd_tools.tokens.file_hashes.SETTLED_NS", 0)
    before = prepare_tokens(config(source)).fingerprint
    (out_dir / "tokens" / "file_hashes.json").write_text("[{")
    assert prepare_tokens(config(source)).fingerprint == before


def test_a_file_changed_just_now_is_hashed_again(config, source, monkeypatch, out_dir):
    monkeypatch.setattr("spd_tools.tokens.file_hashes.REMEMBER_FROM", 1)
    monkeypatch.setattr("spd_tools.tokens.file_hashes.SETTLED_NS", 1 << 62)
    prepare_tokens(config(source))
    assert not (out_dir / "tokens" / "file_hashes.json").exists()
