"""Results of experiments: a head that says what kind of answer it is, the numbers, and the summary."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from spd_tools.render.numbers import interval, number, p_value
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, plain_table
from spd_tools.wording import roughly

if TYPE_CHECKING:
    from spd_tools.experiments import Replay, Result
    from spd_tools.store.harvest import Harvest

_KINDS = {
    "observational": "read off the harvest",
    "structural": "read off the weights",
    "counterfactual": "the model was run",
    "mixed": "read off the harvest and the weights, and the model was run",
}


def result_page(result: Result, harvest: Harvest) -> Iterator[RenderableType]:
    """One result, top to bottom; a proposal of near misses has no id and no kind, as it is no evidence."""
    from spd_tools.experiments.generate_and_test import only_proposes
    from spd_tools.experiments.unknown_words import unknown_remark
    from spd_tools.render.experiment_bodies import body

    name = f"  {result.request.experiment.replace('_', ' ')}  "
    about = f"{result.kind} ({_KINDS[result.kind]}); {result.population}; n = {result.n:,}"
    evidence_id = f"{result.id}  "
    if only_proposes(result):
        evidence_id, about = "", f"{result.population}; nothing is stored"
    yield Text.assemble(
        (visible(str(result.request.key)), "bold reverse"),
        name,
        (evidence_id, "bold"),
        (visible(f"{result.subject.run_id}, harvest {result.subject.harvest_id}"), "dim"),
    )
    yield Text(visible(about), "dim")
    yield Text()
    yield Text(visible(result.summary))
    remark = unknown_remark(result.request, harvest.token_texts)
    if remark is not None:
        yield Text(visible(remark), "yellow")
    if result.effect is not None or result.control is not None:
        yield Text()
        yield estimates(result)
    yield Text()
    yield from body(result, harvest)


def estimates(result: Result) -> RenderableType:
    """Effect and control with their intervals, and what they say together."""
    table = plain_table([""], right=["value", "95 % interval", "n"])
    for name, estimate in (("effect", result.effect), ("control", result.control)):
        if estimate is not None:
            add_cells(table, name, number(estimate.value), interval(estimate), f"{estimate.n:,}")
    said = []
    if result.excludes_control is not None:
        said.append("the intervals are apart" if result.excludes_control else "the intervals overlap")
    if result.p_value is not None:
        said.append(f"p = {p_value(result.p_value)}")
    if result.matching is not None:
        said.append(f"controls {roughly(result.matching.low)} to {roughly(result.matching.high)} times as frequent")
    return Group(table, Text("; ".join(said))) if said else table


def replay_page(replay: Replay, harvest: Harvest) -> Iterator[RenderableType]:
    """Whether a result came out again, and the new one."""
    where = "the same device and versions" if replay.same_machine else "another device or other versions"
    how = "equal to the bit" if replay.identical else f"largest difference {number(replay.largest_difference)}"
    verdict = Text("holds", "bold green") if replay.holds else Text("does not hold", "bold red")
    yield Text.assemble((visible(replay.id), "bold"), " done again on ", where, f": {how}; it ", verdict, "\n")
    yield from result_page(replay.result, harvest)
