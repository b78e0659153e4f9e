"""Single tokens as text that people can read: with the space they begin with, and never as a lone replacement mark."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SPACE_PIECE = "▁"
"""SentencePiece's mark for a space; decoding a single token drops it."""


class TokenText:
    """Token id -> text, each decoded once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._texts: dict[int, str | None] = {}

    def __call__(self, token_id: int) -> str | None:
        """Text of a token; None for an id that the tokenizer does not know."""
        if token_id not in self._texts:
            self._texts[token_id] = self._decode(token_id)
        return self._texts[token_id]

    def _decode(self, token_id: int) -> str | None:
        piece = self.tokenizer.id_to_token(token_id)
        if piece is None:
            return None
        text = self.tokenizer.decode([token_id], skip_special_tokens=False)
        if not text or "\ufffd" in text:
            # A part of a character, or nothing but spaces: the vocabulary's own spelling says more.
            return piece.replace(_SPACE_PIECE, " ")
        if piece.startswith(_SPACE_PIECE) and not text.startswith(" "):
            return " " + text
        return text
