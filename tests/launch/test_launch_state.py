import os
import time

import pytest
from forks import Fork, wait_until

from spd_tools.launch import state as states_module
from spd_tools.launch.state import TakenOverError, TaskFile, lives, look_at_states, read_attempts, read_states


def test_a_later_attempt_takes_over(tmp_path):
    first = TaskFile.begin(tmp_path, "work", 3, 1)
    second = TaskFile.begin(tmp_path, "work", 3, 2)
    with pytest.raises(TakenOverError, match="rank 3"):
        first.update(status="finished")
    second.update(done=1)
    assert [state.status for state in read_attempts(tmp_path, "work", 3)] == ["running", "running"]
    [state] = read_states(tmp_path, "work").values()
    assert (state.attempt, state.submission, state.done) == (2, 2, 1)


def test_ranks_do_not_disturb_each_other(tmp_path):
    files = [TaskFile.begin(tmp_path, "work", rank, 1) for rank in (0, 1)]
    for file in files:
        file.update(done=file.state.rank)
    assert {rank: state.done for rank, state in read_states(tmp_path, "work").items()} == {0: 0, 1: 1}


def test_an_attempt_lives_as_long_as_its_process(tmp_path):
    go = tmp_path / "go"

    def attempt():
        TaskFile.begin(tmp_path, "work", 0, 1)
        wait_until(go.exists)

    process = Fork(attempt)
    wait_until(lambda: read_states(tmp_path, "work"))
    state = read_states(tmp_path, "work")[0]
    assert lives(tmp_path, state)
    go.touch()
    process.wait()
    assert not lives(tmp_path, state)


def test_attempts_that_begin_at_once_get_numbers_of_their_own(tmp_path):
    processes = [Fork(lambda: TaskFile.begin(tmp_path, "work", 0, 1) and None) for _ in range(8)]
    assert [process.wait() for process in processes] == [0] * 8
    assert [state.attempt for state in read_attempts(tmp_path, "work", 0)] == list(range(1, 9))


def test_what_is_remembered_is_written_with_the_next_update(tmp_path):
    file = TaskFile.begin(tmp_path, "work", 0, 1)
    file.remember(done=7)
    assert read_states(tmp_path, "work")[0].done is None
    file.update(status="finished")
    assert read_states(tmp_path, "work")[0].done == 7


@pytest.fixture
def quiet_step(tmp_path, monkeypatch):
    """Three tasks that ended two minutes ago."""
    monkeypatch.setattr(states_module, "_MANY", 3)
    for rank in range(3):
        file = TaskFile.begin(tmp_path, "work", rank, 1)
        file.update(status="finished", done=rank)
        file.close()
    os.utime(tmp_path / "work", (time.time() - 120,) * 2)
    return tmp_path


def test_a_large_step_that_nothing_happens_in_is_read_from_one_file(quiet_step, monkeypatch):
    whole = read_states(quiet_step, "work")
    assert look_at_states(quiet_step, "work") == whole
    monkeypatch.setattr(states_module, "read_states", None)
    assert look_at_states(quiet_step, "work") == whole


def test_what_was_gathered_is_forgotten_when_something_happens(quiet_step):
    look_at_states(quiet_step, "work")
    TaskFile.begin(quiet_step, "work", 1, 2).close()
    assert look_at_states(quiet_step, "work")[1].attempt == 2


@pytest.mark.parametrize("age", [0.0, 120.0, -120.0])
def test_only_quiet_steps_are_gathered(quiet_step, age):
    os.utime(quiet_step / "work", (time.time() - age,) * 2)
    look_at_states(quiet_step, "work")
    assert (quiet_step / "work.json").exists() == (age > 60)


def test_a_damaged_gathering_is_made_anew(quiet_step):
    (quiet_step / "work.json").write_text("torn")
    assert look_at_states(quiet_step, "work") == read_states(quiet_step, "work")
    assert (quiet_step / "work.json").read_text() != "torn"
