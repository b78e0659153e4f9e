"""Labels without a language model: the tokens that a component fires on. The baseline for those of models."""

from __future__ import annotations

from spd_tools.annotations import LabelDraft
from spd_tools.interpret.provenance import Provenance
from spd_tools.interpret.quoting import quoted_token
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Side

AUTHOR = "top-tokens"
_N_INPUTS = 10
_N_OUTPUTS = 5
_SOURCES = "token statistics: all rows; no text of any row"


def top_tokens_label(harvest: Harvest, key: str | ComponentKey) -> LabelDraft | None:
    """A label that lists the most frequent tokens; None for a component that never fired.

    Raises:
        SpdToolsError: for an unknown component.
    """
    if not harvest.component(key).firing_count:
        return None
    inputs, outputs = _listed(harvest, key, "input", _N_INPUTS), _listed(harvest, key, "output", _N_OUTPUTS)
    provenance = Provenance(
        asked=AUTHOR,
        prompt=None,
        harvest_id=harvest.harvest_id,
        call=None,
        label=inputs,
        verdict=None,
        evidence=_SOURCES,
    )
    return LabelDraft(
        input_view=f"top tokens, by share of its firings: {inputs}",
        output_view=f"top tokens predicted there, by mean probability: {outputs}" if outputs else "",
        notes=provenance.notes("A list of the most frequent tokens, made without a language model, as a baseline."),
    )


def _listed(harvest: Harvest, key: str | ComponentKey, side: Side, limit: int) -> str:
    scores = harvest.token_stats(key, side).lists("recall", limit).top
    texts = harvest.token_texts
    return ", ".join(f"{quoted_token(texts.shown(score.token_id))} ({100 * score.recall:.3g} %)" for score in scores)
