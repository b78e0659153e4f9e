"""Probe: what some components do on texts that somebody typed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Request, Result
from spd_tools.experiments.subject import Subject, by_length
from spd_tools.store.records import Record
from spd_tools.wording import by_number, plural

MAX_TEXTS = 256


class ProbeRequest(Request):
    """Run the unchanged model on new texts."""

    experiment: Literal["probe"] = "probe"
    texts: list[str] = Field(min_length=1, max_length=MAX_TEXTS, description="texts, or rows of the harvest: row:12")


class ProbedText(Record):
    """One text, position by position."""

    text: str
    token_ids: list[int]
    token_texts: list[str | None]
    ranking: list[float]
    """Ranking activation at every position."""
    gating: list[float]
    """Gating activation at every position."""
    firing_positions: list[int]


class ProbeResult(Result):
    """Activations at every position. A probe shows that something fires, not why."""

    request: ProbeRequest
    texts: list[ProbedText]


def probe(subject: Subject, request: ProbeRequest) -> ProbeResult:
    """Activations of a component at every position of some texts.

    Raises:
        SpdToolsError: for an unknown component, or a text that has no tokens or too many.
    """
    subject.harvest.keys.flat(request.key)
    rows = [_tokens(subject, text) for text in request.texts]
    probed: dict[int, ProbedText] = {}
    for numbers, tokens in by_length(rows):
        traces = subject.traces(tokens, [request.key])
        for at, number in enumerate(numbers):
            probed[number] = ProbedText(
                text=request.texts[number],
                token_ids=rows[number],
                token_texts=subject.text_of(rows[number]),
                ranking=traces.ranking[at, :, 0].tolist(),
                gating=traces.gating[at, :, 0].tolist(),
                firing_positions=traces.fires[at, :, 0].nonzero()[0].tolist(),
            )
    texts = [probed[number] for number in range(len(rows))]
    n_firing = sum(bool(text.firing_positions) for text in texts)
    return ProbeResult(
        **subject.identity(request),
        kind="counterfactual",
        population=_population(request.texts),
        n=sum(map(len, rows)),
        effect=None,
        control=None,
        p_value=None,
        summary=f"{request.key} fires in {n_firing} of {plural(len(texts), 'text')}, at "
        f"{sum(len(text.firing_positions) for text in texts)} of {plural(sum(map(len, rows)), 'position')}.",
        request=request,
        texts=texts,
    )


def _row(text: str) -> int | None:
    """The harvest row that "row:12" names; None of a text that was typed in."""
    head, colon, number = text.partition(":")
    return int(number) if head == "row" and colon and number.isascii() and number.isdigit() else None


def _population(texts: Sequence[str]) -> str:
    n_rows = sum(_row(text) is not None for text in texts)
    n_typed = len(texts) - n_rows
    parts = [f"{plural(n_typed, 'text')} that {by_number(n_typed, 'was', 'were')} typed in"] if n_typed else []
    return " and ".join([*parts, *([f"{plural(n_rows, 'row')} of the harvest"] if n_rows else [])])


def _tokens(subject: Subject, text: str) -> list[int]:
    """Tokens of a text, or of the harvest row that "row:12" names."""
    if (row := _row(text)) is not None:
        return subject.row(row).tolist()
    if not text:
        raise SpdToolsError("A text is empty; give at least one word.")
    return subject.tokens_of(text)
