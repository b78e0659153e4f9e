"""Direct effect: what a component's write vector is to the unembedding, without anything in between (logit lens)."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from spd_tools.experiments.contrasts import said
from spd_tools.experiments.population import central, greater_test
from spd_tools.experiments.records import Estimate, Request, Result
from spd_tools.experiments.subject import Subject
from spd_tools.store.records import Record

MAX_CONTROLS = 256
"""Other components of the layer that a component is compared with, drawn where there are more."""
_TOKENS_AT_ONCE = 1 << 24  # logits of control components held at once
_LOGIT_FLOOR = 1e-6  # smaller logits are rounding, and are not listed
_INNER = (
    *("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query", "key", "value", "query_key_value", "Wqkv"),
    *("c_fc", "up_proj", "gate_proj", "fc1", "fc_in", "dense_h_to_4h", "intermediate.dense", "pre_identity"),
)
"""Modules whose output is read inside their block. As wide as the stream as they may be, they do not write into it."""


class DirectEffectRequest(Request):
    """Which next tokens does the component write towards directly?"""

    experiment: Literal["direct_effect"] = "direct_effect"
    limit: int = Field(default=10, ge=1, le=100, description="longest list of raised and of lowered tokens")


class DirectToken(Record):
    """One next token."""

    token_id: int
    text: str | None
    logit: float
    """Per unit of activation, less the median over the vocabulary."""
    z_score: float | None
    """Distance from the mean of the layer's other components on this token, in their standard deviations; None where
    they all do the same or there are fewer than 3."""


class DirectEffectResult(Result):
    """Logits that the write vector alone brings, per unit of activation.

    The write vector at norm 1, times the unembedding, less its median over the vocabulary (a constant changes no
    probability). Activations are reported in those units: x V_c times the norm of U_c. The gain and the division of a
    final norm are left out (they depend on everything else in the stream), and so is whatever later layers make of it:
    ``ablate`` measures the total effect.

    ``effect``: the largest absolute logit; ``control``: the same of the layer's other components, with the limits
    within which 95 % of them lie. Weights are no sample, so the effect itself has no interval. All of it is None, and
    the lists too, where the layer does not write into what the unembedding reads, judged by its width and by the
    usual names of modules; the summary says why.
    """

    request: DirectEffectRequest
    write_norm: float
    """Norm of the write vector as stored."""
    centre: float | None
    """Median over the vocabulary, in logits per unit of activation: add it to get back the raw numbers."""
    n_controls: int
    """Other components of the layer that it is compared with."""
    raises: list[DirectToken] | None
    """Most raised tokens."""
    lowers: list[DirectToken] | None
    """Most lowered tokens."""


@torch.no_grad()
def direct_effect(subject: Subject, request: DirectEffectRequest) -> DirectEffectResult:
    """Push a component's write vector through the unembedding. Nothing is run.

    Raises:
        SpdToolsError: for an unknown component.
    """
    subject.harvest.keys.flat(request.key)
    layer, index = request.key
    write, unembedding = subject.decomposition.write_vectors(layer).float(), subject.decomposition.unembedding
    norms = torch.linalg.vector_norm(write, dim=1)
    norm = float(norms[index])
    why = _why_not(layer, write, None if unembedding is None else unembedding.shape[0], norm)
    if why is not None or unembedding is None:
        return DirectEffectResult(
            **_of(subject, request, 0, None, None, None, f"{request.key} has no direct effect on the logits: {why}."),
            write_norm=norm,
            centre=None,
            n_controls=0,
            raises=None,
            lowers=None,
        )
    own, centre = _logits(write[index : index + 1] / norm, unembedding)
    logits = own[0].cpu().numpy().astype(np.float64)
    order = np.argsort(-logits, kind="stable")
    raised, lowered = order[: request.limit], order[::-1][: request.limit]
    raised, lowered = raised[logits[raised] > _LOGIT_FLOOR], lowered[logits[lowered] < -_LOGIT_FLOOR]
    columns = np.concatenate([raised, lowered])
    largest, theirs = _controls(subject, request, write, norms, unembedding, columns)
    effect = Estimate(value=float(np.abs(logits).max()), low=None, high=None, n=len(logits))
    control = central(largest) if len(largest) else None
    lines = [
        DirectToken(
            token_id=int(token),
            text=subject.harvest.token_text(int(token)),
            logit=float(logits[token]),
            z_score=_z_score(float(logits[token]), theirs[:, at]),
        )
        for at, token in enumerate(columns)
    ]
    raises, lowers = lines[: len(raised)], lines[len(raised) :]
    p_value = greater_test(effect.value, largest, _LOGIT_FLOOR) if len(largest) else None
    return DirectEffectResult(
        **_of(
            subject, request, len(logits), effect, control, p_value, _summary(subject, effect, control, raises, lowers)
        ),
        write_norm=norm,
        centre=float(centre[0]),
        n_controls=len(largest),
        raises=raises,
        lowers=lowers,
    )


def _why_not(layer: str, write: Tensor, width: int | None, norm: float) -> str | None:
    """Why there is no direct effect; None where there is one."""
    if width is None:
        return "the target ends in no linear unembedding"
    if write.shape[1] != width:
        return (
            f"layer {layer} writes {write.shape[1]} dimensions and the unembedding reads {width}, so it does not write "
            "into the residual stream (ablate measures what it does)"
        )
    if any(layer == inner or layer.endswith(f".{inner}") for inner in _INNER):
        return f"what layer {layer} writes is read inside its block (ablate measures what it does)"
    return None if norm else "its write vector is zero"


def _logits(write: Tensor, unembedding: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [components, vocab] less their median, and the medians [components]."""
    raw = write @ unembedding.to(write)
    centre = raw.median(-1).values
    return raw - centre[:, None], centre


