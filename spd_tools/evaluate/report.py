"""What an evaluation has found: distributions against baselines, the best and worst components, cost and failures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from spd_tools.evaluate.judges import shown_label, window_texts
from spd_tools.evaluate.origins import seen_rows
from spd_tools.evaluate.plan import EvaluationSettings
from spd_tools.evaluate.records import ComponentScore, Judged, LabelSource, ModelCost, TrialRow
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.splits import Split
from spd_tools.evaluate.statistics import CHANCE
from spd_tools.evaluate.trials import ScoreName, Trial, make_trials
from spd_tools.llm import Spending
from spd_tools.store.harvest import Harvest
from spd_tools.store.records import Record

N_BINS = 20
RANGES: dict[ScoreName, tuple[float, float]] = {
    "intruder": (0.0, 1.0),
    "detection": (0.0, 1.0),
    "fuzzing": (0.0, 1.0),
    "simulation": (-1.0, 1.0),
}
"""What values a score can have."""
NAMES: dict[Judged, str] = {
    "none": "no label needed",
    "label": "label",
    "another": "another's label",
    "empty": "empty label",
    "top_tokens": "top tokens",
}
"""What is judged, in words."""
REMARKS = (
    "Labels by interpret are scored on rows that they were not made from; statistics of tokens, which they and the "
    "baseline of top tokens are made from, cover all rows. Labels by anybody else are scored without the rows of their "
    "component's stored examples and those that experiments on it name, but whoever wrote them may have seen others.",
    "Another's label: of a labelled component without a frequent token in common that does not fire together with it "
    "more often than by chance. A rule about other tokens is silent where a component fires, so it scores a little "
    "below chance.",
    "Failed trials count neither for nor against a component, and are asked again by the next run.",
)


class Distribution(Record):
    """Values of one score with one kind of label."""

    score: ScoreName
    judged: Judged
    chance: float
    n: int
    """Components that have a value."""
    n_unscored: int
    """Components that were looked at and have none."""
    mean: float | None
    quartiles: tuple[float, float, float] | None
    """Lower quartile, median, upper quartile."""
    low: float
    """Lower end of the first bin."""
    high: float
    """Upper end of the last bin."""
    bins: list[int]
    """Components by value; the last bin holds its upper end."""


class Comparison(Record):
    """A score with the component's own label beside the same with a baseline, over the components that have both."""

    score: ScoreName
    baseline: Judged
    n: int
    mean_difference: float
    share_better: float
    """Of components whose own label scores higher."""


class ShownWindow(Record):
    """A window as the judge saw it."""

    text: str
    truth: str
    """What is so, in a word."""
    said: str
    """What the judge said, in a word; "–" where there is no answer."""
    right: bool | None


class ShownTrial(Record):
    """A trial with its answer."""

    trial: str
    model: str | None
    dollars: float
    reason: str | None
    """Why it failed."""
    windows: list[ShownWindow]


class ShownComponent(Record):
    """A component with the trials of its own label."""

    own: ComponentScore
    label: str | None
    """Harmless text."""
    baselines: dict[Judged, float | None]
    trials: list[ShownTrial]


class Extremes(Record):
    """The best and the worst components by one score, the best and the worst first; none is in both lists."""

    score: ScoreName
    best: list[ShownComponent]
    worst: list[ShownComponent]


class EvaluationReport(Record):
    """See the module."""

    id: str
    run_id: str
    settings: EvaluationSettings
    labels: list[LabelSource]
    """Where the labels that were judged come from, and whether they are blind to what they were scored on."""
    distributions: list[Distribution]
    comparisons: list[Comparison]
    extremes: list[Extremes]
    costs: list[ModelCost]
    spending: Spending | None
    """What has been paid under this evaluation's name, failures and repeats included; None where nobody looked."""
    failures: dict[str, int]
    """Why trials failed -> how many."""
    unscored: dict[str, int]
    """Why components have no score -> how many."""
    remarks: list[str]


def make_report(
    harvest: Harvest, settings: EvaluationSettings, *, spending: Spending | None = None, n_extremes: int = 5
) -> EvaluationReport:
    """Read what is stored about an evaluation, finished or not.

    Args:
        harvest: that was evaluated.
        settings: of the evaluation.
        spending: from the ledger.
        n_extremes: best components, and worst ones, of each score.
    """
    store = ResultStore.of(harvest)
    pairs: list[tuple[ScoreName, Judged]] = [
        (score, judged) for score in settings.scores for judged in settings.judged(score)
    ]
    shown = _Shown(harvest, store, settings)
    return EvaluationReport(
        id=settings.id,
        run_id=harvest.run_id,
        settings=settings,
        labels=_label_sources(store, settings),
        distributions=[_distribution(store, settings.id, *pair) for pair in pairs],
        comparisons=[
            comparison
            for score, judged in pairs
            if judged not in ("label", "none")
            for comparison in _comparisons(store, settings.id, score, judged)
        ],
        extremes=[shown.extremes(score, n_extremes) for score in settings.scores],
        costs=store.costs(settings.id),
        spending=spending,
        failures=store.failures(settings.id),
        unscored=_unscored(store, settings),
        remarks=list(REMARKS),
    )


