from pathlib import Path

import pytest
from letter_tokenizers import letter_tokenizer

from spd_tools.tokens import DataConfig


@pytest.fixture(autouse=True)
def out_dir(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    return tmp_path / "out"


@pytest.fixture
def tokenizer_file(tmp_path) -> str:
    path = tmp_path / "letters.json"
    letter_tokenizer("[EOS]").save(str(path))
    return str(path)


@pytest.fixture
def config(tokenizer_file):
    """DataConfig with a tokenizer of [EOS] = 0, [UNK] = 1, a = 2, b = 3, ..."""

    def make(source, **changes) -> DataConfig:
        return DataConfig(**{"source": str(source), "seq_len": 4, "tokenizer": tokenizer_file} | changes)

    return make
