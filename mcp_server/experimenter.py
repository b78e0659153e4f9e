"""What all tools that experiment share: an experiment is run, in its turn, and its result shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from anyio import to_thread
from mcp.server.mcpserver import Context

from mcp_server.answers import capped
from mcp_server.experiment_pages import replay_page, result_page
from mcp_server.look_pages import name_of
from mcp_server.model import Models
from mcp_server.parameters import author_of
from mcp_server.pictures import Answer, plots_of
from mcp_server.runs import Runs

if TYPE_CHECKING:
    from spd_tools.experiments import Result
    from spd_tools.investigate import Investigation

_REST = "The evidence resource, spd://RUN/evidence/ID, has everything."


class Experimenter:
    """One experiment at a time, whoever asks."""

    def __init__(self, runs: Runs, models: Models) -> None:
        self._runs = runs
        self._models = models

    async def replay(self, context: Context, evidence_id: str, run: str, harvest: str) -> str:
        """Do a stored experiment again."""
        opened = self._runs.harvest(run, harvest)
        found = await self._models.use(
            context,
            opened,
            f"a replay of {name_of(evidence_id)}",
            lambda investigation: investigation.replay(evidence_id),
        )
        return capped(replay_page(found, opened.token_texts), _REST)

    @overload
    async def run(
        self, context: Context, name: str, key: str, fields: dict[str, Any], author: str, run: str, harvest: str
    ) -> str: ...

    @overload
    async def run(
        self,
        context: Context,
        name: str,
        key: str,
        fields: dict[str, Any],
        author: str,
        run: str,
        harvest: str,
        *,
        plot: bool,
    ) -> Answer: ...

    async def run(
        self,
        context: Context,
        name: str,
        key: str,
        fields: dict[str, Any],
        author: str,
        run: str,
        harvest: str,
        *,
        plot: bool = False,
    ) -> Answer:
        """Do an experiment and store its result as evidence; ``plot``: pictures come with it."""
        opened = self._runs.harvest(run, harvest)
        opened.keys.flat(key)  # a mistyped component is said before anybody waits

        def done(investigation: Investigation) -> tuple[Result, str | None]:
            result = investigation.run(name, {"key": key, **fields}, author=author_of(author))
            return result, investigation.remark(result)

        result, remark = await self._models.use(context, opened, f"{name} on {name_of(key)}", done)
        page = capped(result_page(result, opened.token_texts, remark), _REST)
        return [page, *await to_thread.run_sync(plots_of, result)] if plot else page
