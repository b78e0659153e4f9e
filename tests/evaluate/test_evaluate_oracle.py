"""Judges that know the planted rules and see nothing but a trial's windows: true rules score well, noise does not."""

from __future__ import annotations

from collections import Counter

import pytest
from evaluation_harvests import Planted

from spd_tools.evaluate.draws import draw, state_of
from spd_tools.evaluate.statistics import Score, grade, planned_looks, score_of
from spd_tools.evaluate.trials import ScoreName, Trial, make_trials
from spd_tools.evaluate.windows import Window

LOCAL = ("token", "previous", "bigram", "gate", "conjunction", "category", "tail_marker", "polarity", "duplicate")
"""Kinds of rules that a window is enough for: nothing in them counts positions from the start of the row."""
KINDS = (*LOCAL, "reader", "suppressor")
N_TRIALS = 20
RANDOM = ("random", "random-rare", "late-random")


def local_rules(planted: Planted) -> list:
    return [rule for rule in planted.decomposition.rules.values() if rule.kind in KINDS]


def score(planted: Planted, key: str, name: ScoreName, judge, n_trials: int = N_TRIALS) -> Score | None:
    trials = make_trials(planted.split, key, name, n_trials)
    if trials.reason:
        return None
    answers = [grade(trial, judge(trial)) for trial in trials.trials]
    return score_of(name, answers, planned_looks(len(answers), early_stopping=False))


def explains(rule, window: Window, marks: list[int]) -> bool:
    return all(rule.fires(window.token_ids, place) for place in marks)


def by_rule(rule):
    """Detection and fuzzing: yes where the label's rule fires on all that is marked."""
    return lambda trial: [explains(rule, w, marks) for w, marks in zip(trial.windows, trial.marks, strict=True)]


def by_any_rule(rules):
    """Intruder, without a label: find the rule that explains four windows and not the fifth; else guess."""

    def judge(trial: Trial) -> int:
        votes: Counter[int] = Counter()
        for rule in rules:
            odd = [
                at for at, (w, m) in enumerate(zip(trial.windows, trial.marks, strict=True)) if not explains(rule, w, m)
            ]
            votes[odd[0] if len(odd) == 1 else -1] += 1
        votes.pop(-1, None)
        return votes.most_common(1)[0][0] if votes else int(draw(state_of("guess", trial.id), 1, 5)[0])

    return judge


@pytest.mark.parametrize("name", ["detection", "fuzzing"])
def test_true_rules_score_high(planted: Planted, name: ScoreName):
    scores = {rule.name: score(planted, rule.key, name, by_rule(rule)) for rule in local_rules(planted)}
    values = {rule: found.value for rule, found in scores.items() if found}
    assert len(values) > 30
    assert {rule: value for rule, value in values.items() if value < 0.95} == {}


@pytest.mark.parametrize("name", ["detection", "fuzzing"])
def test_rules_of_others_score_at_chance(planted: Planted, name: ScoreName):
    """No rule shares a token with the component's own."""
    values = []
    rules = local_rules(planted)
    for rule in rules:
        strangers = [other for other in rules if not set(other.tokens) & set(rule.tokens)]
        stranger = strangers[int(draw(state_of(rule.key), 1, len(strangers))[0])]
        found = score(planted, rule.key, name, by_rule(stranger))
        values += [found.value] if found else []
    mean = sum(values) / len(values)
    error = (sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values)) ** 0.5
    assert abs(mean - 0.5) <= max(3 * error, 0.03)


def test_intruders_among_windows_of_a_rule_are_found(planted: Planted):
    rules = local_rules(planted)
    values = {
        rule.name: found.value for rule in rules if (found := score(planted, rule.key, "intruder", by_any_rule(rules)))
    }
    assert len(values) > 30
    assert sum(values.values()) / len(values) >= 0.95
    assert {rule: value for rule, value in values.items() if value < 0.8} == {}


def test_intruders_among_windows_of_what_fires_at_random_are_not(planted: Planted):
    rules = local_rules(planted)
    for name in RANDOM:
        found = score(planted, planted.decomposition.rule(name).key, "intruder", by_any_rule(rules), 100)
        assert found is not None
        assert found.low <= found.chance <= found.high


def test_the_true_levels_simulate_perfectly(planted: Planted):
    rule = planted.decomposition.rule("late-tail-marker")
    most = planted.split.harvest.component(rule.key).effective_max

    def judge(trial: Trial) -> list[float]:
        [window] = trial.windows
        levels = [abs(rule.activation(window.token_ids, place)) for place in range(len(window.token_ids))]
        return [min(10, 10 * level / most) for level in levels]

    found = score(planted, rule.key, "simulation", judge)
    assert found is not None
    assert found.value > 0.99


def test_the_first_token_of_a_row_is_marked_where_it_is_what_fires(planted: Planted):
    key = planted.decomposition.rule("first-position").key
    for trial in make_trials(planted.split, key, "detection", N_TRIALS).trials:
        for window, truth in zip(trial.windows, trial.truth, strict=True):
            assert truth == (window.start == window.marked == 0)
