"""The corpus that comes with spd-tools, as token files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.cache import cached_rows
from spd_tools.tokens.config import DataConfig
from spd_tools.tokens.dataset import TokenDataset
from spd_tools.tokens.progress import TokenisingProgress
from spd_tools.tokens.tokenizer import load_tokenizer, tokenizer_sha256

_NAME = re.compile(r"stories(?::(?P<seed>\d{1,9}))?")
_SPLITS = {"train": 0, "test": 1 << 40}
"""Split -> its first row."""
_ROWS = 20_000
"""Where nothing says how many."""


def names_stories(source: str) -> bool:
    """Whether a data set's name is "stories" or "stories:SEED"; a folder of that name is written "./stories"."""
    return _NAME.fullmatch(source) is not None


def story_rows(seed: int, first: int, n_rows: int, seq_len: int, exclude_tokens: tuple[int, ...] = ()) -> TokenDataset:
    """Rows first, first + 1, ... of the stories of a seed; each row begins with a story.

    Args:
        seed: Of the stories.
        first: Number of the first row.
        n_rows: How many.
        seq_len: Tokens per row.
        exclude_tokens: Positions with these ids count nowhere.
    """
    from spd_tools.stories import Stories
    from spd_tools.stories.corpus import grammar_digest

    stories = Stories(seed)
    parts = ["stories", grammar_digest(), seed, first, n_rows, seq_len]
    if exclude_tokens:
        parts.append(hashlib.sha256(json.dumps(sorted(set(exclude_tokens))).encode()).hexdigest()[:12])

    def rows() -> Iterator[np.ndarray]:
        with TokenisingProgress() as progress:
            for done, row in enumerate(stories.rows(first, n_rows, seq_len), 1):
                yield row
                progress.advance(seq_len, done / n_rows)

    return cached_rows(
        "-".join(map(str, parts)),
        seq_len,
        len(stories.vocabulary),
        rows,
        f"stories:{seed}",
        stories.vocabulary.tokenizer(),
        exclude_tokens,
    )


def stories_as_asked(config: DataConfig) -> TokenDataset:
    """The rows of stories that a configuration names.

    Raises:
        SpdToolsError: for a split that is neither train nor test, or a tokenizer that is not the stories' own.
    """
    found = _NAME.fullmatch(config.source)
    assert found is not None
    if config.split not in _SPLITS:
        raise SpdToolsError(f"{config.source} has the splits {' and '.join(_SPLITS)}, not {config.split!r}; name one.")
    dataset = story_rows(
        int(found["seed"] or 0),
        _SPLITS[config.split],
        config.max_rows or _ROWS,
        config.seq_len,
        config.exclude_tokens,
    )
    if config.tokenizer is not None:
        own = load_tokenizer(str(dataset.tokenizer_path))
        if tokenizer_sha256(load_tokenizer(config.tokenizer)) != tokenizer_sha256(own):
            raise SpdToolsError(
                f"{config.source} is told in tokens of its own, which {config.tokenizer} does not cut; take another "
                "data set for this model."
            )
    return dataset
