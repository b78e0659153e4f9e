"""Results of experiments as compact text for a model: what kind of answer it is first, the details after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeGuard

from mcp_server.answers import CLOSE, OPEN, QUOTED, inert, quoted, quoted_run, quoted_token, table
from mcp_server.look_pages import name_of
from mcp_server.notes_pages import estimate
from spd_tools.keys import ComponentKey
from spd_tools.render.numbers import number, p_value
from spd_tools.render.safe import visible
from spd_tools.store.records import Record
from spd_tools.store.tokentext import TokenText
from spd_tools.wording import roughly

if TYPE_CHECKING:
    from spd_tools.experiments import Estimate, Replay, Result
    from spd_tools.experiments.cofiring import CofiringResult
    from spd_tools.experiments.generate_and_test import GenerateAndTestResult
    from spd_tools.experiments.probe import ProbedText, ProbeResult

_KINDS = {
    "observational": "read off the harvest: what goes with it, not what causes it",
    "structural": "read off the weights",
    "counterfactual": "the model was run",
    "mixed": "read off harvest and weights, and the model was run",
}
_HEAD = frozenset(
    (
        *("id", "kind", "subject", "machine", "population", "n", "effect", "control", "p_value", "matching"),
        *("summary", "request"),
    )
)
"""Fields that every result has."""
_TEXTS_OF = {"token_texts": "token_ids", "context_texts": "context"}
"""Field with the texts of tokens -> field with their ids."""
_NAMES = frozenset(("token_id", "row", "position", "chosen", "opposite", "offset", "at"))
"""Integers that are names and not counts."""
_NOWHERE = -2
"""No token of a text is looked at more closely than the others (see TokenText.running)."""
_ROWS = 40
_LISTED = 12
_CELL = 160
_TEXT = 1_500
_STRONGEST = 6


def result_page(result: Result, spelling: TokenText, remark: str | None = None) -> str:
    """One result.

    Args:
        result: of any experiment; a proposal of near misses is not stored, so it has neither id nor kind.
        spelling: of the harvest that it is about.
        remark: what to know about where it was computed.
    """
    from spd_tools.experiments.generate_and_test import only_proposes
    from spd_tools.experiments.unknown_words import unknown_remark

    stored = not only_proposes(result)
    parts = [_head(result, stored), QUOTED, *([] if remark is None else [inert(remark, _TEXT)])]
    unknown = unknown_remark(result.request, spelling)
    parts += [] if unknown is None else [quoted(unknown, _TEXT)]
    parts += _body(result, spelling)
    if stored:
        run = name_of(result.subject.run_id)
        parts.append(
            f"Everything it computed: resource spd://{run}/evidence/{result.id}; "
            f"again from scratch: replay with evidence_id={result.id}."
        )
    return "\n\n".join(parts)


def replay_page(replay: Replay, spelling: TokenText) -> str:
    """Whether a result came out again, and the new one."""
    where = "the same device and versions" if replay.same_machine else "another device or other versions"
    how = "equal to the bit" if replay.identical else f"largest difference {number(replay.largest_difference)}"
    verdict = "It holds" if replay.holds else "It does NOT hold"
    return f"{verdict}: done again on {where}, {how}.\n\n{result_page(replay.result, spelling)}"


def cofiring_page(results: Sequence[CofiringResult], p_values: Sequence[float | None]) -> str:
    """Several co-firing results, one line each; ``p_values``: corrected for all of them."""
    rows = []
    for result, corrected in zip(results, p_values, strict=True):
        strata = result.given_token
        rows.append(
            [
                name_of(result.request.other),
                f"{result.n_ij:,}",
                f"{result.jaccard:.3f}",
                "none" if strata is None else estimate(strata.odds_ratio),
                "none" if corrected is None else p_value(corrected),
                number(result.read_cosine),
                number(result.write_cosine),
                result.id,
            ]
        )
    names = [
        "component",
        "both",
        "Jaccard",
        "odds ratio given the token",
        "p",
        "read cosine",
        "write cosine",
        "evidence",
    ]
    return (
        "Observational: does the other fire with it beyond what the token under both explains? Odds ratio 1: the token "
        f"explains it all. p is Holm-corrected for these {len(results)} comparisons.\n\n{table(names, rows)}"
    )


def _head(result: Result, stored: bool) -> str:
    lines = [
        f"Evidence {result.id}" if stored else "Nothing was tested, so nothing is stored",
        f"Component {name_of(result.request.key)}" + (f"; {result.kind} ({_KINDS[result.kind]})" if stored else ""),
        f"Population: {quoted(result.population, _CELL * 3)}; n = {result.n:,}",
    ]
    if result.effect is not None:
        lines.append(f"Effect: {estimate(result.effect)}")
    if result.control is not None:
        lines.append(f"Control: {estimate(result.control)}")
    if result.excludes_control is not None:
        apart = "lies outside" if result.excludes_control else "overlaps with"
        lines.append(f"The effect's interval {apart} that of its control.")
    if result.p_value is not None:
        lines.append(f"p = {p_value(result.p_value)} (corrected inside this experiment)")
    if result.matching is not None:
        low, high = roughly(result.matching.low), roughly(result.matching.high)
        lines.append(f"Controls: {low} to {high} times as frequent")
    lines.append(f"Found: {quoted(result.summary, _TEXT)}")
    return "\n".join(lines)


def _body(result: Result, spelling: TokenText) -> Iterator[str]:
    from spd_tools.experiments.generate_and_test import GenerateAndTestResult
    from spd_tools.experiments.probe import ProbeResult

    if isinstance(result, ProbeResult):
        yield _probed(result, spelling)
    elif isinstance(result, GenerateAndTestResult) and result.status != "tested":
        yield _candidates(result)
    else:
        yield from _Fields(spelling).of(result, _HEAD)


def _probed(result: ProbeResult, spelling: TokenText) -> str:
    lines = [
        f"{place + 1}. {_marked(text, spelling)}\n   {_strongest(text, spelling)}"
        for place, text in enumerate(result.texts)
    ]
    kind = name_of(result.subject.ranking_kind)
    return f"Firing tokens in ‹›; {kind} at the strongest firings, with their positions:\n" + "\n".join(lines)


def _marked(text: ProbedText, spelling: TokenText) -> str:
    fires = set(text.firing_positions)
    tokens = enumerate(spelling.running(text.token_ids, _NOWHERE))
    return quoted_run(chain.from_iterable(("‹", token, "›") if at in fires else (token,) for at, token in tokens))


def _strongest(text: ProbedText, spelling: TokenText) -> str:
    def at_position(at: int) -> str:
        return f"{quoted_token(spelling.shown(text.token_ids[at]))} at {at}: {number(text.ranking[at])}"

    if not text.firing_positions:
        largest = max(range(len(text.ranking)), key=lambda at: abs(text.ranking[at]))
        return f"fires nowhere; largest: {at_position(largest)}"
    order = sorted(text.firing_positions, key=lambda at: -abs(text.ranking[at]))
    more = f", and {len(order) - _STRONGEST} more" if len(order) > _STRONGEST else ""
    return "fires on " + ", ".join(map(at_position, order[:_STRONGEST])) + more


def _candidates(result: GenerateAndTestResult) -> str:
    rows = [[verbatim(candidate.text), candidate.kind] for candidate in result.candidates]
    return (
        "Near misses to choose from. Decide for each, from the label alone, whether it should fire. Call "
        "generate_and_test again with the same label, positives and negatives and, in near_misses, those of which the "
        "label says that they do NOT fire (at least as many as there are negatives), verbatim; each is a JSON "
        "string:\n\n" + table(["near miss", "made by"], rows)
    )


def verbatim(text: str) -> str:
    """A text that is to be handed back: a JSON string in marks, everything invisible escaped, nothing cut."""
    return f'{OPEN}"{"".join(map(_escaped, text))}"{CLOSE}'


def _escaped(char: str) -> str:
    if char in '"\\':
        return f"\\{char}"
    if char in OPEN + CLOSE or visible(char) != char:
        data = char.encode("utf-16-be", "surrogatepass")
        return "".join(f"\\u{data[at] << 8 | data[at + 1]:04x}" for at in range(0, len(data), 2))
    return char


class _Fields:
    """Any record of an experiment: single values together, each list of records as a table."""

    def __init__(self, spelling: TokenText) -> None:
        self._spelling = spelling

    def of(self, record: Record, leave_out: frozenset[str] = frozenset()) -> Iterator[str]:
        """Its fields, in their order within each group."""
        single: list[str] = []
        groups: list[str] = []
        for name in type(record).model_fields:
            value = getattr(record, name)
            title = name.replace("_", " ")
            if name in leave_out:
                continue
            if isinstance(value, list) and value and isinstance(value[0], Record):
                groups.append(f"## {title}\n{self._table(value)}")
            elif isinstance(value, list) and value and isinstance(value[0], list):
                groups.append(f"## {title}\n" + "\n".join(self._cell("", row, record) for row in value[:_ROWS]))
            elif isinstance(value, Record) and not _is_estimate(value):
                groups.append(f"## {title}\n" + "\n".join(self.of(value)))
            else:
                single.append(f"{title}: {self._cell(name, value, record)}")
        if single:
            yield "\n".join(single)
        yield from groups

    def _table(self, records: Sequence[Record]) -> str:
        fields = type(records[0]).model_fields
        # Where there is text, ids would only repeat it; they are in the evidence.
        hidden = set(_TEXTS_OF.values()) | ({"token_texts"} if "text" in fields else set())
        names = [name for name in fields if name not in hidden]
        rows = [[self._cell(name, getattr(record, name), record) for name in names] for record in records[:_ROWS]]
        more = f"\n{len(records) - _ROWS} more are in the evidence." if len(records) > _ROWS else ""
        return table([name.replace("_", " ") for name in names], rows) + more

    def _cell(self, name: str, value: Any, record: Record) -> str:
        """One value. Every text is quoted, our own words too: what is in them may come from data."""
        is_token = name == "text" and "token_id" in type(record).model_fields
        if is_token:
            return quoted_token(self._spelling.shown(getattr(record, "token_id")))  # noqa: B009 - of some records only
        if name in _TEXTS_OF:
            return quoted_run(self._spelling.running(getattr(record, _TEXTS_OF[name]), _NOWHERE))
        if value is None:
            return "none"
        if isinstance(value, bool):
            return "yes" if value else "no"
        if isinstance(value, int):
            return str(value) if name in _NAMES else f"{value:,}"
        if isinstance(value, float):
            return p_value(value) if name.startswith("p_") else number(value)
        if isinstance(value, str):
            return quoted(value, _CELL)
        if isinstance(value, ComponentKey):
            return name_of(value)
        return self._compound(value, record)

    def _compound(self, value: Any, record: Record) -> str:
        if isinstance(value, Record):
            if _is_estimate(value):
                return estimate(value)
            names = [name for name in type(value).model_fields if name != "token_id"]
            return " ".join(self._cell(name, getattr(value, name), value) for name in names)
        if isinstance(value, dict):
            shown = [f"{key}: {self._cell('', item, record)}" for key, item in list(value.items())[:_LISTED]]
        else:
            shown = [self._cell("", item, record) for item in value[:_LISTED]]
        more = f" and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return (", ".join(shown) or "none") + more


def _is_estimate(value: Record) -> TypeGuard[Estimate]:
    from spd_tools.experiments.records import Estimate

    return isinstance(value, Estimate)
