"""What a label needs before it is called supported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, get_origin

from spd_tools.annotations.inputs import shown
from spd_tools.annotations.records import LabelDraft
from spd_tools.annotations.worth import UNKNOWN_SIZES, Sizes, Worth

if TYPE_CHECKING:
    from spd_tools.experiments.records import Estimate, Request, Result

MIN_TEXTS = 10
"""Positive texts, and negative ones, of a generate-and-test."""
MIN_SCORE = 0.6
"""What the lower end of its interval must exceed."""
MIN_ABLATED = 20
"""Observations behind a claim of suppression."""
TEST = "generate_and_test"
ABLATION = "ablate"
NO_INTERVENTION = frozenset({"probe", TEST})
"""Counterfactual, as the model runs on new input, but with nothing changed beside something unchanged."""
_TELLING = "sweep, interact, position, ablate, or occlusion where it stays silent"

_SUPPRESSES = re.compile(
    r"\b(?:suppress|inhibit|lower(?!\s*-?\s*case)|decreas|diminish|dampen|discourag|demot|push(?:es|ed|ing)? down"
    r"|reduc(?:e|es|ed|ing|tion)\b)",
    re.IGNORECASE,
)
_MARKS = str.maketrans("", "", "«»")
_SAY_LESS = "leave output_effect unknown, and that out of the output view"


class _TestRequest(Protocol):
    label: str | None
    positives: list[str]
    negatives: list[str]
    near_misses: list[str]


class _Test(Protocol):
    id: str
    effect: Estimate | None
    n_positive: int
    n_negative: int
    n_near_misses: int
    request: _TestRequest


def normalised(text: str) -> str:
    """A text without its marks («»), case and differences of white space: what makes it the same text again."""
    return " ".join(text.translate(_MARKS).casefold().split())


def texts_of(request: Request) -> set[str]:
    """Normalised texts in a request: every string in it but the component's name, a label and choices of a few."""
    names = {name for name, field in type(request).model_fields.items() if get_origin(field.annotation) is Literal}
    found: set[str] = set()
    waiting: list[Any] = [request.model_dump(mode="json", exclude={"key", "label", *names})]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            found.add(normalised(value))
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found - {""}


def missing_for_support(
    draft: LabelDraft,
    evidence: Sequence[Result],
    earlier_texts: Mapping[str, AbstractSet[str]],
    p_values: Mapping[str, float],
    sizes: Sizes = UNKNOWN_SIZES,
) -> list[str]:
    """What a label lacks to be supported, as sentences that say what to do next; empty when it lacks nothing.

    It needs (a) an intervention whose interval excludes that of its control: a counterfactual result, other than of a
    probe, a generate-and-test or of what finds something whatever the label (see ``_finds_something``); (b) a
    generate-and-test of this very input view, on at least 10 + 10 texts that had not been used, half of the negatives
    near misses chosen by the tool, with the lower end of its interval above 0.6; (c) where the label claims suppression
    (by ``output_effect`` "lowers" or "mixed", or in the words of its output view), an ablation of n >= 20 whose
    interval excludes that of its control; (d) where ``output_effect`` names a direction, an ablation that asked for
    tokens by name and found them changed that way (a KL has no direction). What stands for (a) has a p-value of at most
    0.05, corrected for everything that was asked about the component; what stands for (c) or (d) has one that is
    corrected for all its ablations, as somebody may try tokens until some show something.

    Args:
        draft: the label.
        evidence: results that it cites, all about its component and decomposition.
        earlier_texts: id of a generate-and-test -> normalised texts of all evidence about the component before it.
        p_values: id -> p-value of all results about the component that have one, cited or not.
        sizes: what more controls could be drawn from.
    """
    return [
        *_missing_intervention(evidence, Worth.of(p_values, evidence, sizes)),
        *_missing_test(draft, evidence, earlier_texts),
        *_missing_output(draft, evidence, Worth.of(p_values, evidence, sizes, ABLATION)),
    ]


def claims_suppression(draft: LabelDraft) -> bool:
    """Whether a label says that its component lowers the logits of some tokens."""
    return draft.output_effect in ("lowers", "mixed") or _SUPPRESSES.search(draft.output_view) is not None


def _missing_intervention(evidence: Sequence[Result], worth: Worth) -> list[str]:
    changed = [
        result
        for result in evidence
        if result.kind == "counterfactual" and result.request.experiment not in NO_INTERVENTION
    ]
    if not changed:
        return [
            "It cites no experiment in which something was changed: run the one that tells the label from its rivals "
            f"({_TELLING}) and cite its id."
        ]
    telling = [result for result in changed if not _finds_something(result)]
    if not telling:
        return [
            f"In {_ids(changed)} tokens are replaced where the component fires, where some token always matters, "
            f"whatever the label: run an experiment that could contradict it ({_TELLING}) and cite its id."
        ]
    apart = [result for result in telling if result.excludes_control and not _like_nothing(result)]
    if not apart:
        return [
            f"The interval of the effect does not exclude that of its control in {_ids(telling)}: take more "
            "observations, try another experiment, or give up the label."
        ]
    several = "sweep several tokens that the label names at once, as the p-value of a set can be smaller"
    return [] if worth.enough(apart) else [worth.too_little(apart, several)]


