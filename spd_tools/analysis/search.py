"""Find components by token, layer and density."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import SIDES, KeyField, Record, Side, TokenScore
from spd_tools.store.scores import MIN_COUNT, at_least, chosen, first_by, token_scores
from spd_tools.suggest import did_you_mean

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SearchOrder = Literal["index", "density", "recall", "precision", "lift", "pmi"]
SEARCH_ORDERS: tuple[SearchOrder, ...] = ("index", "density", "recall", "precision", "lift", "pmi")


class SearchHit(Record):
    """A component that was found."""

    key: KeyField
    firing_count: int
    density: float
    token: TokenScore | None
    """How it goes with the token asked for; None when none was."""


class SearchResult(Record):
    """Hits in the order asked for."""

    n_components: int
    """All that match, listed or not."""
    token_id: int | None
    order: SearchOrder
    hits: list[SearchHit]


def search(
    harvest: Harvest,
    *,
    token: int | str | None = None,
    side: Side = "input",
    layer: str | None = None,
    min_density: float = 0.0,
    max_density: float = 1.0,
    min_count: float = MIN_COUNT,
    order: SearchOrder | None = None,
    ascending: bool = False,
    limit: int = 20,
) -> SearchResult:
    """Components that meet all conditions.

    Args:
        token: token id or text of one token: components that fire on it ("input"), or where it is predicted ("output").
        side: which of the two.
        layer: name or pattern with * and ?.
        min_density: least density, inclusive.
        max_density: largest density, inclusive.
        min_count: with a token: least M_cv.
        order: default "pmi" with a token (descending; ties by the larger density), else "index".
        ascending: smallest first ("index" is always ascending).
        limit: longest list.

    Raises:
        SpdToolsError: for an unknown layer, token, side or order, an order by token without a token, an empty density
            range or a negative limit.
    """
    at_least(limit, 0, "The limit of a list")
    chosen(side, SIDES, "side")
    order = order or ("index" if token is None else "pmi")
    chosen(order, SEARCH_ORDERS, "order of components")
    if token is None and order not in ("index", "density"):
        raise SpdToolsError(f"Components can be ordered by {order} only when a token is asked for; name one.")
    if not min_density <= max_density:
        raise SpdToolsError(f"No density lies between {min_density} and {max_density}; give the smaller one first.")
    density = harvest.firing_counts / harvest.n_tokens
    keep = _in_layers(harvest, layer) & (density >= min_density) & (density <= max_density)
    token_id = None if token is None else resolve_token(harvest, token)
    column = None if token_id is None else harvest.token_column(token_id, side)
    if column is not None:
        keep &= (column > 0) & (column >= min_count)
    found = np.flatnonzero(keep)
    picked = found[
        _order(order, ascending, harvest.firing_counts[found], None if column is None else column[found], limit)
    ]
    return SearchResult(
        n_components=len(found), token_id=token_id, order=order, hits=_hits(harvest, picked, token_id, side, column)
    )


def resolve_token(harvest: Harvest, token: int | str) -> int:
    """Token id of an id, a piece of the vocabulary or a text that is one token.

    Raises:
        SpdToolsError: when there is no such token, or the text is several.
    """
    if isinstance(token, int):
        harvest.check_token(token)
        return token
    tokenizer = harvest.tokenizer
    if tokenizer is None:
        raise SpdToolsError(f"This harvest has no tokenizer to read {token!r} with; give a token id.")
    # A text before a vocabulary spelling: "Ġthe" is rarely meant as three letters, " the" often as one token.
    pieces = _pieces(tokenizer, token, harvest.token_texts.unknown)
    token_id = pieces[0] if pieces is not None and len(pieces) == 1 else tokenizer.token_to_id(token)
    if token_id is None:
        raise SpdToolsError(_not_one_token(harvest, tokenizer, token, pieces))
    harvest.check_token(token_id)
    return token_id


def _pieces(tokenizer: Tokenizer, text: str, unknown: str | None) -> list[int] | None:
    """Token ids of a text; None when the vocabulary has no tokens for all of it."""
    try:
        encoding = tokenizer.encode(text, add_special_tokens=False)
    except Exception:  # tokenizers raises bare Exception, for example for a word without an unknown token to stand in
        return None
    # An unknown token stands in for anything, and without one some models drop what they do not know.
    covered = {at for start, end in encoding.offsets for at in range(start, end)}
    missing = any(at not in covered and not char.isspace() for at, char in enumerate(text))
    if missing or (unknown is not None and text != unknown and unknown in encoding.tokens):
        return None
    return encoding.ids


def _not_one_token(harvest: Harvest, tokenizer: Tokenizer, text: str, pieces: list[int] | None) -> str:
    # Most words are tokens together with the space before them, which our lists show as a dot.
    spaced = f" {text.removeprefix('·').lstrip()}"
    found = _pieces(tokenizer, spaced, harvest.token_texts.unknown)
    advice = f"did you mean {spaced!r}, with the space?" if found is not None and len(found) == 1 else None
    if pieces is None:
        return (
            f"{text!r} is not in the vocabulary of this harvest's tokenizer; "
            f"{advice or 'ask for another token or give an id.'}"
        )
    spelt = ", ".join(repr(harvest.token_texts.shown(piece)) for piece in pieces) or "none at all"
    return f"{text!r} is not one token but {spelt}; {advice or 'ask for one of its tokens or give an id.'}"


def _in_layers(harvest: Harvest, pattern: str | None) -> NDArray[np.bool_]:
    keep = np.zeros(len(harvest.keys), np.bool_)
    for name in harvest.keys.layers:
        if pattern is None or fnmatchcase(name, pattern):
            keep[harvest.keys.span(name)] = True
    if pattern is not None and not any(fnmatchcase(name, pattern) for name in harvest.keys.layers):
        raise SpdToolsError(f"No layer is called {pattern!r}; {did_you_mean(pattern, harvest.keys.layers, 'layers')}")
    return keep


def _order(
    order: SearchOrder, ascending: bool, firing_counts: NDArray[np.int64], column: NDArray | None, limit: int
) -> NDArray[np.int64]:
    """Places of the first ``limit`` components. Of one token, precision grows with M_cv and the others with recall."""
    if order == "index":
        return np.arange(min(limit, len(firing_counts)))
    if order == "density":
        by = firing_counts
    else:
        assert column is not None
        by = column if order == "precision" else column / firing_counts
    return first_by(limit, by if ascending else -by, -firing_counts)


def _hits(
    harvest: Harvest, picked: NDArray[np.int64], token_id: int | None, side: Side, column: NDArray | None
) -> list[SearchHit]:
    counts = harvest.firing_counts[picked]
    scores: list[TokenScore] | list[None] = [None] * len(picked)
    if token_id is not None and column is not None:
        n = len(picked)
        total = np.repeat(harvest.vocabulary(side)[token_id], n)
        scores = token_scores(
            np.repeat(token_id, n), column[picked], total, counts, harvest.n_tokens, harvest.token_text
        )
    return [
        SearchHit(key=harvest.keys.key(flat), firing_count=count, density=count / harvest.n_tokens, token=score)
        for flat, count, score in zip(picked.tolist(), counts.tolist(), scores, strict=True)
    ]
