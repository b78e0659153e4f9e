"""Tools that run the model to learn what a component does, and whether a label holds; results become evidence.

Parameters are those of the experiments' requests, which tests/mcp compares.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server.experimenter import Experimenter
from mcp_server.guides import description
from mcp_server.parameters import (
    MAX_NAME,
    MAX_TEXT,
    Author,
    Base,
    HarvestId,
    Key,
    Run,
    Seed,
    Text,
    TokenOrId,
)
from mcp_server.tools import EXPERIMENTS, tool


class OutputExperiments:
    """Is it worth anybody's time, what does it do, and does its label hold?"""

    def __init__(self, experimenter: Experimenter) -> None:
        self._experimenter = experimenter

    def tools(self) -> list[Tool]:
        """All of them."""
        return [
            tool(self.triage, "Is a component worth anybody's time?", EXPERIMENTS, description("triage")),
            tool(self.ablate, "Ablate or clamp a component", EXPERIMENTS, description("ablate")),
            tool(self.direct_effect, "Which tokens it writes", EXPERIMENTS, description("direct_effect")),
            tool(self.generate_and_test, "Test a label on fresh texts", EXPERIMENTS, description("generate_and_test")),
            tool(self.replay, "Do a stored experiment again", EXPERIMENTS),
        ]

    async def triage(
        self,
        context: Context,
        key: Key,
        n_sites: Annotated[int, Field(ge=2, le=256, description="firings, of it and of each control")] = 8,
        n_controls: Annotated[
            int, Field(ge=1, le=999, description="random components of like density, as far as there are; at least 19")
        ] = 99,
        seed: Seed = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Is it worth anybody's time?"""
        fields = {"n_sites": n_sites, "n_controls": n_controls, "seed": seed}
        return await self._experimenter.run(context, "triage", key, fields, author, run, harvest)

    async def ablate(
        self,
        context: Context,
        key: Key,
        mode: Annotated[
            Literal["remove", "alone", "clamp"],
            Field(description="remove: without it; alone: all else of its layer off; clamp: activation set to value"),
        ] = "remove",
        value: Annotated[
            float | None, Field(ge=-1e6, le=1e6, description="clamp: in units of the ranking activation")
        ] = None,
        where: Annotated[
            Literal["everywhere", "site"], Field(description="at every position of the row, or only at the site")
        ] = "everywhere",
        base: Annotated[Base, Field(description="sites: where it fired, where it did not, or any position")] = "firing",
        sign: Annotated[
            Literal["any", "positive", "negative"],
            Field(description="only firings with a ranking activation of this sign, as effects turn with it"),
        ] = "any",
        tokens: Annotated[
            list[TokenOrId],
            Field(max_length=50, description="next tokens to test, those that should move the same way; texts or ids"),
        ] = [],  # noqa: B006 - pydantic copies it
        n_sites: Annotated[
            int, Field(ge=2, le=256, description="positions of the harvest, for it and each control")
        ] = 32,
        n_controls: Annotated[
            int, Field(ge=1, le=999, description="random components of like density, as far as there are; at least 19")
        ] = 99,
        limit: Annotated[int, Field(ge=1, le=100, description="longest list of raised and of lowered tokens")] = 10,
        seed: Seed = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Remove it, keep it alone or clamp it."""
        fields: dict[str, Any] = {
            "mode": mode,
            "where": where,
            "base": base,
            "sign": sign,
            "tokens": tokens,
            "n_sites": n_sites,
            "n_controls": n_controls,
            "limit": limit,
            "seed": seed,
        }
        if value is not None:
            fields["value"] = value
        return await self._experimenter.run(context, "ablate", key, fields, author, run, harvest)

    async def direct_effect(
        self,
        context: Context,
        key: Key,
        limit: Annotated[int, Field(ge=1, le=100, description="longest list of raised and of lowered tokens")] = 10,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Its write vector through the unembedding."""
        return await self._experimenter.run(context, "direct_effect", key, {"limit": limit}, author, run, harvest)

    async def generate_and_test(
        self,
        context: Context,
        key: Key,
        label: Annotated[
            str,
            Field(
                min_length=1,
                max_length=MAX_TEXT,
                description="input view that the texts were written from, word for word as it will be set",
            ),
        ],
        positives: Annotated[
            list[Text],
            Field(
                min_length=1, max_length=128, description="texts in which the label says it fires; «» may mark where"
            ),
        ],
        negatives: Annotated[
            list[Text], Field(max_length=128, description="texts in which it fires nowhere (with «»: not there)")
        ] = [],  # noqa: B006 - pydantic copies it
        near_misses: Annotated[
            list[Text],
            Field(max_length=128, description="of the proposed near misses, verbatim; empty: propose some"),
        ] = [],  # noqa: B006
        seed: Seed = 0,
        author: Author = "",
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Test a label."""
        fields = {
            "label": label,
            "positives": positives,
            "negatives": negatives,
            "near_misses": near_misses,
            "seed": seed,
        }
        return await self._experimenter.run(context, "generate_and_test", key, fields, author, run, harvest)

    async def replay(
        self,
        context: Context,
        evidence_id: Annotated[
            str, Field(min_length=1, max_length=MAX_NAME, description="as an experiment returned it")
        ],
        run: Run = "",
        harvest: HarvestId = "",
    ) -> str:
        """Do an experiment again whose result is stored, and compare: equal to the bit on the same device and versions.

        Use it before you rest a label on evidence that is old, imported or somebody else's. It runs on the harvest
        that the evidence comes from. Stores nothing.
        """
        return await self._experimenter.replay(context, evidence_id, run, harvest)
