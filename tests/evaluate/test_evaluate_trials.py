"""Rules 2 to 5: negatives, marked tokens, like density, seeds. Checked against the made-up activations themselves."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from evaluation_harvests import CONTEXT, RATES, MadeUp, write_made_up

from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.negatives import NEGATIVE_KINDS
from spd_tools.evaluate.trials import MIN_TRIALS, SCORES, ScoreName, Trial, Trials, make_trials

SPARSE = [3, 4, 5, 7]
DENSE = [9, 10, 11]
LAST = 13
"""Always on."""
DEAD = 14


@pytest.fixture(scope="module")
def made(made_up: MadeUp) -> dict[tuple[int, ScoreName], Trials]:
    """(component, score) -> up to 20 trials."""
    split = made_up.split
    return {
        (component, score): make_trials(split, made_up.harvest.keys.key(component), score, 20)
        for component in range(len(RATES))
        for score in SCORES
    }


def all_trials(made: dict[tuple[int, ScoreName], Trials], score: ScoreName) -> list[tuple[int, Trial]]:
    found = [(component, trial) for (component, of), trials in made.items() if of == score for trial in trials.trials]
    assert len(found) > 50
    return found


def fires(made_up: MadeUp, component: int, window, place: int) -> bool:
    at = window.start + place
    return made_up.given.counts(window.row, at) and made_up.given.fires(window.row, at, component)


def fires_anywhere(made_up: MadeUp, component: int, window) -> bool:
    return any(fires(made_up, component, window, place) for place in range(len(window.token_ids)))


# --- all scores -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_windows_hold_what_stands_in_scoring_rows_of_the_log(made_up: MadeUp, made, score):
    split, logged = made_up.split, set(made_up.counted.logged_rows)
    for _, trial in all_trials(made, score):
        for window in trial.windows:
            assert window.row in logged
            assert split.scoring(window.row)
            assert window.row_id == made_up.harvest.row_ids[window.row]
            assert tuple(window.token_ids) == made_up.text(window.row, window.position)
            assert window.start == max(0, window.position - CONTEXT)
            component = made_up.harvest.keys.flat(window.key)
            for place, firing in enumerate(window.fires):
                counted = made_up.given.counts(window.row, window.start + place)
                assert firing is (fires(made_up, component, window, place) if counted else None)


@pytest.mark.parametrize("score", SCORES)
def test_nothing_marked_is_excluded_or_padding(made_up: MadeUp, made, score):
    for _, trial in all_trials(made, score):
        for window, marks in zip(trial.windows, trial.marks, strict=True):
            for place in [window.marked, *marks]:
                assert made_up.given.counts(window.row, window.start + place)


@pytest.mark.parametrize("score", SCORES)
def test_no_text_comes_twice_and_windows_of_a_trial_do_not_hold_each_others_marked_token(made, score):
    for trials in made.values():
        texts = [tuple(window.token_ids) for trial in trials.trials for window in trial.windows]
        assert len(texts) == len(set(texts))
        for trial in trials.trials:
            for one, other in itertools.combinations(trial.windows, 2):
                assert one.row != other.row or abs(one.position - other.position) > CONTEXT


@pytest.mark.parametrize("score", SCORES)
def test_the_same_seed_gives_the_same_trials_whatever_was_made_before(made_up: MadeUp, made, score):
    for component in [*SPARSE, *DENSE]:
        key = made_up.harvest.keys.key(component)
        assert make_trials(made_up.split, key, score, 20) == made[component, score]


@pytest.mark.parametrize("score", SCORES)
def test_the_first_trials_do_not_depend_on_how_many_are_made(made_up: MadeUp, made, score):
    split = made_up.split
    for component in [*SPARSE, *DENSE]:
        twenty = made[component, score].trials
        for k in (1, 2, 5, 11):
            assert make_trials(split, made_up.harvest.keys.key(component), score, k).trials == twenty[:k]


@pytest.mark.parametrize("score", SCORES)
def test_another_seed_gives_other_trials(made_up: MadeUp, made, score):
    trials = make_trials(made_up.split, made_up.harvest.keys.key(10), score, 20, seed=1).trials
    # A simulation is one window, and the same one may come up again.
    again = {trial.id for trial in trials} & {trial.id for trial in made[10, score].trials}
    assert len(again) <= (5 if score == "simulation" else 0)


def test_ids_are_unique_and_survive_json(made):
    trials = [trial for each in made.values() for trial in each.trials]
    assert len({trial.id for trial in trials}) == len(trials)
    for trial in trials:
        assert Trial.model_validate_json(trial.model_dump_json()) == trial


# --- rule 3 ---------------------------------------------------------------------------------------------------------


def test_the_marked_token_is_the_one_that_fired_also_at_the_ends_of_rows(made_up: MadeUp, made):
    at_start = at_end = 0
    for component, trial in all_trials(made, "detection"):
        for window, marks, truth in zip(trial.windows, trial.marks, trial.truth, strict=True):
            assert marks == [window.marked]
            assert fires(made_up, component, window, window.marked) is truth
            if truth:
                at_start += window.position == 0
                at_end += window.position == made_up.given.lengths[window.row] - 1
    assert at_start > 3
    assert at_end > 3


# --- detection, rule 2 ----------------------------------------------------------------------------------------------


def test_detection_shows_five_and_five_in_an_order_that_tells_nothing(made):
    orders = {tuple(trial.truth) for _, trial in all_trials(made, "detection")}
    assert all(sum(order) == 5 and len(order) == 10 for order in orders)
    assert len(orders) > 40


def test_negatives_of_sparse_components_are_silent_from_end_to_end(made_up: MadeUp, made):
    for component, trial in all_trials(made, "detection"):
        sparse = made_up.counted.n[component] / made_up.counted.n_tokens < 0.02
        assert sparse == (not trial.notes)
        for window, truth in zip(trial.windows, trial.truth, strict=True):
            if sparse and not truth:
                assert not fires_anywhere(made_up, component, window)


def test_negatives_of_dense_components_may_fire_elsewhere_and_the_trial_says_so(made_up: MadeUp, made):
    trials = made[11, "detection"]
    assert "not the whole window" in trials.notes[0]
    windows = [w for trial in trials.trials for w, truth in zip(trial.windows, trial.truth, strict=True) if not truth]
    assert any(fires_anywhere(made_up, 11, window) for window in windows)


@pytest.mark.parametrize("component", [*SPARSE, *DENSE])
def test_negatives_are_of_three_kinds_and_are_what_they_are_called(made_up: MadeUp, made, component):
    trials = made[component, "detection"].trials
    own_tokens = {
        int(made_up.given.tokens[row, at]) for row, at in made_up.counted.log[component] if made_up.split.scoring(row)
    }
    partners = [other for other in range(len(RATES)) if made_up.counted.n_ij(component, other) and other != component]
    kinds = []
    for trial in trials:
        for window, truth, kind in zip(trial.windows, trial.truth, trial.negative_kinds, strict=True):
            assert (kind is None) == truth
            kinds += [kind] if kind else []
            if kind == "same token":
                assert window.token_ids[window.marked] in own_tokens
            if kind == "co-firing":
                assert any(fires(made_up, other, window, window.marked) for other in partners)
    counts = [kinds.count(kind) for kind in NEGATIVE_KINDS]
    assert len(kinds) == 5 * len(trials) == sum(counts)
    assert min(counts) > 0.6 * max(counts)


def test_the_kind_that_there_is_none_of_is_stood_in_for(made_up: MadeUp, tmp_path):
    # A component that fires on every token 7 and nowhere else is never silent on a token of its own.
    given = made_up.given
    tokens = given.tokens
    component = int(RATES.index(0.018))
    importance = given.activations[given.gating].copy()
    importance[..., component] = tokens == 7
    changed = write_made_up(tmp_path / "store", importance=importance)
    trials = make_trials(changed.split, changed.harvest.keys.key(component), "detection", 10).trials
    assert len(trials) >= MIN_TRIALS
    assert {kind for trial in trials for kind in trial.negative_kinds} == {None, "random", "co-firing"}


# --- fuzzing --------------------------------------------------------------------------------------------------------


def test_fuzzing_marks_all_firings_or_as_many_silent_tokens(made_up: MadeUp, made):
    sizes = set()
    for component, trial in all_trials(made, "fuzzing"):
        assert sum(trial.truth) == 5
        assert len(trial.truth) == 10
        for window, marks, right in zip(trial.windows, trial.marks, trial.truth, strict=True):
            true = [place for place in range(len(window.token_ids)) if fires(made_up, component, window, place)]
            assert true, "it is a window of the component"
            assert window.marked in marks
            assert len(marks) == len(set(marks)) == len(true)
            assert marks == true if right else not set(marks) & set(true)
            sizes.add((right, len(marks)))
    assert {(False, 1), (False, 2), (True, 1), (True, 2)} <= sizes


# --- intruder, rule 4 -----------------------------------------------------------------------------------------------


def test_the_intruder_is_another_component_in_whose_window_this_one_is_silent(made_up: MadeUp, made):
    for component, trial in all_trials(made, "intruder"):
        assert len(trial.windows) == 5
        assert sum(trial.truth) == 1
        for window, marks, intruder in zip(trial.windows, trial.marks, trial.truth, strict=True):
            flat = made_up.harvest.keys.flat(window.key)
            assert (flat != component) == intruder
            assert marks == [place for place in range(len(window.token_ids)) if fires(made_up, flat, window, place)]
            assert window.marked in marks
            if intruder:
                assert not fires_anywhere(made_up, component, window)


def test_intruders_are_of_like_density_or_the_trial_says_so(made_up: MadeUp, made):
    seen = set()
    for component, trial in all_trials(made, "intruder"):
        other = made_up.harvest.keys.flat(trial.windows[trial.truth.index(True)].key)
        like = 0.5 <= made_up.counted.n[other] / made_up.counted.n[component] <= 2
        assert like == (not trial.notes)
        assert like or str(trial.windows[trial.truth.index(True)].key) in trial.notes[0]
        seen.add(like)
    assert seen == {True, False}


def test_intruders_vary(made):
    trials = made[7, "intruder"].trials
    assert len({trial.windows[trial.truth.index(True)].key for trial in trials}) > 2


def test_the_intruder_stands_anywhere(made):
    places = [trial.truth.index(True) for _, trial in all_trials(made, "intruder")]
    assert min(places.count(place) for place in range(5)) > 0.1 * len(places)


# --- simulation -----------------------------------------------------------------------------------------------------


def test_simulation_has_the_level_of_every_token(made_up: MadeUp, made):
    ranking = made_up.given.activations[made_up.given.ranking]
    for component, trial in all_trials(made, "simulation"):
        [window] = trial.windows
        logged = [abs(float(ranking[row, at, component])) for row, at in made_up.counted.log[component]]
        most = np.float32(np.percentile(logged, 99.5))
        for place, level in enumerate(trial.levels):
            at = window.start + place
            if not made_up.given.counts(window.row, at):
                assert level is None
            elif made_up.given.fires(window.row, at, component):
                assert level == pytest.approx(min(10, 10 * abs(float(ranking[window.row, at, component])) / most))
            else:
                assert level == 0


def test_ten_simulations_are_one_of_each_decile_and_five_are_spread(made_up: MadeUp, made):
    trials = made[10, "simulation"].trials
    assert sorted(trial.decile for trial in trials[:10]) == list(range(10))
    assert {trial.decile // 2 for trial in trials[:5]} >= {0, 1, 2, 3, 4} - {trials[5].decile // 2}
    ranking = made_up.given.activations[made_up.given.ranking][..., 10]
    seq = made_up.given.tokens.shape[1]
    magnitudes = np.sort(
        [abs(ranking[divmod(at, seq)]) for at in made_up.split.scoring_firings("h.1.mlp.c_fc:0").tolist()]
    )
    for trial in trials:
        magnitude = abs(ranking[trial.windows[0].row, trial.windows[0].position])
        rank = int(np.searchsorted(magnitudes, magnitude))
        assert trial.decile == rank * 10 // len(magnitudes)


# --- too few --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", SCORES)
def test_too_few_firings_give_a_reason(made, score):
    trials = made[DEAD, score]
    assert not trials.trials
    assert trials.reason == (
        f"{trials.key} has material for only 0 of the 5 trials that a score needs: the log's scoring rows hold 0 of "
        "its firings, and trials share no window."
    )


@pytest.mark.parametrize("score", ["detection", "fuzzing", "intruder"])
def test_what_always_fires_has_no_negatives_and_says_so(made, score):
    assert not made[LAST, score].trials
    assert made[LAST, score].reason.endswith(".")


def test_fewer_trials_than_asked_for_are_still_a_score_if_there_are_five(made):
    numbers = {len(trials.trials): trials.reason for trials in made.values()}
    assert any(MIN_TRIALS <= n < 20 for n in numbers)
    for n, reason in numbers.items():
        assert (reason is None) == (n >= MIN_TRIALS)


def test_a_harvest_without_a_log_gives_a_reason(tmp_path):
    without = write_made_up(tmp_path / "store", log_share=0.0, rows=20)
    trials = make_trials(without.split, without.harvest.keys.key(5), "detection", 5)
    assert not trials.trials
    assert trials.reason == "The harvest has no firing log to take windows from; harvest again with a log."


@pytest.mark.parametrize(("score", "n", "said"), [("guessing", 5, "no score"), ("detection", 0, "at least 1")])
def test_impossible_trials_are_refused(made_up: MadeUp, score, n, said):
    with pytest.raises(SpdToolsError, match=said):
        make_trials(made_up.split, made_up.harvest.keys.key(0), score, n)
