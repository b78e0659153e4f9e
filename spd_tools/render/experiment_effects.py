"""What experiments show about what a component does to the model's predictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from spd_tools.render.numbers import estimate, number, p_value, percent
from spd_tools.render.safe import visible_token
from spd_tools.render.tables import SideBySide, add_cells, facts_table, plain_table, titled
from spd_tools.store.tokentext import TokenText

if TYPE_CHECKING:
    from spd_tools.experiments.ablate import AblateResult, TokenEffect
    from spd_tools.experiments.direct_effect import DirectEffectResult, DirectToken
    from spd_tools.experiments.triage import NormRank, TriageResult
    from spd_tools.store.harvest import Harvest


def ablate(result: AblateResult, harvest: Harvest) -> Iterator[RenderableType]:
    """KL, and the tokens whose logits move."""
    negative = f", negative at {result.n_negative} of them" if result.n_negative else ""
    facts = {
        "activation": f"{estimate(result.activation)} at the {result.activation.n} sites{negative}",
        "KL": f"{estimate(result.kl)} nats; {len(result.controls)} components of like density "
        f"{estimate(result.kl_control)}; p = {p_value(result.kl_p_value)} (rank among theirs, one-sided)",
    }
    if result.later_kl is not None:
        facts["later KL"] = f"{estimate(result.later_kl)} nats, summed over the later positions"
    if result.silent_kl is not None:
        facts["silent KL"] = f"{estimate(result.silent_kl)} nats where it does not fire"
    yield facts_table(facts)
    spelling = harvest.token_texts
    if result.tokens:
        yield Text()
        n = len(result.tokens)
        yield titled(
            "Tokens asked for: logits that the component brings",
            _effects(result.tokens, spelling, asked=True),
            f"p: rank among those components on tokens of like frequency, corrected for {n} "
            f"{'token' if n == 1 else 'tokens'}",
        )
    for title, tokens, alike in (
        ("Raised most", result.raises, result.raises_alike),
        ("Lowered most", result.lowers, result.lowers_alike),
    ):
        if tokens:
            yield Text()
            more = f"and {alike:,} more as much as the last, in the half of the sites where these were chosen"
            yield titled(title, _effects(tokens, spelling, asked=False), more if alike else "")


def _effects(tokens: Sequence[TokenEffect], spelling: TokenText, *, asked: bool) -> Table:
    compared = ["others on like tokens", "p"] if asked else []
    table = plain_table(["token"], right=["logit", "others on it", *compared, "probability before", "after"])
    for token in tokens:
        cells = [visible_token(spelling.shown(token.token_id)), estimate(token.effect), estimate(token.same_token)]
        cells += [estimate(token.like_tokens), p_value(token.p_value)] if asked else []
        add_cells(table, *cells, percent(token.probability_before), percent(token.probability_after))
    return table


def direct_effect(result: DirectEffectResult, harvest: Harvest) -> Iterator[RenderableType]:
    """Logits per unit of activation."""
    facts = {"write norm": number(result.write_norm)}
    if result.centre is not None:
        facts["median"] = f"{number(result.centre)} logits per unit over the vocabulary, subtracted below"
    yield facts_table(facts)
    if result.raises is not None and result.lowers is not None:
        spelling = harvest.token_texts
        yield Text()
        yield SideBySide(
            titled("Raised most", _direct(result.raises, spelling)),
            titled("Lowered most", _direct(result.lowers, spelling)),
        )


def _direct(tokens: Sequence[DirectToken], spelling: TokenText) -> RenderableType:
    if not tokens:
        return Text("none")
    table = plain_table(["token"], right=["logit per unit", "z"])
    for token in tokens:
        add_cells(table, visible_token(spelling.shown(token.token_id)), number(token.logit), number(token.z_score))
    return table


def triage(result: TriageResult, harvest: Harvest) -> Iterator[RenderableType]:
    """The numbers that the verdict, which is in the summary, rests on."""
    limit = "" if result.density_limit is None else f"; below {percent(result.density_limit)} with 95 % confidence"
    facts = {
        "density": f"{percent(result.density)} ({result.firing_count:,} firings){limit}",
        "read norm": _rank(result.read_norm),
        "write norm": _rank(result.write_norm),
        "product": _rank(result.product_norm),
        "KL at firings": f"{estimate(result.kl)} nats; components of like density {estimate(result.kl_control)}",
        "KL anywhere": f"{estimate(result.random_kl)} nats",
    }
    yield facts_table(facts)


def _rank(norm: NormRank) -> str:
    return f"{number(norm.norm)}, {norm.rank} of {norm.of} in its layer"
