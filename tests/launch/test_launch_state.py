import pytest
from forks import Fork, wait_until

from spd_tools.launch.state import TakenOverError, TaskFile, lives, read_attempts, read_states


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