def _ids(results: Sequence[Result]) -> str:
    return ", ".join(result.id for result in results)


def _finds_something(result: Result) -> bool:
    """Whether it asks for the tokens that firings need: there always are some, so that no label can fail it."""
    name = result.request.experiment
    return name == "minimal_context" or (name == "occlusion" and result.request.at == "firing")


def _like_nothing(result: Result) -> bool:
    """An ablation whose KL lies below that of other components: it differs from them, by doing less.

    Its test is one-sided by now, so this is about results from before.
    """
    request, effect, control = result.request, result.effect, result.control
    if request.experiment != ABLATION or request.tokens or effect is None or control is None:
        return False
    return effect.value < control.value


def _missing_test(
    draft: LabelDraft, evidence: Sequence[Result], earlier_texts: Mapping[str, AbstractSet[str]]
) -> list[str]:
    tests = [cast("_Test", result) for result in evidence if result.request.experiment == TEST]
    if not tests:
        return [
            f"It cites no {TEST}: write at least {MIN_TEXTS} texts on which the component should fire and "
            f"{MIN_TEXTS} on which it should not, half of these near misses chosen by the tool, run {TEST} on them "
            "with this input view as their label, and cite its id."
        ]
    problems = ([*_untied(draft, test), *_unsound(test, earlier_texts.get(test.id, frozenset()))] for test in tests)
    return min(problems, key=len)


def _untied(draft: LabelDraft, test: _Test) -> list[str]:
    """What is wrong where a test was of other words than those of the label; nothing otherwise."""
    label = test.request.label
    if label is None:
        return [
            f"{test.id} does not say which label its texts were written from: test this wording on fresh texts, with "
            "the input view as their label."
        ]
    if normalised(label) == normalised(draft.input_view):
        return []
    return [f"{test.id} was run for the label {shown(label)}: test this wording on fresh texts."]


def _unsound(test: _Test, earlier: AbstractSet[str]) -> list[str]:
    request = test.request
    positives = {normalised(text) for text in request.positives}
    negatives = {normalised(text) for text in (*request.negatives, *request.near_misses)}
    problems: list[str] = []
    for what, n in (
        ("positive", min(test.n_positive, len(positives))),
        ("negative", min(test.n_negative, len(negatives))),
    ):
        if n < MIN_TEXTS:
            problems.append(
                f"{test.id} has {n} different {what} texts: test again, on at least {MIN_TEXTS} fresh ones."
            )
    if 2 * test.n_near_misses < test.n_negative:
        problems.append(
            f"In {test.id} {test.n_near_misses} of {test.n_negative} negatives are near misses chosen by the tool: "
            "test again on fresh texts, at least half of the negatives near misses that the tool proposes."
        )
    used = sorted((positives | negatives) & earlier)
    if used:
        problems.append(
            f"{len(used)} of the texts in {test.id} had been used on this component before ({shown(used[0])}): test "
            "again on fresh ones."
        )
    effect = test.effect
    if effect is None or effect.low is None:
        problems.append(f"{test.id} has no interval: test again on more fresh texts.")
    elif effect.low <= MIN_SCORE:
        problems.append(
            f"{test.id} scores {effect.value:.2f} with an interval from {effect.low:.2f}, which must be above "
            f"{MIN_SCORE}: correct the label and test the new one on fresh texts."
        )
    return problems


def _missing_output(draft: LabelDraft, evidence: Sequence[Result], worth: Worth) -> list[str]:
    sound = [result for result in evidence if result.request.experiment == ABLATION and result.excludes_control]
    if claims_suppression(draft):
        sound = [result for result in sound if result.n >= MIN_ABLATED and result.request.tokens]
        if not sound:
            return [
                f"It claims that the component lowers something, which only an intervention shows: run {ABLATION} with "
                f"those tokens on at least {MIN_ABLATED} positions, find an interval that excludes the control's, and "
                "cite its id."
            ]
        if not worth.enough(sound):
            return [worth.too_little(sound, _SAY_LESS)]
    in_words = -1 if claims_suppression(draft) and draft.output_effect != "mixed" else None
    direction = {"raises": 1, "lowers": -1}.get(draft.output_effect, in_words)
    if direction is None:
        return []
    showing = [result for result in sound if _shows(result, direction)]
    if showing:
        return [] if worth.enough(showing) else [worth.too_little(showing, _SAY_LESS)]
    claimed, opposite = ("raises", "lowers") if direction > 0 else ("lowers", "raises")
    found = [result.id for result in sound if _shows(result, -direction)]
    if found:
        return [
            f"The component {opposite} the tokens asked for in {', '.join(found)}: correct the label, or run "
            f"{ABLATION} with those it {claimed}."
        ]
    return [
        f"It says that the component {claimed} tokens and cites no {ABLATION} that asked for them by name: run "
        f"{ABLATION} with tokens, and cite its id, or leave output_effect unknown."
    ]


def _shows(ablation: Result, direction: int) -> bool:
    """Whether named tokens were found to be brought (1) or taken away (-1); what a clamp shows depends on its value."""
    request = ablation.request
    if not request.tokens or ablation.effect is None or request.mode == "clamp":
        return False
    return direction * ablation.effect.value > 0
