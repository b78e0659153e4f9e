"""What the steps of a pipeline would cost at most, as far as that can be known before any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from spd_tools.annotations import Annotations
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.judges import judge_call
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.runner import Evaluation
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.trials import ScoreName, make_trials
from spd_tools.interpret import InterpretRequest, estimate_interpretation, top_tokens_label
from spd_tools.interpret.selection import choose
from spd_tools.keys import ComponentKey
from spd_tools.llm import Call, Estimate, Ledger, estimate
from spd_tools.pipeline.config import InterpretSection, JudgeSection, PipelineConfig
from spd_tools.pipeline.tasks import evaluation_settings
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record

N_SAMPLED = 5
"""Components that calls are made of for an estimate."""
_NO_HARVEST = "not known before the harvest is there: it depends on which components fire, and on what"


class StepCost(Record):
    """What a step would cost."""

    step: str
    estimate: Estimate | None
    """None: nothing to ask, or not known; ``remark`` says which."""
    remark: str | None = None
    budget: float | None
    """Dollars that the step stops at; None: no limit."""


def step_costs(config: PipelineConfig, harvest: Harvest | None) -> tuple[StepCost, ...]:
    """A cost for each step that asks a language model; counting tokens needs a key, and is free.

    Args:
        config: of the pipeline.
        harvest: None: it is not there yet.

    Raises:
        SpdToolsError: for components that do not exist.
    """
    sections = {"interpret": config.interpret} | config.judged
    costs: list[StepCost] = []
    for step, section in sections.items():
        if section is None:
            continue
        if harvest is None:
            costs.append(StepCost(step=step, estimate=None, remark=_NO_HARVEST, budget=section.budget))
            continue
        if isinstance(section, InterpretSection):
            found, remark = estimate_interpretation(harvest, section.request), "everything is labelled"
        else:
            found, remark = _judging(harvest, step, section, config.interpret)
        costs.append(StepCost(step=step, estimate=found, remark=None if found else remark, budget=section.budget))
    return tuple(costs)


def _judging(
    harvest: Harvest, score: str, section: JudgeSection, labelling: InterpretRequest | None
) -> tuple[Estimate | None, str]:
    """An estimate, or why there is none."""
    assert score in ("intruder", "detection", "fuzzing")
    try:
        if score == "intruder":
            evaluation = Evaluation(harvest, Annotations.of(harvest), evaluation_settings(harvest, score, section))
            sample, n_calls = evaluation.sample(N_SAMPLED), evaluation.most_calls
        else:
            assert labelling is not None, "labels are scored where they are made"
            sample, n_calls = _scoring(harvest, score, section, labelling)
    except SpdToolsError as error:
        return None, str(error)
    if not sample:
        return None, "not known: no component has material for a trial"
    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    return asyncio.run(estimate(sample, n_calls, ledger=ledger, batch=section.batch)), ""


def _scoring(
    harvest: Harvest, score: ScoreName, section: JudgeSection, labelling: InterpretRequest
) -> tuple[list[Call], int]:
    """(a sample, how many calls there may be), with lists of top tokens in place of labels that are not there yet."""
    settings = evaluation_settings(harvest, score, section)
    chosen = _components(harvest, section, labelling)
    per_component = len(settings.judged(score)) * settings.n_trials
    sample = list(_sample(harvest, score, section, chosen))
    return sample, len(chosen) * per_component


def _components(harvest: Harvest, section: JudgeSection, labelling: InterpretRequest) -> list[int]:
    """Flat indices of what will have a label then and is to be scored."""
    if section.keys is not None:
        return [harvest.keys.flat(key) for key in section.keys][: section.limit]
    asked = labelling.model_dump(include={"keys", "layer", "order", "limit"})
    will_have = set(choose(harvest, **asked).tolist())
    will_have |= {harvest.keys.flat(key) for key in ResultStore.of(harvest).labelled()}
    counts = harvest.firing_counts
    return sorted(will_have, key=lambda flat: (-int(counts[flat]), flat))[: section.limit]


def _sample(harvest: Harvest, score: ScoreName, section: JudgeSection, chosen: list[int]) -> Iterator[Call]:
    split = Split(harvest)
    for flat in chosen[:: max(1, len(chosen) // N_SAMPLED)][:N_SAMPLED]:
        key: ComponentKey = harvest.keys.key(flat)
        label = top_tokens_label(harvest, key)
        made = make_trials(split, key, score, 1, section.seed)
        if label is not None and made.trials:
            yield judge_call(made.trials[0], label.input_view, harvest.token_texts, section.model)
