"""Resources: what a client can attach to a conversation without calling a tool."""

from __future__ import annotations

import json

from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceError

from mcp_server import look_pages, notes_pages
from mcp_server.answers import MAX_CHARACTERS, QUOTED, capped, expected_failures, quoted
from mcp_server.overviews import overview_answer
from mcp_server.runs import Runs

_LOG_ENTRIES = 100


class Resources:
    """Pages under spd://."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def add_to(self, server: MCPServer) -> None:
        """Offer all of them."""
        server.resource(
            "spd://runs",
            name="runs",
            title="Harvested runs",
            description="What has been harvested: runs, harvests, layers.",
            mime_type="text/markdown",
        )(self.runs)
        server.resource(
            "spd://{run}/component/{key}",
            name="component",
            title="Overview of a component",
            description="One component on one page: statistics, examples, what is on record. Observational.",
            mime_type="text/markdown",
        )(self.component)
        server.resource(
            "spd://{run}/log",
            name="research-log",
            title="Research log",
            description=f"The last {_LOG_ENTRIES} entries of a run's research log.",
            mime_type="text/markdown",
        )(self.log)
        server.resource(
            "spd://{run}/evidence/{evidence_id}{?offset}",
            name="evidence",
            title="A stored result",
            description="Everything that an experiment computed, as JSON in pieces; the next piece: ?offset=N.",
            mime_type="text/plain",
        )(self.evidence)

    def runs(self) -> str:
        """Every harvest below SPD_OUT_DIR."""
        from spd_tools.settings import Settings
        from spd_tools.store.inventory import stored_harvests

        with expected_failures(ResourceError):
            page = look_pages.runs_page(stored_harvests(Settings.from_environment()))
            return capped(page, "`spd-tools runs` lists all of them.")

    def component(self, run: str, key: str) -> str:
        """The newest finished harvest's overview of a component."""
        with expected_failures(ResourceError):
            return overview_answer(self._runs.harvest(run), key)

    def log(self, run: str) -> str:
        """The newest entries."""
        with expected_failures(ResourceError):
            entries = notes_pages.notes_of(self._runs.harvest(run)).research_log(limit=_LOG_ENTRIES)
            return capped(
                notes_pages.log_page(entries), "The tool research_log reads fewer, or those on one component."
            )

    def evidence(self, run: str, evidence_id: str, offset: int = 0) -> str:
        """A piece of a result's JSON."""
        with expected_failures(ResourceError):
            result = notes_pages.notes_of(self._runs.harvest(run)).evidence(evidence_id).result
        # ASCII alone: what the pieces add up to is the result, whatever is in it. JSON lets DEL through.
        document = json.dumps(result.model_dump(mode="json"), allow_nan=False).replace("\x7f", "\\u007f")
        if not 0 <= offset <= len(document):
            raise ResourceError(f"The result has {len(document):,} characters; offset is from 0 to that.")
        room = MAX_CHARACTERS - 500
        piece = document[offset : offset + room]
        end = offset + len(piece)
        rest = f"; the next piece: spd://{look_pages.name_of(run)}/evidence/{evidence_id}?offset={end}"
        head = f"Characters {offset:,} to {end:,} of {len(document):,}{rest if end < len(document) else ''}."
        return f"{head} {QUOTED}\n{quoted(piece, room)}"
