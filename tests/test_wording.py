import pytest

from spd_tools.wording import plural


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
