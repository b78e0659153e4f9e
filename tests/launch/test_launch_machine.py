"""GPUs of one machine, shared by jobs that know nothing of each other."""

import pytest
from forks import Fork, wait_until

from spd_tools.launch.machine import GpuPool, gpu_lock, hold_gpus, visible_gpus


@pytest.mark.parametrize(
    ("value", "gpus"), [("", ()), ("-1", ()), ("0,2", ("0", "2")), ("GPU-5e1f, MIG-1", ("GPU-5e1f", "MIG-1"))]
)
def test_gpus_are_what_the_variable_says(monkeypatch, value, gpus):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_gpus() == gpus


def test_a_pool_hands_out_no_gpu_twice_and_none_of_another_pool(tmp_path):
    first, second = (GpuPool(("0", "1", "2"), tmp_path) for _ in range(2))
    assert first.take(2) == ("0", "1")
    assert second.take(2) is None
    assert second.take(1) == ("2",)
    assert first.take(1) is None
    first.give_back(("0", "1"))
    assert second.take(2) == ("0", "1")


def test_what_could_not_be_taken_whole_is_left_to_others(tmp_path):
    first, second = (GpuPool(("0", "1"), tmp_path) for _ in range(2))
    assert first.take(1) == ("0",)
    assert second.take(2) is None
    assert first.take(1) == ("1",)


def test_a_gpu_is_its_tasks_after_the_pool_let_go_of_it(tmp_path):
    first, second = (GpuPool(("0",), tmp_path) for _ in range(2))
    start, go, held_now = tmp_path / "start", tmp_path / "go", tmp_path / "held"

    def task():
        wait_until(start.exists)
        held = hold_gpus(tmp_path, "0")
        held_now.touch()
        wait_until(go.exists)
        return len(held) - 1

    process = Fork(task)  # before there is a lock that it would inherit
    taken = first.take(1)
    start.touch()
    assert not held_now.exists()
    first.hand_over(taken)
    first.hand_over(taken)
    wait_until(held_now.exists)
    assert second.take(1) is None
    go.touch()
    assert process.wait() == 0
    assert second.take(1) == ("0",)


@pytest.mark.parametrize("name", ["../../x", "MIG-GPU-1/2/0", "0"])
def test_the_name_of_a_gpu_leads_nowhere_else(tmp_path, name):
    assert gpu_lock(tmp_path, name).parent == gpu_lock(tmp_path, "0").parent


def test_a_machine_without_gpus_has_none_to_wait_for(tmp_path):
    assert GpuPool((), tmp_path).take(4) == ()
    assert hold_gpus(tmp_path, "") == []
    assert list(tmp_path.iterdir()) == []
