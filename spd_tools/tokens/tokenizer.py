"""Hugging Face tokenizers: found, and used to turn texts into ids on all cores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.source import BATCH_CHARACTERS, TokenBatch, one_line

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_TOKENS = ("[EOS]", "<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|eos|>", "<EOS>", "<｜end▁of▁sentence｜>")
"""Names of the end-of-text token; a special token goes before an ordinary one, then this order counts."""


def load_tokenizer(name_or_file: str) -> Tokenizer:
    """A tokenizer file, a folder with a tokenizer.json, or a hub name (downloaded once by ``huggingface_hub``).

    Truncation and padding that the file asks for are switched off.

    Raises:
        SpdToolsError: when it is none of these or cannot be read.
    """
    from tokenizers import Tokenizer

    # Not Path.is_dir and its like: they raise for hostile names (too long, "~nobody").
    path = Path(os.path.expanduser(name_or_file))
    folder = os.path.isdir(path)
    file = path / "tokenizer.json" if folder else path
    local = os.path.isfile(file)
    if folder and not local:
        raise SpdToolsError(f"The folder {path} has no tokenizer.json; name the tokenizer's file.")
    try:
        tokenizer = Tokenizer.from_file(str(file)) if local else Tokenizer.from_pretrained(name_or_file)
    except Exception as error:  # the library raises plain Exception, huggingface_hub a dozen kinds
        if local:
            raise SpdToolsError(f"{file} is no file of the tokenizers library; give its tokenizer.json.") from error
        raise SpdToolsError(
            f"Tokenizer {name_or_file!r} is no file here and has no tokenizer.json on the hub that can be reached now; "
            "give a tokenizer.json with --tokenizer."
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def tokenizer_sha256(tokenizer: Tokenizer) -> str:
    """Hex digest of everything that the tokenizer does."""
    return hashlib.sha256(tokenizer.to_str().encode()).hexdigest()


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """One more than the largest id, added tokens included."""
    return 1 + max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)


def end_token_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends a document (one of END_TOKENS).

    Raises:
        SpdToolsError: when the tokenizer has none of them.
    """
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    ids = {name: found for name in END_TOKENS if (found := tokenizer.token_to_id(name)) is not None}
    if not ids:
        raise SpdToolsError(
            f"The tokenizer has no end-of-text token (none of {', '.join(END_TOKENS)}) to put between documents; "
            'choose the packing "cut".'
        )
    return ids[next((name for name in ids if name in special), next(iter(ids)))]


def encode(tokenizer: Tokenizer, texts: list[str], *, add_special_tokens: bool) -> Iterator[TokenBatch]:
    """Ids of texts, in pieces of bounded size; parallel over all cores.

    Names of special tokens inside a text become those tokens unless the tokenizer says otherwise
    (``encode_special_tokens``), as in every other use of the tokenizer.

    Raises:
        SpdToolsError: when the tokenizer fails on a text.
    """
    for some in _by_size(texts):
        try:
            encodings = tokenizer.encode_batch_fast(some, add_special_tokens=add_special_tokens)
        except Exception as error:  # plain Exception: a missing unknown token, for example
            raise SpdToolsError(f"The tokenizer failed on a document of the data set: {one_line(error)}.") from error
        documents = [encoding.ids for encoding in encodings]
        lengths = np.array([len(ids) for ids in documents], dtype=np.int64)
        yield TokenBatch(np.fromiter(chain.from_iterable(documents), dtype=np.int64, count=int(lengths.sum())), lengths)


def _by_size(texts: Iterable[str]) -> Iterator[list[str]]:
    """Consecutive texts of at most BATCH_CHARACTERS together (a longer one is alone)."""
    some: list[str] = []
    size = 0
    for text in texts:
        if some and size + len(text) > BATCH_CHARACTERS:
            yield some
            some, size = [], 0
        some.append(text)
        size += len(text)
    if some:
        yield some
