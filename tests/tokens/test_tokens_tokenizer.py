import pytest
from letter_tokenizers import letter_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import load_tokenizer
from spd_tools.tokens.tokenizer import encode, end_token_id, tokenizer_sha256, vocabulary_size


def ids_of(tokenizer, texts, add_special_tokens=False):
    return [
        (batch.ids.tolist(), batch.lengths.tolist())
        for batch in encode(tokenizer, texts, add_special_tokens=add_special_tokens)
    ]


def test_a_tokenizer_is_read_from_its_file(tokenizer_file):
    assert load_tokenizer(tokenizer_file).token_to_id("c") == 4


def test_a_tokenizer_is_read_from_its_folder(tmp_path):
    letter_tokenizer("[EOS]").save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(str(tmp_path)).token_to_id("c") == 4


def test_truncation_and_padding_of_the_file_are_off(tmp_path):
    tokenizer = letter_tokenizer("[EOS]")
    tokenizer.enable_truncation(2)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(tmp_path / "t.json"))
    assert load_tokenizer(str(tmp_path / "t.json")).encode("a b c").ids == [2, 3, 4]


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(SpdToolsError, match=r"has no tokenizer\.json"):
        load_tokenizer(str(tmp_path))


def test_a_file_that_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "t.json").write_text('{"version": 1}')
    with pytest.raises(SpdToolsError, match=r"t\.json is no file of the tokenizers library"):
        load_tokenizer(str(tmp_path / "t.json"))


def test_a_tokenizer_that_is_nowhere_is_named(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SpdToolsError, match=r"Tokenizer 'no/such' is no file here and has no tokenizer\.json"):
        load_tokenizer("no/such")


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-at-all/t.json", "a\0b"])
def test_a_hostile_tokenizer_name_is_one_sentence(name, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SpdToolsError, match="is no file here"):
        load_tokenizer(name)


@pytest.mark.parametrize("name", ["[EOS]", "<|endoftext|>", "</s>", "<eos>", "<|eos|>"])
def test_the_end_token_is_found_by_its_name(name):
    assert end_token_id(letter_tokenizer("[PAD]", name)) == 1


def test_a_special_end_token_goes_before_an_ordinary_word():
    tokenizer = Tokenizer(models.WordLevel({"[EOS]": 0, "[UNK]": 1}, unk_token="[UNK]"))
    tokenizer.add_special_tokens(["</s>"])
    assert end_token_id(tokenizer) == 2


def test_a_tokenizer_without_end_token_is_told_to_cut():
    with pytest.raises(SpdToolsError, match='choose the packing "cut"'):
        end_token_id(letter_tokenizer("[PAD]"))


def test_vocabulary_size_counts_added_tokens():
    tokenizer = letter_tokenizer("[EOS]")
    tokenizer.add_special_tokens(["[MASK]"])
    assert vocabulary_size(tokenizer) == 29


def test_encoding_keeps_the_texts_apart():
    assert ids_of(letter_tokenizer("[EOS]"), ["a b", "", "c"]) == [([2, 3, 4], [2, 0, 1])]


def test_long_texts_are_encoded_in_pieces_of_bounded_size(monkeypatch):
    monkeypatch.setattr("spd_tools.tokens.tokenizer.BATCH_CHARACTERS", 4)
    pieces = ids_of(letter_tokenizer("[EOS]"), ["a", "b", "c d e f", "a b"])
    assert pieces == [([2, 3], [1, 1]), ([4, 5, 6, 7], [4]), ([2, 3], [2])]


def test_special_token_names_in_a_text_are_read_as_the_tokenizer_does_by_default():
    assert ids_of(letter_tokenizer("[EOS]"), ["a [EOS] b"]) == [([2, 0, 3], [3])]


def test_a_tokenizer_that_takes_special_tokens_as_text_is_left_at_that():
    tokenizer = letter_tokenizer("[EOS]")
    tokenizer.encode_special_tokens = True
    assert 0 not in ids_of(tokenizer, ["a [EOS] b"])[0][0]


def test_a_text_that_the_tokenizer_fails_on_is_one_sentence():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(SpdToolsError, match="The tokenizer failed on a document of the data set: "):
        ids_of(tokenizer, ["b"])


def test_equal_tokenizers_have_equal_hashes(tokenizer_file):
    assert tokenizer_sha256(load_tokenizer(tokenizer_file)) == tokenizer_sha256(letter_tokenizer("[EOS]"))


def test_other_tokenizers_have_other_hashes():
    assert tokenizer_sha256(letter_tokenizer("[EOS]")) != tokenizer_sha256(letter_tokenizer("</s>"))
