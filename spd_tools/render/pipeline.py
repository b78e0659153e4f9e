"""What a pipeline would do, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.render.tables import add_cells, plain_table, titled

if TYPE_CHECKING:
    from spd_tools.pipeline.costs import StepCost
    from spd_tools.pipeline.start import PipelinePlan


def plan_page(plan: PipelinePlan, costs: tuple[StepCost, ...]) -> RenderableType:
    """The graph, step by step, and what it costs."""
    name = plan.harvest
    source = "a harvest that it makes" if name is None else f"harvest {name.harvest_id} of {name.run_id}"
    graph = plain_table(["step", "after"], right=["tasks", "GPUs"])
    for step in plan.graph.steps:
        add_cells(graph, step.name, ", ".join(step.after), f"{step.n_tasks:,}", f"{step.gpus * step.n_tasks:,}")
    parts: list[RenderableType] = [titled(f"Pipeline on {plan.run}, from {source}", graph)]
    if costs:
        parts += [Text(), titled("What a language model is asked", _costs_table(costs), _total(costs))]
    return Group(*parts)


def _costs_table(costs: tuple[StepCost, ...]) -> Table:
    table = plain_table(["step"], right=["calls", "input tokens", "output tokens", "expected", "at most", "budget"])
    remarks = any(cost.remark for cost in costs)
    if remarks:
        table.add_column(Text(""), overflow="fold")
    for cost in costs:
        found = cost.estimate
        cells = [""] * 5
        if found is not None:
            expected = "" if found.dollars is None else f"${found.dollars:,.4f}"
            tokens = [f"{found.n_calls:,}", f"{found.input_tokens:,}", f"{found.output_tokens_at_most:,}"]
            cells = [*tokens, expected, f"${found.dollars_at_most:,.4f}"]
        budget = "none" if cost.budget is None else f"${cost.budget:,.4g}"
        add_cells(table, cost.step, *cells, budget, *([cost.remark or ""] if remarks else []))
    return table


def _total(costs: tuple[StepCost, ...]) -> str:
    known = [cost.estimate for cost in costs if cost.estimate is not None]
    if not known:
        return ""
    how = "as the API counts them" if all(found.counted for found in known) else "a byte is taken for one without a key"
    total = sum(found.dollars_at_most for found in known)
    return f"At most ${total:,.4f} at prices of {known[0].prices_of}; input tokens: {how}."
