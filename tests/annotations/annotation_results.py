"""Results of experiments as they would have come out, and labels that cite them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from pydantic import BaseModel, TypeAdapter, ValidationError

from spd_tools.annotations import Annotations, LabelDraft
from spd_tools.experiments.ablate import AblateRequest, AblateResult
from spd_tools.experiments.generate_and_test import CHANCE, GenerateAndTestRequest, GenerateAndTestResult
from spd_tools.experiments.interact import InteractRequest, InteractResult
from spd_tools.experiments.minimal_context import MinimalContextRequest, MinimalContextResult
from spd_tools.experiments.occlusion import OcclusionRequest, OcclusionResult
from spd_tools.experiments.position import PositionRequest, PositionResult
from spd_tools.experiments.probe import ProbeRequest, ProbeResult
from spd_tools.experiments.records import Estimate, Machine, Request, Result, SubjectInfo
from spd_tools.experiments.sweep import SweepRequest, SweepResult

RUN, FINGERPRINT = "some-run", "f" * 64
KEY, OTHER = "h.0.mlp.c_fc:3", "h.0.mlp.c_fc:4"
ABOVE, BELOW = Estimate(value=0.9, low=0.8, high=1.0, n=40), Estimate(value=0.1, low=0.0, high=0.2, n=40)
FOUND = {"effect": ABOVE, "control": BELOW, "n": 40, "p_value": 1e-4}
"""Of an intervention that stands, whatever else was tried."""
MACHINE = Machine(device="cpu", torch="2", spd_tools="1")
VIEW = "fires on ' the'"
POSITIVES = [f"text {number} on which it fires" for number in range(10)]
NEGATIVES = [f"text {number} on which it does not" for number in range(5)]
NEAR_MISSES = [f"text {number} on which it nearly does" for number in range(5)]


def subject_info(fingerprint: str = FINGERPRINT, harvest_id: str = "abc123") -> SubjectInfo:
    return SubjectInfo(
        run_id=RUN,
        harvest_id=harvest_id,
        fingerprint=fingerprint,
        threshold=0.0,
        gating_kind="causal_importance",
        ranking_kind="component_activation",
    )


def about(request: Request, fingerprint: str = FINGERPRINT) -> dict:
    digest = hashlib.sha256(json.dumps([request.model_dump(mode="json"), fingerprint]).encode()).hexdigest()[:12]
    return {
        "id": f"{request.experiment}-{digest}",
        "subject": subject_info(fingerprint),
        "machine": MACHINE,
        "request": request,
        "population": "texts",
        "p_value": None,
        "summary": "Something was found.",
        "kind": "counterfactual",
    }


def result_of(model: type[Result], request: Request, **fields):
    """A result with these fields; what else it needs is filled with whatever its type allows."""
    given = {**about(request, fields.pop("fingerprint", FINGERPRINT)), **fields}
    for name, field in model.model_fields.items():
        if field.is_required() and name not in given:
            given[name] = _anything(field.annotation)
    return model.model_validate(given)


def _anything(annotation):
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {name: _anything(field.annotation) for name, field in annotation.model_fields.items()}
    for value in (None, [], {}, 0, 0.5, "", ABOVE):
        try:
            return TypeAdapter(annotation).validate_python(value, strict=True)
        except ValidationError:
            continue
    raise AssertionError(annotation)


def probed(texts: Sequence[str], key: str = KEY, **fields) -> ProbeResult:
    request = ProbeRequest.model_validate({"key": key, "texts": list(texts)})
    return result_of(ProbeResult, request, **fields)


def swept(key: str = KEY, *, seed: int = 0, tokens: Sequence[int] = (1,), **fields) -> SweepResult:
    request = SweepRequest.model_validate({"key": key, "tokens": list(tokens), "seed": seed})
    return result_of(SweepResult, request, **{**FOUND, **fields})


def ablated(key: str = KEY, *, tokens: Sequence[str] = (), mode: str = "remove", seed: int = 0, **fields):
    value = {"value": 1.0} if mode == "clamp" else {}
    request = AblateRequest.model_validate({"key": key, "tokens": list(tokens), "mode": mode, "seed": seed, **value})
    return result_of(AblateResult, request, **{**FOUND, "kl": ABOVE, **fields})


def occluded(key: str = KEY, *, at: str = "firing", **fields) -> OcclusionResult:
    request = OcclusionRequest.model_validate({"key": key, "at": at, "on": ["the"]})
    return result_of(OcclusionResult, request, **{**FOUND, **fields})


def reduced(key: str = KEY, **fields) -> MinimalContextResult:
    return result_of(MinimalContextResult, MinimalContextRequest.model_validate({"key": key}), **{**FOUND, **fields})


def interacting(first: Sequence[str], second: Sequence[str], **fields) -> InteractResult:
    tokens = {"first_tokens": list(first), "second_tokens": list(second)}
    return result_of(InteractResult, InteractRequest.model_validate({"key": KEY, **tokens}), **{**FOUND, **fields})


def positioned(mode: str = "absolute", **fields) -> PositionResult:
    request = PositionRequest.model_validate({"key": KEY, "mode": mode, "cue": 1 if mode == "distance" else None})
    return result_of(PositionResult, request, **{**FOUND, **fields})


def label_test(
    key: str = KEY,
    *,
    label: str | None = VIEW,
    score: Estimate | None = ABOVE,
    positives: Sequence[str] = POSITIVES,
    negatives: Sequence[str] = NEGATIVES,
    near_misses: Sequence[str] = NEAR_MISSES,
) -> GenerateAndTestResult:
    """Without near misses: the proposal of some, for which nothing was run."""
    texts = {"positives": list(positives), "negatives": list(negatives), "near_misses": list(near_misses)}
    request = GenerateAndTestRequest.model_validate({"key": key, "label": label, **texts})
    if not near_misses:
        return result_of(GenerateAndTestResult, request, kind="structural", status="choose near misses")
    return result_of(
        GenerateAndTestResult,
        request,
        status="tested",
        n_positive=len(positives),
        n_negative=len(negatives) + len(near_misses),
        n_near_misses=len(near_misses),
        effect=score,
        control=CHANCE,
        p_value=1e-6,
    )


def draft(**fields) -> LabelDraft:
    return LabelDraft.of({"input_view": VIEW, **fields})


def supported(notes: Annotations, key: str = KEY, **fields):
    """A supported label, with fresh texts of its own."""
    number = len(notes.list_evidence(limit=None))
    texts = {
        name: [f"{text} {key} {number}" for text in given]
        for name, given in (("positives", POSITIVES), ("negatives", NEGATIVES), ("near_misses", NEAR_MISSES))
    }
    results = [ablated(key, seed=number), label_test(key, **texts)]
    ids = [notes.add_evidence(result, author="ada").id for result in results]
    return notes.set_label(key, draft(wants="supported", evidence=ids, **fields), author="ada")
