"""Tools that run the model to learn what a component responds to; results become evidence.

Parameters are those of the experiments' requests, which tests/mcp compares. In minimal_context, which is three
experiments, what is not given is left to the request's own default.
"""

from __future__ import annotations

from typing import Annotated, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server.experimenter import Experimenter
from mcp_server.guides import context_description, description
from mcp_server.parameters import (
    Author,
    Base,
    HarvestId,
    Key,
    Response,
    Run,
    Seed,
    Text,
    Token,
    TokenOrId,
)
from mcp_server.pictures import Answer, Plot
from mcp_server.tools import EXPERIMENTS, tool


class InputExperiments:
    """What does it respond to?"""

    def __init__(self, experimenter: Experimenter) -> None:
        self._experimenter = experimenter

    def tools(self) -> list[Tool]:
        """All of them."""
        return [
            tool(self.probe, "Activations on typed texts", EXPERIMENTS, description("probe")),
            tool(self.sweep, "Substitution sweep: is a token the cause?", EXPERIMENTS, description("sweep")),
            tool(self.minimal_context, "Which context does it need?", EXPERIMENTS, context_description()),
            tool(self.interact, "Do two tokens need or block each other?", EXPERIMENTS, description("interact")),
        ]

    async def probe(
        self,
        context: Context,
        key: Key,
        texts: Annotated[
            list[Text], Field(min_length=1, max_length=256, description="texts, or rows of the harvest: row:12")
        ],
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Run texts."""
        return await self._experimenter.run(context, "probe", key, {"texts": texts}, author, run, harvest)

    async def sweep(
        self,
        context: Context,
        key: Key,
        tokens: Annotated[
            list[TokenOrId],
            Field(min_length=1, max_length=100, description='candidates: texts of one token (" the"), or ids'),
        ],
        offset: Annotated[
            int, Field(le=0, ge=-1024, description="which token is replaced: 0 the measured one, -1 the one before")
        ] = 0,
        base: Annotated[
            Base, Field(description="contexts: any positions of the harvest, where it fired, or where it did not")
        ] = "random",
        on: Annotated[
            TokenOrId | None, Field(description="only positions of this token (before it is replaced)")
        ] = None,
        n_contexts: Annotated[int, Field(ge=2, le=512, description="positions of the harvest")] = 16,
        n_controls: Annotated[
            int,
            Field(
                ge=1,
                le=999,
                description="tokens of like frequency that candidates are ranked among; at least 19, and 20 per "
                "candidate for each to be tested by itself",
            ),
        ] = 99,
        response: Response = "ranking",
        plot: Plot = False,
        seed: Seed = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> Answer:
        """Put tokens into contexts."""
        fields = {
            "tokens": tokens,
            "offset": offset,
            "base": base,
            "on": on,
            "n_contexts": n_contexts,
            "n_controls": n_controls,
            "response": response,
            "seed": seed,
        }
        return await self._experimenter.run(context, "sweep", key, fields, author, run, harvest, plot=plot)

    async def minimal_context(
        self,
        context: Context,
        key: Key,
        mode: Annotated[
            Literal["minimal", "occlusion", "position", "distance"], Field(description="which question; see above")
        ] = "minimal",
        places: Annotated[
            list[Text] | None,
            Field(max_length=64, description="minimal: texts with «» around the firing token, or row:ROW:POSITION"),
        ] = None,
        share: Annotated[
            float | None, Field(gt=0, le=1, description="minimal: part of the response to keep (default 0.8)")
        ] = None,
        max_length: Annotated[
            int | None, Field(ge=1, le=256, description="minimal: longest context tried (default 16)")
        ] = None,
        at: Annotated[
            Base | None,
            Field(description="others: positions where it fired, where it did not (finds blockers), or any"),
        ] = None,
        on: Annotated[
            list[TokenOrId] | None,
            Field(max_length=100, description="others: only positions of these tokens; occlusion at silent needs them"),
        ] = None,
        window: Annotated[
            int | None, Field(ge=1, le=256, description="occlusion: offsets 0 to 1 - window (default 8)")
        ] = None,
        length: Annotated[
            int | None, Field(ge=1, le=256, description="position: tokens moved together (default 4)")
        ] = None,
        n_positions: Annotated[
            int | None, Field(ge=2, le=64, description="position: places tried (default 12)")
        ] = None,
        cue: Annotated[TokenOrId | None, Field(description="distance: the token that is moved")] = None,
        max_distance: Annotated[
            int | None, Field(ge=1, le=64, description="distance: the farthest tried (default 6)")
        ] = None,
        n_controls: Annotated[
            int | None,
            Field(
                ge=1,
                le=499,
                description="distance: tokens of like frequency that the cue is ranked among, at least 19 (default 39)",
            ),
        ] = None,
        n_contexts: Annotated[int | None, Field(ge=2, le=512, description="positions of the harvest")] = None,
        n_draws: Annotated[
            int | None, Field(ge=1, le=64, description="random fillings of what is replaced, averaged over")
        ] = None,
        response: Response = "ranking",
        plot: Plot = False,
        seed: Seed = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> Answer:
        """Replace what stands before a firing; an experiment per mode."""
        asked = {
            "places": places,
            "share": share,
            "max_length": max_length,
            "at": at,
            "on": on,
            "window": window,
            "length": length,
            "n_positions": n_positions,
            "cue": cue,
            "max_distance": max_distance,
            "n_controls": n_controls,
            "n_contexts": n_contexts,
            "n_draws": n_draws,
        }
        fields = {name: value for name, value in asked.items() if value is not None}
        fields |= {"response": response, "seed": seed}
        experiment = {"minimal": "minimal_context", "occlusion": "occlusion"}.get(mode, "position")
        if experiment == "position":
            fields["mode"] = "absolute" if mode == "position" else "distance"
        return await self._experimenter.run(context, experiment, key, fields, author, run, harvest, plot=plot)

    async def interact(
        self,
        context: Context,
        key: Key,
        first_tokens: Annotated[
            list[Token], Field(min_length=1, max_length=8, description="tokens i, each the text of a single token")
        ],
        second_tokens: Annotated[
            list[Token], Field(min_length=1, max_length=8, description="tokens j, each the text of a single token")
        ],
        first_offset: Annotated[
            int, Field(ge=-1024, le=0, description="where i is put, from the measured position")
        ] = -1,
        second_offset: Annotated[
            int, Field(ge=-1024, le=0, description="where j is put, from the measured position")
        ] = 0,
        base: Annotated[
            Literal["random", "firing", "silent", "mid"],
            Field(description="contexts; mid: where it fires with 25 to 75 % of its maximum, with room up and down"),
        ] = "random",
        n_contexts: Annotated[int, Field(ge=2, le=256, description="contexts")] = 16,
        n_controls: Annotated[
            int,
            Field(
                ge=1,
                le=499,
                description="tokens of like frequency in the place of each token; at least 19, and 20 per pair for "
                "each to be tested by itself",
            ),
        ] = 39,
        response: Response = "ranking",
        plot: Plot = False,
        seed: Seed = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> Answer:
        """Put pairs of tokens into contexts."""
        fields = {
            "first_tokens": first_tokens,
            "second_tokens": second_tokens,
            "first_offset": first_offset,
            "second_offset": second_offset,
            "base": base,
            "n_contexts": n_contexts,
            "n_controls": n_controls,
            "response": response,
            "seed": seed,
        }
        return await self._experimenter.run(context, "interact", key, fields, author, run, harvest, plot=plot)
