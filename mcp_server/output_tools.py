"""Tools that run the model to learn what a component does, and whether a label holds; results become evidence.

Parameters are those of the experiments' requests, which tests/mcp compares.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from mcp.server.mcpserver import Context
from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from mcp_server.experimenter import Experimenter
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
            tool(self.triage, "Is a component worth anybody's time?", EXPERIMENTS),
            tool(self.ablate, "Ablate or clamp a component", EXPERIMENTS),
            tool(self.direct_effect, "Which tokens it writes", EXPERIMENTS),
            tool(self.generate_and_test, "Test a label on fresh texts", EXPERIMENTS),
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
        """Is a component worth an investigation: dead, weak or worth it. Cheap; run it first.

        Density and the norms of its vectors, and the mean KL of the model's predictions when it is removed, against
        random components of like density. Dead: it never fired. Weak: when it is removed, neither KL nor the largest
        change of a logit comes up to removing others like it. Stop there and say so, unless there is a reason to go on.
        Worth it says nothing about what it means. Next: overview.
        """
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
        """What does it do to the predictions? Removes it (or keeps it alone, or clamps it) and compares the logits.

        Change of the logits of next tokens and KL of the predictions, against random components of like density. Tokens
        that rise when it is removed are those it suppresses; statistics over firings cannot show that. Give in `tokens`
        those that your hypothesis names: they are tested, while the lists of raised and lowered tokens only suggest.
        p is a rank among those components: of the KL one-sided, of named tokens on tokens of like frequency.
        Suppression needs n_sites >= 20. It shows the effect in these contexts, not by which path. Next: direct_effect.
        """
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
        """Which tokens it writes: its write vector through the unembedding (logit lens), most raised and most lowered.

        Structural: read off the weights, no text is run. It sees only the direct path to the logits; layers in between
        may undo it or do more, and an early layer's write vector may mean nothing there. Supports no label by itself:
        compare with ablate.
        """
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
        """Test a label on texts written from it: does the component fire where the label says, and only there?

        Two calls. First give the label, and positives and negatives written from it alone: the answer proposes near
        misses (the positives with their trigger moved, replaced or in another context) and stores nothing. Then give
        the same and, verbatim, those near misses of which the label says that they do NOT fire. A supported label needs
        at least 10 positives, 10 negatives of which half are near misses, and a balanced accuracy whose interval lies
        above 0.6; the test counts for the wording in `label` and no other. Texts that were probed or tested before, and
        copies of harvested rows, are refused. Do not tune the label on these texts and test again on variants: write
        down what failed, then write fresh ones.
        """
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
