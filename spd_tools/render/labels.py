"""Labels, hypotheses, evidence, the queue and the research log for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spd_tools.render.numbers import count, number, p_value, percent
from spd_tools.render.safe import visible
from spd_tools.render.tables import add_cells, facts_table, one_line, plain_table, titled

if TYPE_CHECKING:
    from spd_tools.annotations import (
        Dispute,
        EvidenceSummary,
        Hypothesis,
        LabelRecord,
        Lease,
        LogEntry,
        QueueItem,
    )
    from spd_tools.annotations.records import MainNumber
    from spd_tools.store.harvest import Harvest

_STYLES = {"supported": "green", "draft": "yellow", "rejected": "red", "open": "yellow"}


def label_line(label: LabelRecord) -> Text:
    """A label on one line: what a page about its component begins with."""
    view = label.input_view.strip().split("\n")[0]
    return Text.assemble(
        "label  ", (visible(view), "bold"), "  ", _status(label.status), no_wrap=True, overflow="ellipsis"
    )


def label_page(label: LabelRecord) -> RenderableType:
    """One version of a label in full, with what it lacks."""
    head = Text.assemble(
        (visible(str(label.key)), "bold reverse"), f"  version {label.version}, ", _status(label.status)
    )
    confidence = "" if label.confidence is None else f", confidence {number(label.confidence)}"
    head.append(visible(f"{confidence}  by {label.author}, {_time(label.created)}"), "dim")
    effect = "" if label.output_effect == "unknown" else f" ({label.output_effect})"
    facts = {
        "fires": label.input_view,
        "effect": f"{label.output_view}{effect}".strip(),
        "category": label.category,
        "notes": label.notes,
        "ruled out": "\n".join(label.ruled_out),
        "evidence": ", ".join(label.evidence),
    }
    shown = {name: _paragraphs(fact) for name, fact in facts.items() if fact}
    parts: list[RenderableType] = [head, facts_table(shown)]
    if label.missing:
        wanted = "It stays a draft" if label.wants == "supported" else "To be supported it needs more"
        parts.append(Text(f"{wanted}:", "yellow"))
        parts += [_indented(_paragraphs(f"- {sentence}")) for sentence in label.missing]
    return Group(*parts, Text())


def labels_table(labels: Sequence[LabelRecord]) -> Table:
    """One line per component."""
    table = plain_table(["component", "status", "category"], right=["confidence"])
    table.add_column(Text("fires"))
    for label in labels:
        cells = [str(label.key), _status(label.status), label.category, number(label.confidence)]
        add_cells(table, *cells, one_line(label.input_view))
    return table


def labelled_page(harvest: Harvest, labels: Sequence[LabelRecord]) -> RenderableType:
    """Components found by their labels."""
    if not labels:
        return Text("No component matches.")
    table = plain_table(["component"], right=["firings", "density"])
    table.add_column(Text("label"), no_wrap=True)
    table.add_column(Text("fires"))
    for label in labels:
        component = harvest.component(label.key)
        cells = [str(label.key), count(component.firing_count), percent(component.density), _status(label.status)]
        add_cells(table, *cells, one_line(label.input_view))
    return table


def disputes_table(disputes: Sequence[Dispute]) -> Table:
    """One line per component."""
    table = plain_table(["component"])
    table.add_column(Text("why"), overflow="fold")
    for dispute in disputes:
        add_cells(table, str(dispute.key), dispute.why)
    return table


def queue_table(items: Sequence[QueueItem]) -> Table:
    """One line per component, with who works on it."""
    table = plain_table(["component"], right=["priority", "density", "KL when removed"])
    for name in ("label", "held by"):
        table.add_column(Text(name), no_wrap=True, overflow="ellipsis")
    table.add_column(Text("why"))
    for item in items:
        held = "" if item.lease is None else f"{item.lease.author} until {_time(item.lease.expires)}"
        status = Text("none", "dim") if item.status is None else _status(item.status)
        cells = [str(item.key), number(item.priority), percent(item.density), number(item.effect), status, held]
        add_cells(table, *cells, one_line(item.why))
    return table


def leases_table(leases: Sequence[Lease]) -> Table:
    """One line per component that somebody works on."""
    table = plain_table(["component", "held by", "until (UTC)"])
    for lease in leases:
        add_cells(table, str(lease.key), lease.author, _time(lease.expires))
    return table


def evidence_page(
    evidence: Sequence[EvidenceSummary], corrected: Mapping[str, float], harvest_id: str
) -> RenderableType:
    """One line per result, whose experiment is in its id.

    Args:
        evidence: results, newest first.
        corrected: id -> p-value corrected for all results about the component.
        harvest_id: of the harvest that is looked at; results of others say which.
    """
    keys = {result.key for result in evidence}
    mixed = any(result.harvest_id != harvest_id for result in evidence)
    names = ["id", *(["component"] if len(keys) > 1 else []), *(["harvest"] if mixed else [])]
    table = plain_table(names, right=["effect", "control", "apart", "p", "corrected"])
    table.add_column(Text("by"), no_wrap=True, overflow="ellipsis")
    for result in evidence:
        cells = {"id": result.id, "component": str(result.key), "harvest": result.harvest_id}
        apart = {None: number(None), True: "yes", False: "no"}[result.excludes_control]
        p_values = p_value(result.p_value), p_value(corrected.get(result.id))
        add_cells(
            table,
            *(cells[name] for name in names),
            _short(result.effect),
            _short(result.control),
            apart,
            *p_values,
            result.author,
        )
    legend = (
        "effect and control: with their 95 % intervals; apart: these exclude each other; corrected: p for all results "
        "about the same component (Holm), on any harvest"
    )
    about = f" about {keys.pop()}" if len(keys) == 1 else ""
    return titled(f"Evidence{about}, newest first", table, legend)


def _short(found: MainNumber | None) -> str:
    if found is None or found.low is None or found.high is None:
        return number(None if found is None else found.value)
    return f"{number(found.value)} [{number(found.low)}, {number(found.high)}]"


def hypotheses_page(hypotheses: Sequence[Hypothesis]) -> RenderableType:
    """Each with its status, confidence, evidence and the last note."""
    return Group(*(part for hypothesis in hypotheses for part in _hypothesis(hypothesis)))


def _hypothesis(hypothesis: Hypothesis) -> Iterator[RenderableType]:
    head = Text.assemble(
        (visible(hypothesis.id), "bold"),
        visible(f"  {hypothesis.key}  "),
        _status(hypothesis.status),
        f", confidence {number(hypothesis.confidence)}",
    )
    head.append(visible(f"  version {hypothesis.version} by {hypothesis.author}, {_time(hypothesis.created)}"), "dim")
    yield head
    yield _indented(_paragraphs(hypothesis.text))
    if hypothesis.note is not None:
        yield _indented(_paragraphs(f"note: {hypothesis.note}"))
    if hypothesis.evidence:
        yield _indented(Text(visible(f"evidence: {', '.join(hypothesis.evidence)}"), "dim"))


def log_page(entries: Sequence[LogEntry]) -> RenderableType:
    """Entries in their order, each below its time, author and component."""
    parts: list[RenderableType] = []
    for entry in entries:
        about = "" if entry.key is None else f"  {entry.key}"
        parts.append(Text(visible(f"{_time(entry.created)}  {entry.author}{about}"), "dim"))
        parts.append(_indented(_paragraphs(entry.text)))
    return Group(*parts)


def _paragraphs(text: str) -> Text:
    """A text that somebody wrote, in its own lines."""
    return Text("\n".join(map(visible, text.split("\n"))), overflow="fold")


def _indented(body: RenderableType) -> Padding:
    return Padding(body, (0, 0, 0, 2), expand=False)


def _status(status: str) -> Text:
    return Text(status, _STYLES[status])


def _time(created: str) -> str:
    """To the minute, of ISO 8601."""
    return created[:16].replace("T", " ")
