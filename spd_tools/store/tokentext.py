"""Token ids -> the text they stand for, whatever kind of tokenizer wrote them: one spelling for JSON and terminals."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_METASPACE = "▁"
_CONTINUATION = "##"
_SPACE_DROPPING = {"Whitespace", "WhitespaceSplit", "BertPreTokenizer", "WordPiece"}
"""Pre-tokenizers and decoders whose tokens are words without the space before them."""


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """The byte alphabet of GPT-2's tokenizer: printable Latin-1 stands for itself, other bytes for 256, 257, ..."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _types(step: dict[str, Any] | None) -> set[str]:
    """Types of a pre-tokenizer or decoder and of everything nested in it."""
    if not step:
        return set()
    inner = step.get("decoders") or step.get("pretokenizers") or []
    return {step["type"]}.union(*map(_types, inner))


class TokenText:
    """Text of tokens, as it came: not yet safe for a terminal.

    Byte-level tokens (GPT-2's alphabet, or ``<0x0A>`` of SentencePiece) are turned back into bytes; bytes that are no
    whole character appear as \\xNN. SentencePiece's ▁ is a space. Many threads may ask at once.
    """

    def __init__(self, tokenizer: Tokenizer | None) -> None:
        self.tokenizer = tokenizer
        self.unknown: str | None = None
        """Spelling of the token that stands for whatever the vocabulary lacks; None where there is none."""
        self._byte_level = self._metaspace = self._words = self._stands_in = False
        self._added: set[int] = set()
        self._texts: dict[int, str | None] = {}
        if tokenizer is None:
            return
        document = json.loads(tokenizer.to_str())
        model = document["model"]
        self.unknown = model.get("unk_token")
        if self.unknown is None and model.get("unk_id") is not None:
            self.unknown = tokenizer.id_to_token(model["unk_id"])
        self._stands_in = self.unknown is not None and tokenizer.token_to_id(self.unknown) is not None
        steps = _types(document.get("decoder")) | _types(document.get("pre_tokenizer"))
        self._byte_level = "ByteLevel" in steps
        self._metaspace = not self._byte_level and bool(steps & {"Metaspace", "ByteFallback"})
        self._words = not self._byte_level and not self._metaspace and bool(steps & _SPACE_DROPPING)
        self._added = {token["id"] for token in document.get("added_tokens", [])}

    def __call__(self, token_id: int) -> str | None:
        """Text of one token alone; None without a tokenizer and for an id that it does not know."""
        if token_id not in self._texts:
            data = self._bytes(token_id)
            self._texts[token_id] = None if data is None else data.decode(errors="backslashreplace")
        return self._texts[token_id]

    def shown(self, token_id: int) -> str:
        """The same for people: the id in angle brackets where there is no text."""
        text = self(token_id)
        return f"<{token_id}>" if text is None else text

    def unknown_parts(self, text: str) -> list[tuple[int, int]]:
        """Where a text holds what the vocabulary lacks: begin and end of each part, in characters.

        Those are the parts for which the unknown token stands (unless it is what the text says), and, of a tokenizer
        that has none and drops what it does not know, the words of which it drops something.
        """
        lacking = self._lacking(text)
        if not lacking or self._stands_in:
            return lacking
        # Offsets behind something that was dropped cannot be relied on: each word is looked at alone.
        return [word.span() for word in re.finditer(r"\S+", text) if self._lacking(word[0])]

    def _lacking(self, text: str) -> list[tuple[int, int]]:
        if self.tokenizer is None or not text:
            return []
        try:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        except Exception:  # tokenizers raises it bare for a word without an unknown token to stand in
            return [(0, len(text))]
        lacking = [not char.isspace() for char in text]
        for token, (start, stop) in zip(encoding.tokens, encoding.offsets, strict=True):
            if token != self.unknown or text[start:stop] == token:
                lacking[start:stop] = [False] * (stop - start)
        starts = [at for at, lacks in enumerate(lacking) if lacks and not (at and lacking[at - 1])]
        stops = [at + 1 for at, lacks in enumerate(lacking) if lacks and not any(lacking[at + 1 : at + 2])]
        return list(zip(starts, stops, strict=True))

    def running(self, token_ids: Sequence[int], focus: int) -> list[str]:
        """Texts of neighbouring tokens that read well one after the other, one per token.

        A character whose bytes are spread over several tokens appears whole at the last of them, except that the
        token at ``focus`` always shows what it holds itself. Tokenizers whose tokens carry no spaces get one before
        each word.
        """
        texts: list[str] = []
        pending = b""
        for at, token_id in enumerate(token_ids):
            data = self._bytes(token_id)
            if at in (focus, focus + 1) and pending:
                texts[-1] += pending.decode(errors="backslashreplace")
                pending = b""
            pending += f"<{token_id}>".encode() if data is None else data
            whole = _whole_characters(pending)
            if at == focus or len(pending) - whole > 3:
                whole = len(pending)
            texts.append(pending[:whole].decode(errors="backslashreplace"))
            pending = pending[whole:]
        if pending:
            texts[-1] += pending.decode(errors="backslashreplace")
        return [_joined(text) for text in texts] if self._words else texts

    def _bytes(self, token_id: int) -> bytes | None:
        token = None if self.tokenizer is None else self.tokenizer.id_to_token(token_id)
        if token is None:
            return None
        if token_id in self._added:
            return token.encode(errors="backslashreplace")
        if self._byte_level:
            alphabet = _bytes_of_characters()
            if all(char in alphabet for char in token):
                return bytes(alphabet[char] for char in token)
        if self._metaspace:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes.fromhex(token[3:5])
            token = token.replace(_METASPACE, " ")
        return token.encode(errors="backslashreplace")


def _joined(text: str) -> str:
    """A word with the space that its tokenizer dropped, or the rest of a word."""
    return text.removeprefix(_CONTINUATION) if text.startswith(_CONTINUATION) else " " + text


def _whole_characters(data: bytes) -> int:
    """Length of the data without an unfinished UTF-8 sequence at its end."""
    for back in range(1, min(4, len(data) + 1)):
        lead = data[-back]
        if lead >= 0xC0:
            needed = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            return len(data) - back if needed > back else len(data)
        if lead < 0x80:
            break
    return len(data)
