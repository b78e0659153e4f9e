import math

import pytest

from spd_tools.render.numbers import count, density, logarithm, number, percent, size


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0.0, "0"), (1.2345, "1.23"), (123.4, "123"), (-0.01234, "-0.0123"), (1e-5, "1.00e-05")],
)
def test_number(value, shown):
    assert number(value) == shown


def test_minus_infinity_is_shown_as_such():
    assert (number(-math.inf), logarithm(-math.inf)) == ("−∞", "−∞")


def test_logarithm_has_a_sign_but_no_negative_zero():
    assert (logarithm(0.519), logarithm(-2), logarithm(-0.001)) == ("+0.52", "-2.00", "+0.00")


def test_counts_are_grouped_and_masses_keep_a_digit():
    assert (count(12345), count(2.53), count(12345.6)) == ("12,345", "2.5", "12,346")


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0, "0 %"), (1, "100 %"), (0.9999, "99.9 %"), (0.012, "1.2 %"), (0.00005, "0.005 %"), (1e-8, "1e-06 %")],
)
def test_percent_never_rounds_to_none_or_all(share, shown):
    assert percent(share) == shown


def test_density_says_one_in_so_many():
    assert density(0.0120) == "1 in 83 tokens (1.2 %)"


def test_density_of_what_fires_mostly():
    assert density(0.75) == "75.0 % of all tokens"


def test_size_is_decimal():
    assert (size(999), size(608_600), size(3 * 10**12)) == ("999 B", "608.6 kB", "3.0 TB")
