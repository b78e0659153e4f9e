"""Sweeps for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.text import Text

from spd_tools.render.numbers import number
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, plain_table, titled
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.launch.sweep import SweepRow, SweepTable
    from spd_tools.training.sweep import SweepPoint

_METRICS = ("loss/total", "kl/ci", "kl/stochastic", "kl/rounded", "l0/total", "alive/total", "recovery/recovered/")


def plan_table(points: Sequence[SweepPoint]) -> RenderableType:
    """A line per point that would be trained."""
    varying = [dict(point.varies) for point in points]
    fields, several = _fields(varying), len({point.name for point in points}) > 1
    table = plain_table(["point", *(["of"] if several else []), *fields.values()])
    for place, (point, varies) in enumerate(zip(points, varying, strict=True)):
        cells = [str(place), *([point.name] if several else [])]
        add_cells(table, *cells, *(_value(varies, label) for label in fields))
    return Group(table, Text(), Text(plural(len(points), "point"), "dim"))


def sweep_page(sweep: SweepTable) -> RenderableType:
    """A line per point: what varies, how far it is, and what came of it."""
    rows = sweep.rows
    fields, several = _fields([row.varies for row in rows]), len({row.name for row in rows}) > 1
    metrics = _metrics(rows)
    runs, reasons = any(row.run for row in rows), any(row.why for row in rows)
    table = plain_table(
        ["point", *(["of"] if several else []), *fields.values(), "state"],
        right=["steps", *metrics],
    )
    for name, shown in (("run", runs), ("why", reasons)):
        if shown:
            table.add_column(Text(name), no_wrap=name == "run", overflow="fold")
    for row in rows:
        cells = [str(row.point), *([row.name] if several else [])]
        cells += [_value(row.varies, label) for label in fields]
        cells += [row.status, _steps(row)]
        cells += [number(row.metrics.get(name)) if row.run else "" for name in metrics]
        cells += [Path(row.run).name if row.run else ""] if runs else []
        cells += [row.why or ""] if reasons else []
        add_cells(table, *cells)
    caption = "" if sweep.error is None else f"{sweep.error} `spd-tools jobs retry {sweep.id}` goes on."
    return Group(titled(sweep.id, table), *([Text(), Text(visible(caption), "dim")] if caption else []))


def _fields(varying: Iterable[dict[str, Any]]) -> dict[str, str]:
    """Place of every field that varies -> the end of it that tells it from the others."""
    labels = list(dict.fromkeys(label for point in varying for label in point))
    return {label: _short(label, labels) for label in labels}


def _short(label: str, labels: Sequence[str]) -> str:
    parts = label.split(".")
    for n in range(1, len(parts)):
        end = parts[-n:]
        if sum(other.split(".")[-n:] == end for other in labels) == 1:
            return ".".join(end)
    return label


def _value(varies: dict[str, Any], label: str) -> str:
    if label not in varies:
        return ""
    value = varies[label]
    return value if isinstance(value, str) else json.dumps(value)


def _steps(row: SweepRow) -> str:
    if row.done is None:
        return ""
    return f"{row.done:,}" if row.total is None else f"{row.done:,} of {row.total:,}"


def _metrics(rows: Sequence[SweepRow]) -> list[str]:
    known = dict.fromkeys(name for row in rows for name in row.metrics)
    return [name for wanted in _METRICS for name in known if name.startswith(wanted)]
