"""Tools that read and write what is on record: hypotheses, labels, the research log."""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server import notes_pages
from mcp_server.answers import QUOTED, capped
from mcp_server.parameters import (
    MAX_NAME,
    MAX_TEXT,
    Author,
    EvidenceIds,
    HarvestId,
    IdempotencyKey,
    Limit,
    OptionalText,
    Run,
    author_of,
)
from mcp_server.runs import Runs
from mcp_server.tools import WRITES, tool
from spd_tools.errors import SpdToolsError

OptionalKey = Annotated[OptionalText, Field(max_length=MAX_NAME, description="component, e.g. h.0.mlp.c_fc:12")]
Confidence = Annotated[
    float | None, Field(ge=0, le=1, description="that it is true, from 0 to 1; what you would bet on it")
]
_FEWER = "Ask for fewer with limit, or for one component with key."


class Notes:
    """The record of a run. Writes only ever add: every version is kept."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def tools(self) -> list[Tool]:
        """All of them."""
        return [
            tool(self.hypothesis, "Hypotheses about a component", WRITES),
            tool(self.label, "Labels of components", WRITES),
            tool(self.research_log, "Research log", WRITES),
        ]

    def hypothesis(
        self,
        action: Literal["add", "update", "list"],
        key: OptionalKey = "",
        text: Annotated[OptionalText, Field(description="add: what the component responds to or does")] = "",
        confidence: Confidence = None,
        hypothesis_id: Annotated[
            OptionalText, Field(max_length=MAX_NAME, description="update: which one (h-...)")
        ] = "",
        status: Annotated[
            Literal["", "open", "supported", "rejected"], Field(description="update: its new status; list: only those")
        ] = "",
        note: Annotated[OptionalText, Field(description="update: why it changes")] = "",
        evidence: EvidenceIds = [],  # noqa: B006 - pydantic copies it
        limit: Limit = 50,
        author: Author = "",
        idempotency_key: IdempotencyKey = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Write down, revise and list hypotheses about components.

        Before the first experiment, add at least two hypotheses that predict different outcomes (say: a token sets it
        off; the token before gates it; position). After each experiment, update: confidence, status supported (with
        evidence ids) or rejected (with evidence ids or a note). `add` needs key, text and confidence; `update` needs
        hypothesis_id and what changes; `list` takes key and status. Nothing is overwritten: each update is a new
        version.
        """
        notes = notes_pages.notes_of(self._runs.harvest(run, harvest))
        by = {"author": author_of(author), "idempotency_key": idempotency_key or None}
        if action == "list":
            found = notes.hypotheses(key=key or None, status=status or None)
            more = f"\n[{len(found) - limit} more; ask with key or a larger limit.]" if len(found) > limit else ""
            return capped(notes_pages.hypotheses_page(found[:limit]) + more, _FEWER)
        if action == "add":
            if not key or not text or confidence is None:
                raise SpdToolsError("A hypothesis needs key, text and confidence; give all three.")
            made = notes.add_hypothesis(key, text, confidence=confidence, **by)
        else:
            if not hypothesis_id:
                raise SpdToolsError("Which hypothesis changes is missing; give its hypothesis_id, as list shows it.")
            made = notes.update_hypothesis(
                hypothesis_id,
                status=status or None,
                confidence=confidence,
                note=note or None,
                evidence=evidence,
                **by,
            )
        return f"Stored. {QUOTED}\n{notes_pages.hypothesis_line(made)}"

    def label(
        self,
        action: Literal["show", "set", "history", "queue", "claim", "release", "search"],
        key: OptionalKey = "",
        input_view: Annotated[OptionalText, Field(description="set: when it fires")] = "",
        output_view: Annotated[OptionalText, Field(description="set: what it does to the predictions")] = "",
        output_effect: Annotated[
            Literal["raises", "lowers", "mixed", "none", "unknown"],
            Field(description="set: what it does to the logits of the tokens in the output view"),
        ] = "unknown",
        category: Annotated[OptionalText, Field(max_length=200, description="set: kind of component, in a word")] = "",
        confidence: Confidence = None,
        notes: Annotated[OptionalText, Field(description="set: what is worth remembering")] = "",
        ruled_out: Annotated[
            list[Annotated[str, Field(max_length=MAX_TEXT)]],
            Field(max_length=100, description="set: what else it might have been, and is not"),
        ] = [],  # noqa: B006 - pydantic copies it
        evidence: EvidenceIds = [],  # noqa: B006
        wants: Annotated[
            Literal["draft", "supported", "rejected"], Field(description="set: the status that it should get")
        ] = "draft",
        query: Annotated[OptionalText, Field(max_length=MAX_NAME, description="search: words of labels")] = "",
        limit: Limit = 20,
        lease_seconds: Annotated[int, Field(ge=60, le=86_400, description="claim: for how long")] = 1800,
        author: Author = "",
        idempotency_key: IdempotencyKey = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Show, write and search labels; find and claim components that need one.

        `set` stores a new version (earlier ones are kept). Ask for wants=supported only with evidence ids of (a) an
        intervention (sweep, interact, ablate, position; occlusion only at silent positions) whose interval excludes its
        control's with p <= 0.05 after correction for everything that was ever tried on this component, and (b) a
        generate_and_test of this very input view on at least 10 + 10 fresh texts, half of the negatives near misses,
        lower end above 0.6; output_effect raises or lowers also needs ablate with those tokens, corrected likewise
        (lowers: n >= 20). Otherwise the label stays a draft and the answer says what is missing. A good input view
        predicts new texts ("a digit two tokens after a currency sign"), a bad one fits anything ("text-related").
        Evidence of another component is refused.
        `queue` lists components worth labelling; `claim` takes the `limit` most urgent of them for yourself, so that
        agents working at once do not collide; `release` gives one back. `history` shows all versions.
        """
        opened = self._runs.harvest(run, harvest)
        record = notes_pages.notes_of(opened)
        by = author_of(author)
        if action == "queue":
            return capped(notes_pages.queue_page(record.queue(opened, limit=limit)), _FEWER)
        if action == "claim":
            once = idempotency_key or None
            leases = record.claim(opened, author=by, n=limit, lease_seconds=lease_seconds, idempotency_key=once)
            return capped(notes_pages.leases_page(leases), _FEWER)
        if action == "search":
            return capped(notes_pages.label_rows(opened, query, limit, 0), _FEWER)
        if not key:
            raise SpdToolsError(f"The action {action} is about one component; name it in key.")
        if action == "release":
            record.release(key, author=by)
            return "Released."
        if action == "history":
            versions = record.label_history(key)
            page = "\n\n".join(notes_pages.label_page(version) for version in versions)
            return capped(f"{QUOTED}\n{page}" if versions else "It has no label yet.", "Newest versions: action show.")
        if action == "show":
            shown = record.label(key)
            found = record.list_evidence(key=key, limit=limit)
            evidence_page = notes_pages.evidence_lines(found, record.corrected_p_values(key), opened.harvest_id)
            page = "It has no label yet." if shown is None else notes_pages.label_page(shown)
            return capped(f"{QUOTED}\n{page}\n\nEvidence:\n{evidence_page}", _FEWER)
        from spd_tools.annotations import LabelDraft

        draft = LabelDraft.of(
            {
                "input_view": input_view,
                "output_view": output_view,
                "output_effect": output_effect,
                "category": category,
                "confidence": confidence,
                "notes": notes,
                "ruled_out": ruled_out,
                "evidence": evidence,
                "wants": wants,
            }
        )
        decision = record.set_label(key, draft, author=by, idempotency_key=idempotency_key or None)
        return capped(notes_pages.decision_page(decision), "Shorter views and notes are read more.")

    def research_log(
        self,
        action: Literal["read", "write"],
        text: Annotated[OptionalText, Field(description="write: what was done, found or decided")] = "",
        key: OptionalKey = "",
        limit: Limit = 20,
        author: Author = "",
        idempotency_key: IdempotencyKey = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Read or write the research log of a run: what was done, found, decided, and why.

        Write a line whenever you decide something that the evidence does not say by itself: why an experiment was
        chosen, what surprised you, why you stopped. With `key` it is about that component, without about the run. Read
        it before you start: others may have been here. Entries are kept for ever.
        """
        notes = notes_pages.notes_of(self._runs.harvest(run, harvest))
        if action == "read":
            return capped(notes_pages.log_page(notes.research_log(key=key or None, limit=limit)), _FEWER)
        if not text.strip():
            raise SpdToolsError("There is nothing to write; say in text what was done or found.")
        entry = notes.add_log(text, key=key or None, author=author_of(author), idempotency_key=idempotency_key or None)
        return f"Stored. {notes_pages.log_page([entry])}"
