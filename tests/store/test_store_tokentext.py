from tokenizers import Tokenizer, decoders, models

from spd_tools.store.tokentext import TokenText


def text_of(pieces: list[str], decoder=None):
    tokenizer = Tokenizer(models.WordLevel({piece: number for number, piece in enumerate(pieces)}, unk_token=pieces[0]))
    if decoder is not None:
        tokenizer.decoder = decoder
    return TokenText(tokenizer)


def test_byte_level_pieces_show_their_space():
    assert text_of(["Ġthe", "the"], decoders.ByteLevel())(0) == " the"


def test_sentencepiece_pieces_keep_the_space_that_decoding_strips():
    texts = text_of(["▁the", "the", "▁"], decoders.Metaspace())
    assert [texts(0), texts(1), texts(2)] == [" the", "the", " "]


def test_part_of_a_character_shows_its_spelling():
    assert text_of(["â", "Ģ"], decoders.ByteLevel())(0) == "â"


def test_an_id_that_the_tokenizer_does_not_know_has_no_text():
    assert text_of(["a"])(7) is None