def seen_by_author(labels: LabelSource) -> str:
    """What the author of labels may have seen of the data set, in words."""
    if labels.blind:
        return "labelling half only"
    return f"anything ({labels.reason}): the rows of stored examples were kept out"


def _label_sources(store: ResultStore, settings: EvaluationSettings) -> list[LabelSource]:
    """By the first score that is about labels: all of them judge the same ones."""
    about_labels: list[ScoreName] = [score for score in settings.scores if "label" in settings.judged(score)]
    return store.label_sources(settings.id, about_labels[0]) if about_labels else []


def _unscored(store: ResultStore, settings: EvaluationSettings) -> dict[str, int]:
    found: Counter[str] = Counter()
    for score in settings.scores:
        found += store.reasons(settings.id, score, settings.judged(score)[0])
    return dict(found.most_common())


def _distribution(store: ResultStore, evaluation: str, score: ScoreName, judged: Judged) -> Distribution:
    values = np.array(store.values(evaluation, score, judged), float)
    low, high = RANGES[score]
    quartiles = tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist()) if len(values) else None
    return Distribution(
        score=score,
        judged=judged,
        chance=CHANCE[score],
        n=len(values),
        n_unscored=store.reasons(evaluation, score, judged).total(),
        mean=float(values.mean()) if len(values) else None,
        quartiles=quartiles,
        low=low,
        high=high,
        bins=np.histogram(values, N_BINS, (low, high))[0].tolist(),
    )


def _comparisons(store: ResultStore, evaluation: str, score: ScoreName, baseline: Judged) -> list[Comparison]:
    pairs = store.pairs(evaluation, score, "label", baseline)
    if not len(pairs):
        return []
    difference = pairs[:, 0] - pairs[:, 1]
    better = float((difference > 0).mean())
    mean = float(difference.mean())
    return [Comparison(score=score, baseline=baseline, n=len(pairs), mean_difference=mean, share_better=better)]


class _Shown:
    """Components with their trials, which are made again: they depend on the settings alone."""

    def __init__(self, harvest: Harvest, store: ResultStore, settings: EvaluationSettings) -> None:
        self._split = Split(harvest)
        self._store = store
        self._settings = settings

    def extremes(self, score: ScoreName, n: int) -> Extremes:
        """The best and the worst by a score."""
        own = self._settings.judged(score)[0]
        best = self._store.extremes(self._settings.id, score, own, n, best=True)
        worst = self._store.extremes(self._settings.id, score, own, 2 * n, best=False)
        return Extremes(
            score=score,
            best=[self.component(key, score) for key in best],
            worst=[self.component(key, score) for key in worst if key not in best][:n],
        )

    def component(self, key: str, score: ScoreName) -> ShownComponent:
        """One that has a score."""
        settings = self._settings
        first, *others = settings.judged(score)
        own = self._store.score(settings.id, key, score, first)
        assert own is not None
        seen = seen_rows(self._split.harvest, own.key, own.origin)
        made = make_trials(self._split, key, score, max(1, len(own.trials)), settings.seed, seen).trials
        by_id = {trial.id: trial for trial in made}
        rows = (self._store.trial(settings.id, *pair) for pair in own.trials)
        baselines: dict[Judged, float | None] = {}
        for judged in others:
            found = self._store.score(settings.id, key, score, judged)
            baselines[judged] = None if found is None else found.value
        return ShownComponent(
            own=own,
            label=None if own.label is None else shown_label(own.label),
            baselines=baselines,
            trials=[self._trial(by_id[row.trial], row) for row in rows if row is not None and row.trial in by_id],
        )

    def _trial(self, trial: Trial, row: TrialRow) -> ShownTrial:
        texts = window_texts(trial, self._split.harvest.token_texts)
        windows = _intruder(texts, trial, row) if trial.score == "intruder" else _judged(texts, trial, row)
        return ShownTrial(trial=row.trial, model=row.model, dollars=row.dollars, reason=row.reason, windows=windows)


def _intruder(texts: Sequence[str], trial: Trial, row: TrialRow) -> list[ShownWindow]:
    named = int(row.graded[0][1]) if row.graded else None
    return [
        ShownWindow(
            text=text,
            truth="intruder" if true else "own",
            said="–" if named is None else "intruder" if named == at else "",
            right=None if named is None or not (true or named == at) else true and named == at,
        )
        for at, (text, true) in enumerate(zip(texts, trial.truth, strict=True))
    ]


def _judged(texts: Sequence[str], trial: Trial, row: TrialRow) -> list[ShownWindow]:
    if trial.score == "simulation":
        return [_simulated(texts[0], row)]
    yes, no = ("fires", "silent") if trial.score == "detection" else ("right marks", "wrong marks")
    answers = [None] * len(texts) if row.graded is None else [answer == 1 for _, answer in row.graded]
    return [
        ShownWindow(
            text=text,
            truth=yes if true else no,
            said="–" if said is None else yes if said else no,
            right=None if said is None else said == true,
        )
        for text, true, said in zip(texts, trial.truth, answers, strict=True)
    ]


def _simulated(text: str, row: TrialRow) -> ShownWindow:
    pairs = row.graded or []
    levels = [" ".join(f"{pair[side]:.0f}" for pair in pairs) or "–" for side in (0, 1)]
    return ShownWindow(text=text, truth=levels[0], said=levels[1], right=None)
