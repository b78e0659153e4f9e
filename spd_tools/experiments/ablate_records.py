"""What an ablation is asked and what it answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from spd_tools.experiments.intervention import Mode, Where
from spd_tools.experiments.records import Estimate, Ratio, Request, Result
from spd_tools.experiments.subject import Base
from spd_tools.store.records import KeyField, Record

Sign = Literal["any", "positive", "negative"]
"""Sign of the ranking activation."""


class AblateRequest(Request):
    """What does a component do to the next-token logits?"""

    experiment: Literal["ablate"] = "ablate"
    mode: Mode = Field(
        default="remove",
        description="remove: without it; alone: all else of its layer off; clamp: its activation set to value",
    )
    value: float | None = Field(
        default=None,
        ge=-1e6,
        le=1e6,
        description="clamp: activation to set, in units of the ranking activation",
    )
    where: Where = Field(default="everywhere", description="at every position of the row, or only at the site")
    base: Base = Field(default="firing", description="sites: where it fired, where it did not, or any position")
    sign: Sign = Field(
        default="any", description="only firings with a ranking activation of this sign, as effects turn with it"
    )
    tokens: list[int | str] = Field(
        default=[],
        max_length=50,
        description="next tokens to test, texts of one token or ids; give those that should move the same way",
    )
    n_sites: int = Field(default=32, ge=2, le=256, description="positions of the harvest, for it and for each control")
    n_controls: int = Field(
        default=99, ge=1, le=999, description="random components of like density, as far as there are; at least 19"
    )
    limit: int = Field(default=10, ge=1, le=100, description="longest list of raised and of lowered tokens")


class TokenEffect(Record):
    """What the component does to one next token. Positive: it raises it."""

    token_id: int
    text: str | None
    effect: Estimate
    """Logits that the component brings, relative to the middle token of the vocabulary; mean over sites."""
    same_token: Estimate
    """The same of the control components at their own sites: mean, and where 95 % of them lie."""
    like_tokens: Estimate | None
    """The same of the control components on tokens of like frequency; for tokens that were asked for."""
    probability_before: float
    """Mean probability in the unchanged run."""
    probability_after: float
    """Mean probability in the changed run."""
    p_value: float | None
    """Against ``like_tokens``, Holm-corrected; None for tokens that were found, not asked for."""


class AblateResult(Result):
    """Logits and KL under an intervention.

    Logits are compared as ``intervention.brought`` says: "the component raises t" means that t's logit, relative to the
    median of the vocabulary, is higher with the component than without it (for a clamp: higher than at its own
    activation). KL is KL(unchanged || changed) of the next-token distribution at the site, in nats.

    ``effect``: with ``tokens``, the mean change over them; ``control`` is then what control components do to
    tokens of like frequency at their own sites, with the limits within which 95 % of that lies. Without ``tokens``, the
    mean KL; ``control`` is the median of the control components' mean KLs, with the limits within which 95 % of these
    lie. Either way the interval is that of a single component and the p-value a rank among them, so a component that is
    like any other is found to stand out in at most one try of twenty. ``matching`` is about the densities of the
    control components. Tokens that were read off this experiment's lists and then asked for on the same sites are no
    fresh test.
    """

    request: AblateRequest
    controls: list[KeyField]
    """Components of like density: as many as asked for, or all others that have such sites."""
    activation: Estimate
    """Mean ranking activation at the sites, unchanged."""
    n_negative: int
    """Sites where it is negative: what the component does turns with its sign, and a mean over both may hide it."""
    kl: Estimate
    """Mean over the sites."""
    kl_control: Estimate
    """Median over the control components of their mean KL, with the limits within which 95 % of these lie."""
    kl_p_value: float
    """Rank of the mean KL among those of the control components, one-sided: only more change than theirs means
    anything."""
    later_kl: Estimate | None
    """Mean over the sites of the KL summed over all later positions of their rows; for "remove" only."""
    silent_kl: Estimate | None
    """Mean KL at positions where the component does not fire; None where the sites are no firings, and for a component
    that always fires."""
    tokens: list[TokenEffect]
    """The tokens asked for, in that order."""
    token_matching: Ratio | None
    """How like in frequency the tokens behind ``like_tokens`` are; None where no tokens were asked for."""
    raises: list[TokenEffect] | None
    """Most raised tokens: chosen in one half of the sites, measured in the other. None for fewer than 4 sites."""
    raises_alike: int
    """Tokens that are not listed although they were raised as much as the last one that is, in the half where these
    were chosen: the list ends among equals."""
    lowers: list[TokenEffect] | None
    """Most lowered tokens, likewise."""
    lowers_alike: int
    """The same of these."""
