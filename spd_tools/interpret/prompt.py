"""Evidence -> the texts that a language model is asked with."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, get_args

from jinja2 import Environment, PackageLoader, StrictUndefined

from spd_tools.evaluate.windows import Window
from spd_tools.interpret.evidence import Evidence, Partner, Silent
from spd_tools.interpret.quoting import Quoted, excerpt, quoted, quoted_token
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import TokenScore
from spd_tools.store.tokentext import TokenText

PromptName = Literal["detects", "roles"]
"""Which template: what a component detects, or both its input and its output role."""
PROMPTS: tuple[PromptName, ...] = get_args(PromptName)
_EXCERPT_LIMIT = 300
_SHIFTED_LIMIT = 120
_NAME_LIMIT = 120
_LABEL_LIMIT = 160
_N_LAYERS = 24
"""Layers that the description of the model names."""
_N_SHIFTED: Mapping[PromptName, int] = {"detects": 5, "roles": 12}
"""Examples that are also shown shifted to the following token."""
_N_OUTPUTS: Mapping[PromptName, int] = {"detects": 5, "roles": 10}
"""Entries per list of predicted tokens."""


def system_prompt(harvest: Harvest, prompt: PromptName) -> str:
    """What all components of a harvest are asked with: task, model, how evidence is written."""
    info = harvest.manifest.decomposition
    layers = [Quoted(f"{quoted(name, _NAME_LIMIT)} ({n:,})") for name, n in info.layers[:_N_LAYERS]]
    return _rendered(
        f"{prompt}_system.j2",
        vocab_size=_whole(info.vocab_size),
        seq_len=_whole(harvest.seq_len),
        n_components=_whole(len(harvest.keys)),
        n_layers=_whole(len(info.layers)),
        layers=layers,
        more=_whole(len(info.layers) - len(layers)) if len(info.layers) > len(layers) else None,
        importance=harvest.gating_kind == "causal_importance",
        gating=quoted(harvest.gating_kind.replace("_", " ")),
        ranking=quoted(harvest.ranking_kind.replace("_", " ")),
        threshold=_number(harvest.manifest.config.threshold),
        n_tokens=_whole(harvest.n_tokens),
    )


def component_prompt(harvest: Harvest, evidence: Evidence, prompt: PromptName) -> str:
    """What is asked about one component. Its size is bounded, whatever the data set holds."""
    component, place, texts = evidence.component, evidence.place, harvest.token_texts
    examples = [*evidence.uniform, *evidence.top]
    n_outputs = _N_OUTPUTS[prompt]
    dropped = component.dropped_output_mass / component.firing_count if component.firing_count else None
    return _rendered(
        f"{prompt}.j2",
        key=_key(component.key),
        number=_whole(place.number),
        n_layers=_whole(place.n_layers),
        block=None if place.block is None else _whole(place.block),
        n_blocks=_whole(place.n_blocks),
        role=None if place.role is None else Quoted(place.role),
        firing_count=_whole(component.firing_count),
        n_tokens=_whole(harvest.n_tokens),
        density=_percent(component.density),
        dense=evidence.is_dense,
        uniform=[_example(window, texts, evidence) for window in evidence.uniform],
        top=[_example(window, texts, evidence) for window in evidence.top],
        shifted=[line for window in examples if (line := _shifted(window, texts))][: _N_SHIFTED[prompt]],
        inputs=[_input(score, texts) for score in evidence.inputs.frequent],
        typical_inputs=[_input(score, texts) for score in evidence.inputs.typical],
        silent=[_silent(silent, texts) for silent in evidence.silent],
        outputs=[_output(score, texts) for score in evidence.outputs.frequent[:n_outputs]],
        typical_outputs=[_output(score, texts) for score in evidence.outputs.typical[:n_outputs]],
        dropped=None if dropped is None else _percent(dropped),
        partners=[_partner(partner, texts) for partner in evidence.partners],
    )


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("spd_tools.interpret"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
        finalize=_only_quoted,
    )


def _rendered(name: str, **values: Any) -> str:
    text = _environment().get_template(name).render(**values)
    return re.sub(r"\n{3,}", "\n\n", text)  # sections that have nothing to show leave blank lines; data has none


def _only_quoted(value: Any) -> Any:
    assert isinstance(value, Quoted), f"{value!r} goes into a prompt as it is"
    return value


# --- lines: each is one piece of evidence -----------------------------------------------------------------------------


def _example(window: Window, texts: TokenText, evidence: Evidence) -> Quoted:
    firing = window.firing_places
    token = quoted_token(texts.shown(window.token_ids[window.marked]))
    more = f", {len(firing) - 1} more" if len(firing) > 1 else ""
    strength = _strength(window.activations[window.marked], evidence.component.effective_max)
    # Where nearly everything fires, what does not is worth marking.
    text = _excerpt(window, texts, set(window.silent_places if evidence.is_dense else firing), window.marked)
    return Quoted(f"@{window.position} {token} [{strength}{more}] {text}")


def _strength(activation: float | None, effective_max: float | None) -> str:
    """A share of the usual maximum; what is not known is said to be so."""
    return "unknown" if activation is None or not effective_max else f"{activation / effective_max:.2f}"


def _excerpt(window: Window, texts: TokenText, marks: set[int], focus: int, limit: int = _EXCERPT_LIMIT) -> Quoted:
    running = texts.running(window.token_ids, focus)
    return excerpt(running, marks, focus, limit=limit, begins=window.start == 0)


def _shifted(window: Window, texts: TokenText) -> Quoted | None:
    """The window with the token marked that follows the firing; None at the end of a row."""
    following = window.marked + 1
    if following == len(window.token_ids):
        return None
    until = window.model_copy(update={"token_ids": window.token_ids[: following + 2]})
    return _excerpt(until, texts, {following}, following, _SHIFTED_LIMIT)


def _input(score: TokenScore, texts: TokenText) -> Quoted:
    return Quoted(
        f"{quoted_token(texts.shown(score.token_id))} | {score.count:,} | {_percent(score.recall)} | "
        f"{_percent(score.precision)}"
    )


def _output(score: TokenScore, texts: TokenText) -> Quoted:
    return Quoted(f"{quoted_token(texts.shown(score.token_id))} | {_percent(score.recall)} | {_number(score.lift)}")


def _silent(silent: Silent, texts: TokenText) -> Quoted:
    token = silent.token
    return Quoted(f"{quoted_token(texts.shown(token.token_id))} | {token.count:,} of {silent.total:,}")


def _partner(partner: Partner, texts: TokenText) -> Quoted:
    pair = partner.pair
    tokens = ", ".join(quoted_token(texts.shown(token.token_id)) for token in partner.tokens)
    label = "" if partner.label is None else f" | labelled: {quoted(partner.label, _LABEL_LIMIT)}"
    name, counts = _key(pair.key), f"{_percent(pair.precision)} | {_percent(pair.recall)}"
    return Quoted(f"{name} | {pair.count:,} | {counts} | {tokens}{label}")


def _key(key: ComponentKey) -> Quoted:
    return Quoted(f"{quoted(key.layer, _NAME_LIMIT)}:{key.index}")


def _whole(number: int) -> Quoted:
    return Quoted(f"{number:,}")


def _number(value: float) -> Quoted:
    return Quoted(f"{value:.3g}")


def _percent(share: float) -> Quoted:
    return Quoted(f"{100 * share:.3g} %")
