"""DataConfig -> TokenDataset: tokenised once, found again afterwards."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.cache import build_token_file, list_token_caches, token_dtype
from spd_tools.tokens.config import DataConfig
from spd_tools.tokens.dataset import TokenDataset
from spd_tools.tokens.hub import HubUnreachableError
from spd_tools.tokens.progress import TokenisingProgress
from spd_tools.tokens.resolve import open_source
from spd_tools.tokens.rows import RowBlock, cut_rows, limit_rows, packed_rows
from spd_tools.tokens.source import Source, TextBatch, TokenBatch
from spd_tools.tokens.stories import names_stories, stories_as_asked
from spd_tools.tokens.tokenizer import encode, end_token_id, load_tokenizer, tokenizer_sha256, vocabulary_size
from spd_tools.tokens.writer import outside_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_VERSION = 1
"""Of how documents become rows; part of every fingerprint."""

logger = logging.getLogger(__name__)


def prepare_tokens(config: DataConfig, *, vocab_size: int | None = None) -> TokenDataset:
    """The token file of a data set: found by its fingerprint, or made now.

    Local files are known by their content. A hub data set is known by its revision; when the hub cannot be reached,
    the newest token file made for the same ``config`` is used, with a warning.

    Args:
        config: which data, tokenised how.
        vocab_size: of the model that is to read it.

    Raises:
        SpdToolsError: when the data set cannot be found or read, holds nothing, or has a token id that is not below
            ``vocab_size``.
    """
    try:
        if names_stories(config.source):
            dataset = stories_as_asked(config)
        else:
            dataset = _find_or_make(open_source(config), config, vocab_size)
    except HubUnreachableError as error:
        earlier = _made_earlier(config)
        if earlier is None:
            raise
        logger.warning("%s Using the token file %s, made for it earlier.", error, earlier.fingerprint)
        dataset = earlier
    if vocab_size is not None and dataset.max_token >= vocab_size:
        raise outside_vocabulary(dataset.source, dataset.max_token, vocab_size)
    return dataset


def _find_or_make(source: Source, config: DataConfig, vocab_size: int | None) -> TokenDataset:
    tokenizer = None if source.tokenized else _tokenizer(source, config)
    dtype = token_dtype(vocabulary_size(tokenizer) if tokenizer else vocab_size)
    end_id = end_token_id(tokenizer) if tokenizer and config.packing == "packed" else None
    identity: dict[str, Any] = {
        "version": _VERSION,
        "source": source.identity,
        "seq_len": config.seq_len,
        "tokenizer": tokenizer_sha256(tokenizer) if tokenizer else None,
        "end_id": end_id,
        "dtype": dtype.name,
        "max_rows": config.row_limit,
        "exclude_tokens": sorted(set(config.exclude_tokens)),
    }

    def blocks() -> Iterator[RowBlock]:
        with TokenisingProgress() as progress:
            documents = _documents(source, tokenizer, progress, config, end_id)
            if end_id is None:
                rows = cut_rows(documents, config.seq_len)
            else:
                rows = packed_rows(documents, config.seq_len, end_id)
            yield from limit_rows(rows, config.row_limit)

    return build_token_file(
        hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
        blocks,
        source=source.name,
        seq_len=config.seq_len,
        vocab_size=vocab_size,
        dtype=dtype,
        tokenizer=tokenizer,
        exclude_tokens=config.exclude_tokens,
        request=_request(config),
    )


def _tokenizer(source: Source, config: DataConfig) -> Tokenizer:
    if config.tokenizer is None:
        raise SpdToolsError(f"{source.name} is text and no tokenizer is known; name one with --tokenizer.")
    return load_tokenizer(config.tokenizer)


def _documents(
    source: Source, tokenizer: Tokenizer | None, progress: TokenisingProgress, config: DataConfig, end_id: int | None
) -> Iterator[TokenBatch]:
    expected = config.row_limit and config.row_limit * config.seq_len
    n_tokens = 0
    for batch in source.batches():
        if isinstance(batch, TextBatch):
            assert tokenizer is not None
            # Packed rows get their end tokens from us; others begin and end as the tokenizer likes it.
            encoded = encode(tokenizer, batch.texts, add_special_tokens=end_id is None)
        else:
            encoded = iter([batch])
        for tokens in encoded:
            yield tokens
            n_tokens += len(tokens.ids)
            done = batch.done if expected is None else max(batch.done or 0.0, min(1.0, n_tokens / expected))
            progress.advance(len(tokens.ids), done)


def _request(config: DataConfig) -> dict[str, Any]:
    return asdict(config) | {"max_rows": config.row_limit, "exclude_tokens": sorted(set(config.exclude_tokens))}


def _made_earlier(config: DataConfig) -> TokenDataset | None:
    request = _request(config)
    made = [info.path for info in list_token_caches() if info.manifest and info.manifest.request == request]
    newest = max(made, key=lambda path: path.stat().st_mtime_ns, default=None)
    return TokenDataset.open(newest) if newest else None
