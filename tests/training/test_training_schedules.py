import pytest
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.training.schedules import Schedule, annealed


def rates(steps=11, **fields):
    schedule = Schedule(start_val=2.0, **fields)
    return [schedule.at(step, steps) for step in range(steps)]


def test_constant():
    assert rates() == [2.0] * 11


def test_linear_ends_at_its_final_value():
    assert rates(fn_type="linear", final_val_frac=0.5) == pytest.approx([2.0 - 0.1 * step for step in range(11)])


def test_cosine_is_half_way_in_the_middle():
    found = rates(fn_type="cosine", final_val_frac=0.1)
    assert found[0] == 2.0
    assert found[5] == pytest.approx(1.1)
    assert found[-1] == pytest.approx(0.2)


def test_the_warm_up_rises_linearly_and_never_stands_at_zero():
    assert rates(warmup_pct=0.3)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_decay_begins_after_the_warm_up():
    found = rates(warmup_pct=0.3, fn_type="linear", final_val_frac=0.0)
    assert found[3] == 2.0
    assert found[-1] == 0.0


@given(
    steps=st.integers(1, 40),
    warmup=st.floats(0, 0.9),
    final=st.floats(0, 1),
    kind=st.sampled_from(["linear", "cosine"]),
)
def test_rates_lie_between_zero_and_the_start_value_and_fall_after_the_warm_up(steps, warmup, final, kind):
    schedule = Schedule(start_val=1.0, warmup_pct=warmup, final_val_frac=final, fn_type=kind)
    found = [schedule.at(step, steps) for step in range(steps)]
    assert all(0 <= rate <= 1 for rate in found)
    after = found[int(warmup * steps) :]
    assert after == sorted(after, reverse=True)


@pytest.mark.parametrize(("done", "expected"), [(0, 2.0), (0.2, 2.0), (0.4, 1.6), (0.7, 1.0), (1, 1.0)])
def test_annealing_is_linear_between_its_ends(done, expected):
    assert annealed(2.0, 1.0, 0.2, 0.7, done) == pytest.approx(expected)


def test_without_a_final_value_nothing_moves():
    assert annealed(2.0, None, 0.0, 1.0, 0.5) == 2.0
