from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from spd_tools.store.tokentext import TokenText

ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocab={char: n for n, char in enumerate(ALPHABET)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def ids_of(text: str) -> list[int]:
    return byte_level().encode(text).ids


def words(*vocabulary: str) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token=vocabulary[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def test_without_a_tokenizer_a_token_has_no_text_and_is_shown_as_its_id():
    assert (TokenText(None)(7), TokenText(None).shown(7)) == (None, "<7>")


def test_an_id_that_the_tokenizer_does_not_know_has_no_text_and_is_shown_as_its_id():
    texts = TokenText(byte_level())
    assert (texts(9999), texts.shown(9999)) == (None, "<9999>")


def test_an_unknown_id_in_running_text_is_its_id():
    assert TokenText(byte_level()).running([9999, *ids_of("x")], 0) == ["<9999>", "x"]


def test_byte_level_tokens_are_the_bytes_they_stand_for():
    texts = TokenText(byte_level())
    assert [texts(token) for token in ids_of(" \n")] == [" ", "\n"]


def test_a_part_of_a_character_shows_its_bytes():
    texts = TokenText(byte_level())
    assert [texts(token) for token in ids_of("é")] == ["\\xc3", "\\xa9"]


def test_in_running_text_a_split_character_appears_whole():
    ids = ids_of("x日y")
    assert TokenText(byte_level()).running(ids, 0) == ["x", "", "", "日", "y"]


def test_the_focus_shows_what_it_holds_even_inside_a_character():
    ids = ids_of("x日y")
    assert TokenText(byte_level()).running(ids, 2) == ["x", "\\xe6", "\\x97", "\\xa5", "y"]


def test_a_character_cut_off_at_the_end_shows_its_bytes():
    ids = ids_of("x日")[:3]
    assert TokenText(byte_level()).running(ids, 0) == ["x", "", "\\xe6\\x97"]


@given(st.text(), st.integers(0, 50))
def test_running_text_of_whole_characters_is_the_text(text, focus):
    ids = ids_of(text)
    texts = TokenText(byte_level())
    shown = "".join(texts.running(ids, focus))
    split = focus < len(ids) and texts(ids[focus]).startswith("\\x")
    assert split or shown == text


def byte_ids() -> dict[int, int]:
    """byte -> token id for every byte that UTF-8 uses, by asking the tokenizer."""
    text = "".join(map(chr, (*range(0x800), *range(0x800, 0xD800, 64), *range(0xE000, 0x110000, 4096))))
    return dict(zip(text.encode(), ids_of(text), strict=True))


BYTE_IDS = byte_ids()


@given(st.lists(st.sampled_from(sorted(BYTE_IDS)), max_size=20), st.integers(0, 19))
def test_running_text_has_one_text_per_token_and_loses_no_byte(data, focus):
    texts = TokenText(byte_level()).running([BYTE_IDS[byte] for byte in data], focus)
    assert len(texts) == len(data)
    assert b"".join(as_bytes("".join(texts))) == bytes(data)


def as_bytes(text: str) -> list[bytes]:
    """Undo the spelling of bytes that are no character."""
    pieces, rest = [], text
    while rest:
        if rest.startswith("\\x"):
            pieces.append(bytes.fromhex(rest[2:4]))
            rest = rest[4:]
        else:
            pieces.append(rest[0].encode())
            rest = rest[1:]
    return pieces


def test_word_tokenizers_get_their_spaces_back():
    texts = TokenText(words("?", "cat", "##s", "run"))
    assert texts.running([1, 2, 3], 1) == [" cat", "s", " run"]


def test_sentencepiece_marks_and_bytes():
    tokenizer = Tokenizer(models.BPE(vocab={"▁the": 0, "<0x0A>": 1}, merges=[], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    texts = TokenText(tokenizer)
    assert [texts(0), texts(1)] == [" the", "\n"]


def test_the_marks_of_sentencepiece_are_spaces():
    tokenizer = words("▁the", "the", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    texts = TokenText(tokenizer)
    assert [texts(0), texts(1), texts(2)] == [" the", "the", " "]


def test_the_unknown_token_is_named():
    unigram = Tokenizer(models.Unigram([("a", 0.0), ("<unk>", 0.0)], unk_id=1))
    assert [TokenText(tokenizer).unknown for tokenizer in (words("?", "a"), unigram, byte_level())] == [
        "?",
        "<unk>",
        None,
    ]


def parts(tokenizer: Tokenizer, text: str) -> list[str]:
    return [text[start:stop] for start, stop in TokenText(tokenizer).unknown_parts(text)]


def test_what_the_unknown_token_stands_for_is_unknown():
    assert parts(words("<unk>", "a", "b"), " a zebra <unk> b  yak") == ["zebra", "yak"]


def test_words_of_which_something_is_dropped_are_unknown():
    tokenizer = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert parts(tokenizer, "aba axya b b!") == ["axya", "b!"]


def test_where_a_tokenizer_gives_up_everything_is_unknown():
    tokenizer = Tokenizer(models.WordLevel({"a": 0}))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    assert parts(tokenizer, "a zebra a") == ["zebra"]


@given(st.text(max_size=30))
def test_a_byte_level_vocabulary_lacks_nothing(text: str):
    assert parts(byte_level(), text) == []


def test_without_a_tokenizer_nothing_is_said_to_be_unknown():
    assert TokenText(None).unknown_parts("zebra") == []