def _controls(
    subject: Subject,
    request: DirectEffectRequest,
    write: Tensor,
    norms: Tensor,
    unembedding: Tensor,
    columns: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the layer's other components: largest absolute logit [components], logits [components, columns]."""
    others = np.flatnonzero(norms.cpu().numpy() > 0)
    others = others[others != request.key.index]
    if len(others) > MAX_CONTROLS:
        others = np.sort(subject.rng(request, "controls").choice(others, MAX_CONTROLS, replace=False))
    largest, kept = np.empty(len(others)), np.empty((len(others), len(columns)))
    step = max(1, _TOKENS_AT_ONCE // unembedding.shape[1])
    for at in range(0, len(others), step):
        part = torch.from_numpy(others[at : at + step]).to(write.device)
        logits = _logits(write[part] / norms[part, None], unembedding)[0].cpu().numpy()
        largest[at : at + step] = np.abs(logits).max(1)
        kept[at : at + step] = logits[:, columns]
    return largest, kept


def _z_score(logit: float, others: NDArray[np.float64]) -> float | None:
    if len(others) < 3:
        return None
    spread = float(others.std(ddof=1))
    return (logit - float(others.mean())) / spread if spread else None


def _of(
    subject: Subject,
    request: DirectEffectRequest,
    n: int,
    effect: Estimate | None,
    control: Estimate | None,
    p_value: float | None,
    summary: str,
) -> dict[str, Any]:
    return {
        **subject.identity(request),
        "kind": "structural",
        "population": "next tokens of the vocabulary; other components of the layer",
        "n": n,
        "effect": effect,
        "control": control,
        "p_value": p_value,
        "summary": summary,
        "request": request,
    }


def _summary(
    subject: Subject,
    effect: Estimate,
    control: Estimate | None,
    raises: list[DirectToken],
    lowers: list[DirectToken],
) -> str:
    parts = [
        f"{verb} {', '.join(f'{subject.shown(line.token_id)} {line.logit:+.3g}' for line in lines[:3])}"
        for verb, lines in (("raises", raises), ("lowers", lowers))
        if lines
    ]
    said_parts = "; ".join(parts) or "moves no token"
    return (
        f"Per unit of activation the write vector {said_parts} logits (largest {effect.value:.3g}, other components of "
        f"the layer {said(control)}). Read off the weights, without the final norm and later layers: it does not show "
        "what the model does."
    )
