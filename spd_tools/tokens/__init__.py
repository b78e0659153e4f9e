"""A data set as one memory-mapped token file, tokenised once."""

from spd_tools.tokens.cache import TokenCacheInfo, cached_rows, list_token_caches, remove_token_cache
from spd_tools.tokens.config import DataConfig, Packing
from spd_tools.tokens.dataset import TokenDataset, TokenManifest
from spd_tools.tokens.prepare import prepare_tokens
from spd_tools.tokens.stories import names_stories, story_rows
from spd_tools.tokens.tokenizer import load_tokenizer

__all__ = [
    "DataConfig",
    "Packing",
    "TokenCacheInfo",
    "TokenDataset",
    "TokenManifest",
    "cached_rows",
    "list_token_caches",
    "load_tokenizer",
    "names_stories",
    "prepare_tokens",
    "remove_token_cache",
    "story_rows",
]
