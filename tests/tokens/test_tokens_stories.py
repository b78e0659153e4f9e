import numpy as np
import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.stories import Stories
from spd_tools.tokens import DataConfig, prepare_tokens
from spd_tools.tokens.stories import names_stories


def prepared(source="stories:3", **fields):
    return prepare_tokens(DataConfig(source=source, seq_len=32, **{"tokenizer": None, "max_rows": 5} | fields))


def rows(seed, first):
    return np.stack(list(Stories(seed).rows(first, 5, 32)))


def test_a_seed_names_its_stories():
    assert np.array_equal(prepared().tokens, rows(3, 0))


def test_without_a_seed_it_is_0():
    assert np.array_equal(prepared("stories").tokens, rows(0, 0))


def test_held_out_rows_are_others():
    assert np.array_equal(prepared(split="test").tokens, rows(3, 1 << 40))


def test_they_bring_their_tokenizer():
    from tokenizers import Tokenizer

    dataset = prepared()
    tokenizer = Tokenizer.from_file(str(dataset.tokenizer_path))
    told = Stories(3).story(0)
    assert tokenizer.encode(told.text).ids == told.tokens[:-1].tolist()


def test_equal_requests_are_one_file():
    assert prepared().fingerprint == prepared().fingerprint


@pytest.mark.parametrize("other", [{"source": "stories:4"}, {"split": "test"}, {"exclude_tokens": (0,)}])
def test_other_rows_are_another_file(other):
    assert prepared(**other).fingerprint != prepared().fingerprint


def test_excluded_tokens_count_nowhere():
    first = int(rows(3, 0)[0, 0])
    dataset = prepared(exclude_tokens=(first,))
    assert dataset.excluded is not None
    assert np.array_equal(dataset.excluded, dataset.tokens == first)


def test_a_folder_of_that_name_is_written_with_its_path():
    assert names_stories("stories:12")
    assert not names_stories("./stories")
    assert not names_stories("stories:x")


def test_refuses_another_split():
    with pytest.raises(SpdToolsError, match="has the splits train and test, not 'dev'"):
        prepared(split="dev")


def test_refuses_another_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models

    path = tmp_path / "tokenizer.json"
    Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>")).save(str(path))
    with pytest.raises(SpdToolsError, match="tokens of its own"):
        prepared(tokenizer=str(path))


def test_takes_its_own_tokenizer():
    dataset = prepared()
    assert prepared(tokenizer=str(dataset.tokenizer_path)).fingerprint == dataset.fingerprint


def test_refuses_a_vocabulary_that_is_too_small():
    with pytest.raises(SpdToolsError, match="token id"):
        prepare_tokens(DataConfig(source="stories", seq_len=32, tokenizer=None, max_rows=5), vocab_size=7)
