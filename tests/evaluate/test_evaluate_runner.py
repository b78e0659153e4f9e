"""Evaluations from the first call to the last score, over real HTTP, with judges that know the truth or nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from labelling import interpreted
from llm.stand_in import Drop, Refuse, Say

from spd_tools.annotations import LabelDraft
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.courses import Courses
from spd_tools.evaluate.origins import LabelOrigin, seen_rows
from spd_tools.evaluate.plan import settings_of
from spd_tools.evaluate.records import BASELINES
from spd_tools.evaluate.results import ResultStore
from spd_tools.evaluate.runner import Evaluation
from spd_tools.evaluate.trials import make_trials
from spd_tools.keys import ComponentKey
from spd_tools.llm import BatchSettings

PROCESS = Path(__file__).with_name("evaluation_process.py")
ALL = ("intruder", "detection", "fuzzing", "simulation")


def rows(store, settings):
    """Everything that an evaluation has found, without what differs from run to run."""
    found = {}
    for score in settings.scores:
        for judged in settings.judged(score):
            for key in settings.keys:
                row = store.score(settings.id, key, score, judged)
                assert row is not None
                trials = [store.trial(settings.id, *pair) for pair in row.trials]
                varying = {"time", "seconds", "request_id"}
                found[key, score, judged] = row, [trial.model_dump(exclude=varying) for trial in trials if trial]
    return found


def test_true_labels_score_high_and_their_baselines_do_not(serve, honest, run, planted, keys, notes, ledger):
    serve(honest)
    for key in keys:
        interpreted(planted.split.harvest, notes, ledger, key, planted.decomposition.rules[key].description)
    settings, summary = run(keys=keys, scores=ALL)
    assert (summary.n_components, summary.n_scored, summary.n_unscored, summary.n_left) == (3, 12, 0, 0)
    scores = notes.scores()
    assert sorted((str(score.key), score.method) for score in scores) == sorted((k, s) for k in keys for s in ALL)
    for score in scores:
        assert score.value >= (0.9 if score.method == "simulation" else 0.95)
        assert score.low <= score.value <= score.high
        assert (score.n, score.author, score.details["judge"]) == (6, settings.model, settings.model)
        assert score.label_version == (None if score.method == "intruder" else 2)
        assert set(score.details["baselines"]) == (set() if score.method == "intruder" else set(BASELINES))
        if score.method in ("detection", "fuzzing"):
            baselines = score.details["baselines"]
            assert baselines["another"]["value"] == pytest.approx(0.5, abs=0.1)
            assert baselines["another"]["label_of"] in set(keys) - {str(score.key)}
            assert baselines["empty"]["value"] == pytest.approx(0.5, abs=0.25)
            assert baselines["top_tokens"]["label"].startswith("top tokens")


def test_every_trial_is_a_row(serve, honest, run, keys, store, ledger):
    serve(honest)
    settings, _ = run(keys=keys[:1], scores=("detection",), baselines=False)
    row = store.score(settings.id, keys[0], "detection", "label")
    calls = {call.hash: call for call in ledger.calls()}
    assert len(row.trials) == len(calls) == 6
    for trial_id, call in row.trials:
        trial = store.trial(settings.id, trial_id, call)
        asked = calls[call]
        assert (trial.state, trial.reason) == ("graded", None)
        assert (trial.model, trial.usage, trial.dollars) == (asked.served, asked.usage, asked.dollars)
        assert (trial.seconds, trial.request_id) == (asked.seconds, asked.request_id)
        assert json.loads(trial.answer) == json.loads(asked.answer)
        assert len(trial.graded) == 10
        assert trial.dollars > 0


def test_the_same_again_asks_nothing_and_changes_nothing(serve, honest, run, keys, notes, store):
    api = serve(honest)
    settings, _ = run(keys=keys, scores=("intruder", "detection"))
    before, scores, asked = rows(store, settings), notes.scores(), len(api.asked)
    _, summary = run(keys=keys, scores=("intruder", "detection"))
    assert (len(api.asked), summary.n_known, summary.dollars) == (asked, 6, 0)
    assert (rows(store, settings), notes.scores()) == (before, scores)


def test_more_trials_go_on_from_the_first_ones(serve, honest, run, keys):
    api = serve(honest)
    run(keys=keys[:1], scores=("detection",), baselines=False)
    _, summary = run(keys=keys[:1], scores=("detection",), baselines=False, n_trials=8)
    assert (len(api.asked), summary.n_scored) == (8, 1)


def test_another_label_is_judged_anew(serve, honest, run, keys, notes):
    api = serve(honest)
    run(keys=keys[:1], scores=("detection",), baselines=False)
    notes.set_label(keys[0], LabelDraft(input_view="fires on nothing that the judge knows"), author="somebody")
    run(keys=keys[:1], scores=("detection",), baselines=False)
    first, second = notes.scores()
    assert (first.label_version, second.label_version) == (1, 2)
    assert first.value > second.value
    assert len(api.asked) == 12


BROKEN = {
    "refusal": Say("", stop_reason="refusal"),
    "cut off": Say('{"numbers": [1', stop_reason="max_tokens"),
    "malformed": Say("{"),
    "missing field": Say({}),
    "out of range": Say({"numbers": [11]}),
    "twice": Say({"numbers": [1, 1]}),
    "server": Refuse(500),
    "rejected": Refuse(400),
    "dropped": Drop(),
}


@pytest.mark.parametrize("reply", BROKEN.values(), ids=BROKEN)
def test_a_broken_reply_costs_its_trial_and_nothing_else(serve, honest, run, planted, keys, store, reply):
    seen = seen_rows(planted.split.harvest, ComponentKey.parse(keys[0]), LabelOrigin("truth", False, "", ()))
    trials = make_trials(planted.split, keys[0], "detection", 6, seen=seen).trials
    broken: set[str] = set()

    def rule(asked):
        if asked.prompt not in broken and len(broken) < 1:
            broken.add(asked.prompt)
        return reply if asked.prompt in broken else honest(asked)

    serve(rule)
    settings, summary = run(keys=keys[:1], scores=("detection",), baselines=False, n_trials=6)
    row = store.score(settings.id, keys[0], "detection", "label")
    assert (summary.n_scored, summary.n_failed_trials) == (1, 1)
    assert (row.n_trials, row.failed, row.value) == (5, 1, 1.0)
    assert [trial for trial, _ in row.trials] == [trial.id for trial in trials]
    states = {store.trial(settings.id, *pair).state for pair in row.trials}
    assert states == {"failed", "graded"}
    assert sum(store.failures(settings.id).values()) == 1


def test_failed_trials_are_asked_again_and_others_are_not(serve, honest, run, keys, store):
    api = serve(lambda asked: Say("", stop_reason="refusal") if len(api.asked) <= 3 else honest(asked))
    settings, summary = run(keys=keys[:1], scores=("detection",), baselines=False, max_concurrent=1)
    row = store.score(settings.id, keys[0], "detection", "label")
    assert (summary.n_scored, summary.n_unscored, row.value, row.failed) == (0, 1, None, 3)
    assert "failed" in row.reason
    assert "0" not in str(row.value)
    _, summary = run(keys=keys[:1], scores=("detection",), baselines=False)
    row = store.score(settings.id, keys[0], "detection", "label")
    assert (summary.n_scored, row.value, row.failed, row.n_trials) == (1, 1.0, 0, 6)
    assert len(api.asked) == 6 + 3
    assert store.failures(settings.id) == {}


def test_too_little_material_is_said_and_not_asked(serve, honest, run, planted, notes, store):
    api = serve(honest)
    dead = next(rule for rule in planted.decomposition.rules.values() if rule.kind == "dead")
    notes.set_label(dead.key, LabelDraft(input_view=dead.description), author="truth")
    settings, summary = run(keys=[dead.key], scores=("detection",))
    assert (summary.n_scored, summary.n_unscored, len(api.asked)) == (0, 1, 0)
    assert "material" in store.score(settings.id, dead.key, "detection", "label").reason
    assert notes.scores() == []


def test_a_component_without_a_label_has_no_score_of_it(serve, honest, run, planted, store):
    serve(honest)
    key = planted.decomposition.rule("why").key
    settings, summary = run(keys=[key], scores=("intruder", "detection"))
    assert (summary.n_scored, summary.n_unscored) == (1, 1)
    assert "no label" in store.score(settings.id, key, "detection", "label").reason


def test_a_rejected_label_is_none(run, planted, keys, notes):
    for key in keys:
        notes.set_label(key, LabelDraft(input_view="wrong", wants="rejected"), author="truth")
    with pytest.raises(SpdToolsError, match="label"):
        run(scores=("detection",))


def test_all_labelled_components_by_density(serve, honest, run, planted, keys):
    serve(honest)
    counts = planted.split.harvest.firing_counts
    settings, summary = run(scores=("detection",), baselines=False, limit=2)
    assert summary.n_components == 2
    densest = sorted(keys, key=lambda key: -counts[planted.split.harvest.keys.flat(key)])[:2]
    store = ResultStore.of(planted.split.harvest)
    assert all(store.score(settings.id, key, "detection", "label") for key in densest)


# --- budget, early stopping, batches ----------------------------------------------------------------------------------


def test_a_budget_leaves_the_rest_unscored_and_says_so(serve, honest, run, keys, store):
    api = serve(honest)
    settings, summary = run(keys=keys, scores=("detection",), baselines=False, budget=0.002, max_concurrent=1)
    assert summary.budget_exhausted
    assert 0 < summary.n_scored < 3
    assert (summary.n_scored + summary.n_left, summary.n_unscored) == (3, 0)
    assert "budget" in summary.not_sent
    unscored = [store.score(settings.id, key, "detection", "label") for key in keys]
    assert all("budget" in row.reason for row in unscored if row is not None and row.value is None)
    asked = len(api.asked)
    _, summary = run(keys=keys, scores=("detection",), baselines=False)
    assert (summary.n_scored, summary.n_left, summary.budget_exhausted) == (3, 0, False)
    assert len(api.asked) == 18
    assert asked < 18


def test_early_stopping_asks_less_of_clear_cases(serve, honest, run, keys, store):
    serve(honest)
    settings, _ = run(keys=keys, scores=("detection",), baselines=False, precision=0.2)
    clear = store.score(settings.id, keys[0], "detection", "label")
    assert clear.looks == [5, 10, 20]
    assert (clear.n_trials, clear.look, clear.value) == (5, 1, 1.0)
    assert (clear.high - clear.low) / 2 <= 0.2


def test_unclear_cases_go_on_to_the_last_look(serve, run, keys, store):
    api = serve(lambda asked: Say({"numbers": list(range(1, 1 + len(asked.prompt) % 10))}))
    settings, _ = run(keys=keys[:1], scores=("detection",), baselines=False, precision=0.01)
    row = store.score(settings.id, keys[0], "detection", "label")
    assert (row.n_trials, row.look, len(api.asked)) == (20, 3, 20)


def test_batches_give_the_same(serve, honest, run, keys, store):
    api = serve(honest)
    settings, _ = run(keys=keys, scores=("detection", "simulation"), precision=0.2, n_trials=10)
    before = rows(store, settings)
    ResultStoreFile(store).forget()
    settings, summary = run(
        keys=keys,
        scores=("detection", "simulation"),
        precision=0.2,
        n_trials=10,
        batches=BatchSettings(poll_seconds=0.01),
    )
    assert (summary.n_scored, api.n_batch_attempts > 1) == (6, True)
    after = rows(store, settings)
    assert {key: row for key, (row, _) in after.items()} == {key: row for key, (row, _) in before.items()}


class ResultStoreFile:
    """The file under a store."""

    def __init__(self, store: ResultStore) -> None:
        self._path = store._database.path

    def forget(self) -> None:
        """Everything but labels."""
        import sqlite3

        with sqlite3.connect(self._path) as connection:
            for table in ("evaluation_scores", "evaluation_trials", "llm_requests", "llm_answers", "llm_jobs"):
                connection.execute(f"DELETE FROM {table}")


def test_calls_are_made_when_they_are_asked_for(planted, notes, keys, monkeypatch):
    """However many components there are: nothing is opened before somebody has room for its calls."""
    harvest = planted.split.harvest
    settings = settings_of(harvest, keys=keys, scores=("detection",), baselines=False)
    evaluation = Evaluation(harvest, notes, settings)

    def endless():
        while True:
            yield ComponentKey.parse(keys[0]), "detection"

    courses = Courses(planted.split, settings, endless(), evaluation, print)
    calls = [next(courses) for _ in range(11)]
    assert (courses.n_opened, len({call.hash for call in calls})) == (2, 6)


def test_works_in_hand_are_bounded_in_batches(planted, notes, keys):
    harvest = planted.split.harvest
    settings = settings_of(harvest, keys=keys, scores=("detection",), baselines=False)
    works = iter([(ComponentKey.parse(key), "detection") for key in keys])
    courses = Courses(planted.split, settings, works, Evaluation(harvest, notes, settings), print, most_open=2)
    assert len(list(courses)) == 12
    assert not courses.finished


# --- killed -----------------------------------------------------------------------------------------------------------


def test_killed_and_run_again(serve, honest, planted, keys, notes, store, ledger):
    harvest = planted.split.harvest
    wanted = {"keys": keys, "scores": ["detection", "fuzzing"], "baselines": False, "n_trials": 6}
    command = [sys.executable, str(PROCESS), str(harvest.folder), json.dumps(wanted)]
    reached = threading.Event()
    stops = iter((5, 17))
    due = next(stops)

    def rule(asked):
        if len(api.asked) >= due:
            reached.set()
        return Say(honest.answer(asked.system, asked.prompt), seconds=0.02)

    api = serve(rule)
    answered: set[str] = set()
    for _ in range(2):
        process = subprocess.Popen(command)
        assert reached.wait(60)
        process.kill()
        process.wait()
        reached.clear()
        due = next(stops, 10**9)
        known = {call.hash for call in ledger.calls() if call.status == "answered"}
        assert answered <= known
        answered = known
    subprocess.run(command, check=True, timeout=60)
    sent = len(api.asked)
    assert 36 <= sent <= 36 + 2 * 4  # at most those in flight at each kill
    assert all(call.attempts == 1 for call in ledger.calls() if call.hash in answered and call.repeats == 0)
    settings = settings_of(harvest, **wanted)
    after = rows(store, settings)
    assert len(notes.scores()) == 6
    ResultStoreFile(store).forget()
    subprocess.run(command, check=True, timeout=60)
    undisturbed = rows(store, settings)
    assert {key: row for key, (row, _) in after.items()} == {key: row for key, (row, _) in undisturbed.items()}
    assert len(notes.scores()) == 6  # the same scores again
