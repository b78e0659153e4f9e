"""What people and models have written about components, as compact text for a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from mcp_server.answers import QUOTED, inert, quoted, table
from mcp_server.look_pages import name_of
from spd_tools.render.numbers import number, p_value, percent
from spd_tools.store.harvest import Harvest
from spd_tools.wording import by_number, plural

if TYPE_CHECKING:
    from spd_tools.annotations import Annotations
    from spd_tools.annotations.records import (
        EvidenceSummary,
        Hypothesis,
        LabelDecision,
        LabelRecord,
        Lease,
        LogEntry,
        MainNumber,
        QueueItem,
    )
    from spd_tools.experiments.records import Estimate

_VIEW = 600
_NOTES = 2_000
_LISTED = 20


def notes_of(harvest: Harvest) -> Annotations:
    """What is on record about the harvest's run.

    Raises:
        SpdToolsError: when the record is about another decomposition.
    """
    from spd_tools.annotations import Annotations

    return Annotations.of(harvest)


def known_about(harvest: Harvest, key: str) -> str:
    """One paragraph: label, hypotheses and evidence of a component."""
    notes = notes_of(harvest)
    label = notes.label(key)
    hypotheses = notes.hypotheses(key=key)
    evidence = notes.list_evidence(key=key, limit=_LISTED)
    lines = ["On record: no label." if label is None else f"On record: {_label_line(label)}"]
    if hypotheses:
        lines.append(
            f"{len(hypotheses)} {by_number(len(hypotheses), 'hypothesis', 'hypotheses')} (hypothesis, action list)."
        )
    if evidence:
        shown = ", ".join(inert(item.id, 80) + _elsewhere(item, harvest.harvest_id) for item in evidence)
        lines.append(f"Evidence, newest first: {shown}.")
    return " ".join(lines)


def _label_line(label: LabelRecord) -> str:
    output = f"; output {label.output_effect}: {quoted(label.output_view, _VIEW)}" if label.output_view else ""
    return f"label {label.status} (version {label.version}): {quoted(label.input_view, _VIEW)}{output}."


def label_page(label: LabelRecord) -> str:
    """One version of a label, all of it."""
    confidence = "not stated" if label.confidence is None else f"{label.confidence:.2f}"
    lines = [
        f"{name_of(label.key)}: label {label.status}, version {label.version}, by {quoted(label.author, 80)}, "
        f"{label.created}, confidence {confidence}",
        f"- input view: {quoted(label.input_view, _NOTES)}",
        f"- output view ({label.output_effect}): {quoted(label.output_view, _NOTES)}",
        f"- category: {quoted(label.category, 120)}",
        f"- notes: {quoted(label.notes, _NOTES)}",
        "- ruled out: " + ("; ".join(quoted(text, _VIEW) for text in label.ruled_out) or "nothing"),
        "- evidence: " + (", ".join(inert(evidence, 80) for evidence in label.evidence) or "none"),
    ]
    if label.missing:
        lines.append("- missing for supported: " + " ".join(inert(text, _VIEW) for text in label.missing))
    return "\n".join(lines)


def decision_page(decision: LabelDecision) -> str:
    """What became of a label that was handed in."""
    label = decision.label
    if label.status == "supported":
        head = "Stored, and supported by its evidence."
    elif decision.missing:
        head = "Stored as a draft: it is not supported yet. Do what is missing, then set the label again."
    else:
        head = f"Stored as {label.status}."
    return f"{head} {QUOTED}\n{label_page(label)}"


def label_rows(harvest: Harvest, query: str, limit: int, offset: int) -> str:
    """Components whose labels match a query."""
    found = notes_of(harvest).search_labels(query, limit=limit + offset)[offset:]
    if not found:
        return f"No label matches {quoted(query, 200)} from offset {offset} on. QUEUE: label with action queue."
    match = by_number(len(found), "matches", "match")
    return f"{plural(len(found), 'label')} {match} {quoted(query, 200)}. {QUOTED}\n" + "\n".join(
        f"- {name_of(label.key)}: {_label_line(label)}" for label in found
    )


def hypotheses_page(hypotheses: Sequence[Hypothesis]) -> str:
    """Hypotheses with their status."""
    if not hypotheses:
        return "No hypothesis is on record; write at least two down with action add before testing."
    return QUOTED + "\n" + "\n".join(map(hypothesis_line, hypotheses))


def hypothesis_line(found: Hypothesis) -> str:
    """One hypothesis."""
    note = f"; note {quoted(found.note, _VIEW)}" if found.note else ""
    evidence = f"; evidence {', '.join(inert(e, 80) for e in found.evidence)}" if found.evidence else ""
    return (
        f"- {found.id} ({name_of(found.key)}, {found.status}, confidence {found.confidence:.2f}, version "
        f"{found.version}, by {quoted(found.author, 80)}): {quoted(found.text, _NOTES)}{note}{evidence}"
    )


def log_page(entries: Iterable[LogEntry]) -> str:
    """The research log."""
    lines = [
        f"- {entry.created} {quoted(entry.author, 80)}{'' if entry.key is None else f' on {name_of(entry.key)}'}: "
        f"{quoted(entry.text, _NOTES)}"
        for entry in entries
    ]
    return QUOTED + "\n" + "\n".join(lines) if lines else "The research log is empty."


def queue_page(items: Sequence[QueueItem]) -> str:
    """Components worth labelling, the most urgent first."""
    if not items:
        return "Nothing waits for a label."
    names = ["component", "priority", "density", "effect (KL)", "label", "why", "leased"]
    rows = [
        [
            name_of(item.key),
            f"{item.priority:.3f}",
            percent(item.density),
            number(item.effect),
            (item.status or "none") + (", disputed" if item.disputed else ""),
            inert(item.why, 200),
            "" if item.lease is None else f"{quoted(item.lease.author, 40)} until {item.lease.expires}",
        ]
        for item in items
    ]
    return table(names, rows)


def leases_page(leases: Sequence[Lease]) -> str:
    """What an author has claimed."""
    if not leases:
        return "There is nothing left to claim: every component worth a label is labelled or leased."
    lines = [f"- {name_of(lease.key)} until {lease.expires}" for lease in leases]
    return "Claimed; call label with action release, or set its label, before the lease ends:\n" + "\n".join(lines)


def estimate(found: Estimate | MainNumber | None) -> str:
    """A number with its interval."""
    if found is None:
        return "none"
    interval = "" if found.low is None else f" (95 % interval {number(found.low)} to {number(found.high)})"
    return f"{number(found.value)}{interval}, n = {found.n:,}"


def evidence_lines(found: Sequence[EvidenceSummary], corrected: Mapping[str, float], harvest_id: str) -> str:
    """Evidence without its details.

    Args:
        found: results about one component.
        corrected: id -> p-value corrected for all results about it.
        harvest_id: of the harvest that is looked at; results of others say so.
    """
    if not found:
        return "There is no evidence."
    return "\n".join(
        f"- {inert(item.id, 80)}{_elsewhere(item, harvest_id)} ({item.kind}, n = {item.n:,}, {item.created}, by "
        f"{quoted(item.author, 80)}): effect {estimate(item.effect)}; control {estimate(item.control)}; outside the "
        f"control's interval: {_yes_no(item.excludes_control)}; p = {p_value(item.p_value)}, corrected for all results "
        f"about the component {p_value(corrected.get(item.id))}; {quoted(item.summary, _VIEW)}"
        for item in found
    )


def _elsewhere(item: EvidenceSummary, harvest_id: str) -> str:
    return "" if item.harvest_id == harvest_id else f" (on harvest {inert(item.harvest_id, 80)})"


def _yes_no(value: bool | None) -> str:
    return "not applicable" if value is None else "yes" if value else "no"
