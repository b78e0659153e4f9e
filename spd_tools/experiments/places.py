"""Positions that somebody chose: in a row of the harvest, or marked in a text."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.sites import Sites
from spd_tools.experiments.subject import Subject
from spd_tools.experiments.substitution import lead_lengths


@dataclass(frozen=True)
class Places:
    """Positions with what stands before them."""

    tokens: NDArray[np.int64]
    """[n, longest] the rows, padded behind."""
    position: NDArray[np.int64]
    """[n]"""
    lead: NDArray[np.int64]
    """[n] how many tokens at the beginning of the row stay as they are, because the harvest does not count them."""
    name: list[str]
    """What they are called: "row:12:34", or a text."""

    def __len__(self) -> int:
        return len(self.position)

    def some(self, numbers: NDArray[np.int64]) -> Places:
        """Those with some numbers."""
        names = [self.name[number] for number in numbers]
        return Places(self.tokens[numbers], self.position[numbers], self.lead[numbers], names)

    @classmethod
    def of_sites(cls, subject: Subject, sites: Sites) -> Places:
        """Positions of the harvest."""
        return cls(
            tokens=sites.contexts(subject.harvest),
            position=sites.position,
            lead=lead_lengths(subject.harvest, sites.row),
            name=[f"row:{row}:{position}" for row, position in zip(sites.row, sites.position, strict=True)],
        )

    @classmethod
    def read(cls, subject: Subject, texts: list[str]) -> Places:
        """Positions from what somebody typed: "row:12:34", or a text with «» around a token.

        Of several marked tokens the last one is meant.

        Raises:
            SpdToolsError: for a position that the harvest has not, a text without marks, and one that is no text.
        """
        rows: list[NDArray[np.int64]] = []
        position: list[int] = []
        lead: list[int] = []
        for text in texts:
            tokens, at, kept = _of_row(subject, text) if text.startswith("row:") else _of_text(subject, text)
            rows.append(tokens)
            position.append(at)
            lead.append(kept)
        padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
        for number, tokens in enumerate(rows):
            padded[number, : len(tokens)] = tokens
        return cls(padded, np.array(position, np.int64), np.array(lead, np.int64), list(texts))


def _of_row(subject: Subject, text: str) -> tuple[NDArray[np.int64], int, int]:
    numbers = text.split(":")[1:]
    if len(numbers) != 2 or not all(number.isascii() and number.isdigit() for number in numbers):
        raise SpdToolsError(f"{text!r} is no place in the harvest; write row:ROW:POSITION, for example row:12:34.")
    row, position = map(int, numbers)
    tokens = subject.row(row)
    lead = int(lead_lengths(subject.harvest, np.array([row]))[0])
    if not lead <= position < len(tokens):
        raise SpdToolsError(f"Row {row} has counted positions {lead} to {len(tokens) - 1}, not {position}; name one.")
    return tokens, position, lead


def _of_text(subject: Subject, text: str) -> tuple[NDArray[np.int64], int, int]:
    marked = subject.marked_tokens_of(text)
    if not marked.marked:
        raise SpdToolsError(f"{text!r} has no marked token; put « and » around the one where the component fires.")
    return np.array(marked.tokens, np.int64), marked.marked[-1], 0
