import pytest

from spd_tools.wording import by_number, plural, roughly


@pytest.mark.parametrize(
    ("n", "noun", "said"),
    [
        (0, "token", "0 tokens"),
        (1, "token", "1 token"),
        (8192, "token", "8,192 tokens"),
        (1, "near miss", "1 near miss"),
        (2, "near miss", "2 near misses"),
        (2, "process", "2 processes"),
    ],
)
def test_plural(n, noun, said):
    assert plural(n, noun) == said


def test_a_word_agrees_with_its_number():
    assert [by_number(n, "is", "are") for n in (0, 1, 2)] == ["are", "is", "are"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.2613, "0.26"), (178.4, "180"), (1.0, "1"), (0.00012, "0.00012"), (1849.0, "1,800"), (3.14e7, "31,000,000")],
)
def test_roughly(value, said):
    assert roughly(value) == said
