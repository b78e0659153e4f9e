"""What is asked by several processes at once is paid for once: by hand, by pipelines, and by both."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections import Counter

import pytest
from launch.forks import Fork, close_locks, ended, wait_until
from test_pipeline_run import KEYS, SMALL, config, is_labelling, start

from spd_tools.annotations import Annotations
from spd_tools.cli import main
from spd_tools.evaluate.trials import MIN_TRIALS
from spd_tools.launch.folder import JobFolder
from spd_tools.llm import alone
from spd_tools.store.reader import open_harvest

INTERPRET = ("interpret", "planted", "--keys", *KEYS)
EVALUATE = ("evaluate", "planted", "--keys", KEYS[0], "--trials", MIN_TRIALS, "--no-baselines")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(alone, "LOOK_SECONDS", 0.01)


@pytest.fixture
def held(serve):
    """A stand-in whose answers are on their way until an event is set: (stand-in, that of labels, that of scores)."""
    labels, scores = threading.Event(), threading.Event()

    def rule(asked, honest):
        assert (labels if is_labelling(asked) else scores).wait(60)
        return honest(asked)

    yield serve(rule), labels, scores
    labels.set()
    scores.set()


@pytest.fixture
def type_in(tmp_path):
    """Type a command in a process of its own: (process, file of what it prints)."""
    processes = []

    def type_in(*argv):
        said = tmp_path / f"said-{len(processes)}"
        said.touch()

        def run():
            close_locks()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            file = os.open(said, os.O_WRONLY)
            os.dup2(file, 1)
            os.dup2(file, 2)
            return main([*map(str, argv), "--json"])

        processes.append(Fork(run))
        return processes[-1], said

    yield type_in
    for process in processes:
        process.send_signal(signal.SIGKILL)


def prompts(api):
    return Counter(prompt for prompt, *_ in api.billed_tokens)


def is_waiting(said):
    return "waiting for it" in said.read_text()


def report(said):
    """The JSON document behind the remarks."""
    text = said.read_text()
    return json.loads(text[text.index("{") :])


def test_two_that_label_the_same_by_hand_pay_once(held, type_in, planted):
    api, labels, _ = held
    first, _ = type_in(*INTERPRET)
    wait_until(lambda: api.asked)
    second, said = type_in(*INTERPRET)
    wait_until(lambda: is_waiting(said))
    assert f"Process {first.pid} on " in said.read_text()
    labels.set()
    assert (first.wait(), second.wait()) == (0, 0)
    assert sorted(prompts(api).values()) == [1, 1]
    found = report(said)
    assert (found["n_known"], found["n_labelled"], found["dollars"]) == (2, 0, 0)


def test_a_pipeline_and_commands_by_hand_pay_once(held, type_in, planted):
    """The pipeline waits for labels that are made by hand; then scores by hand wait for the pipeline's."""
    api, labels, scores = held
    labelling, _ = type_in(*INTERPRET)
    wait_until(lambda: api.asked)
    evals = {"detection": SMALL | {"keys": KEYS[:1], "baselines": False}, "fuzzing": None}
    job = start(config(intruder=None, interpret={"keys": KEYS, "evals": evals}))
    log = JobFolder(job.folder).log("interpret", 0)
    wait_until(lambda: log.exists() and is_waiting(log))
    labels.set()
    assert labelling.wait() == 0
    wait_until(lambda: len(api.asked) > 2)  # the first of the pipeline's scores
    scoring, said = type_in(*EVALUATE, "--score", "detection,fuzzing")
    wait_until(lambda: is_waiting(said))
    scores.set()
    assert scoring.wait() == 0
    job = ended(job)
    assert job.step("interpret").tasks[0].result["n_known"] == 2
    assert (job.status, job.result["n_scored"]) == ("finished", 1)
    assert report(said)["summary"]["n_scored"] == 2
    assert set(prompts(api).values()) == {1}
    assert len(api.billed_tokens) == 2 + 2 * MIN_TRIALS


def test_nobody_waits_for_a_process_that_was_killed_and_who_waits_can_be_interrupted(held, type_in, planted):
    api, labels, _ = held
    first, _ = type_in(*INTERPRET)
    wait_until(lambda: api.asked)
    waiting = [type_in(*INTERPRET) for _ in range(2)]
    for _, said in waiting:
        wait_until(lambda said=said: is_waiting(said))
    (interrupted, _), (patient, _) = waiting
    interrupted.send_signal(signal.SIGINT)
    assert interrupted.wait() == 130
    assert patient.poll() is None
    first.send_signal(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    labels.set()
    assert patient.wait() == 0
    assert all(Annotations.of(open_harvest("planted")).label(key) is not None for key in KEYS)
