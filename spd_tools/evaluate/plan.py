"""What an evaluation is to do, checked and complete."""

from __future__ import annotations

import hashlib
import importlib.resources
import json
from collections.abc import Sequence

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.judges import DEFAULT_MODEL
from spd_tools.evaluate.records import BASELINES, Judged
from spd_tools.evaluate.statistics import LOOKS
from spd_tools.evaluate.trials import SCORES, ScoreName
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record
from spd_tools.store.scores import at_least, chosen

N_TRIALS = LOOKS[0] + 1
"""Of a component and score, without early stopping: one of them may fail without taking the score with it."""
MOST_TRIALS = LOOKS[-1]
"""Of a component and score, with early stopping."""
_VERSION = 2
"""Of everything that turns a harvest and labels into calls, prompts left out; part of an evaluation's id."""


class EvaluationSettings(Record):
    """Everything that decides what is asked, but for the labels."""

    harvest_id: str
    model: str
    scores: list[ScoreName]
    keys: list[str] | None
    """Components; None: all that have a label (that fire, where no score needs a label), by descending density."""
    limit: int | None
    n_trials: int
    precision: float | None
    seed: int
    baselines: bool
    prompts: str
    """Hash of the templates."""
    version: int = _VERSION

    @property
    def id(self) -> str:
        """Equal settings have equal ids."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return f"e-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    @property
    def needs_labels(self) -> bool:
        """Whether any of the scores is about labels."""
        return self.scores != ["intruder"]

    def judged(self, score: ScoreName) -> tuple[Judged, ...]:
        """Which labels a score is made for."""
        if score == "intruder":
            return ("none",)
        return ("label", *BASELINES) if self.baselines else ("label",)


def settings_of(
    harvest: Harvest,
    *,
    scores: Sequence[ScoreName] = ("detection", "fuzzing"),
    keys: Sequence[str] | None = None,
    limit: int | None = None,
    n_trials: int | None = None,
    precision: float | None = None,
    seed: int = 0,
    model: str = DEFAULT_MODEL,
    baselines: bool = True,
) -> EvaluationSettings:
    """Check what is wanted, and fill in what is not said.

    Args:
        harvest: of the components.
        scores: which, see ``trials.SCORES``.
        keys: components; None: all that have a label.
        limit: of components.
        n_trials: per component, score and label, at most; None: 6, or 20 with a precision.
        precision: half the width of an interval at which a component is done early.
        seed: of the trials and of the choice of other components' labels.
        model: name of the judge.
        baselines: whether labels are compared with another component's, an empty one and one of the top tokens.

    Raises:
        SpdToolsError: for unknown scores or components, or impossible numbers.
    """
    if not scores:
        raise SpdToolsError(f"No score was chosen; name some of {', '.join(SCORES)}.")
    for score in scores:
        chosen(score, SCORES, "score")
    if precision is not None and not 0 < precision < 1:
        raise SpdToolsError(f"A precision of {precision} is none; give a number between 0 and 1, for example 0.1.")
    if n_trials is not None:
        at_least(n_trials, LOOKS[0], "The number of trials")
    if limit is not None:
        at_least(limit, 1, "The limit of components")
    known = None if keys is None else [str(harvest.keys.key(harvest.keys.flat(key))) for key in dict.fromkeys(keys)]
    return EvaluationSettings(
        harvest_id=harvest.harvest_id,
        model=model,
        scores=[score for score in SCORES if score in scores],
        keys=known,
        limit=limit,
        n_trials=n_trials or (N_TRIALS if precision is None else MOST_TRIALS),
        precision=precision,
        seed=seed,
        baselines=baselines,
        prompts=_prompts_hash(),
    )


def _prompts_hash() -> str:
    """Of all templates that a judge reads."""
    folder = importlib.resources.files("spd_tools.evaluate") / "templates"
    texts = {entry.name: entry.read_text(encoding="utf-8") for entry in folder.iterdir() if entry.name.endswith(".j2")}
    return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()[:12]
