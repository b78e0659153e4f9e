import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spd_tools.decompositions.spd.sigmoids import CLAMPING, causal_importance, squashing
from spd_tools.errors import SpdToolsError

X = torch.tensor([-2.0, -0.5, 0.0, 0.25, 1.0, 3.0])


def test_lower_leaky_clamps():
    assert causal_importance(X, "lower").tolist() == [0.0, 0.0, 0.0, 0.25, 1.0, 1.0]


def test_upper_leaky_leaks_above_one():
    torch.testing.assert_close(causal_importance(X, "upper"), torch.tensor([0.0, 0.0, 0.0, 0.25, 1.0, 1.02]))


def test_lower_leaky_gradient_revives_below_zero_only_where_it_would_raise():
    x = torch.tensor([-1.0, -1.0, 0.5, 0.5, 2.0, 2.0], requires_grad=True)
    upstream = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    causal_importance(x, "lower").backward(upstream)
    torch.testing.assert_close(x.grad, torch.tensor([-0.01, 0.0, -1.0, 1.0, 0.0, 0.0]))


def test_upper_leaky_gradient():
    x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
    causal_importance(x, "upper").sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.0, 1.0, 0.01]))


@pytest.mark.parametrize(
    ("sigmoid_type", "expected"),
    [
        ("normal", torch.sigmoid(X).tolist()),
        ("hard", [0.0, 0.0, 0.0, 0.25, 1.0, 1.0]),
        ("lower_leaky_hard", [0.0, 0.0, 0.0, 0.25, 1.0, 1.0]),
        ("upper_leaky_hard", [0.0, 0.0, 0.0, 0.25, 1.0, 1.02]),
    ],
)
@pytest.mark.parametrize("bound", ["lower", "upper"])
def test_other_types_serve_as_both(sigmoid_type, expected, bound):
    torch.testing.assert_close(causal_importance(X, bound, sigmoid_type), torch.tensor(expected))


@given(st.floats(-5, 5, width=32), st.sampled_from(["leaky_hard", "normal", "hard"]))
def test_lower_bound_is_between_zero_and_one(x, sigmoid_type):
    assert 0 <= causal_importance(torch.tensor(x), "lower", sigmoid_type) <= 1


@pytest.mark.parametrize("sigmoid_type", CLAMPING)
def test_clamping_types_are_clamps(sigmoid_type):
    assert torch.equal(causal_importance(X, "lower", sigmoid_type), X.clamp(0, 1))


def test_unknown_type_is_named():
    with pytest.raises(SpdToolsError, match="'swish_hard'"):
        squashing("swish_hard", "lower")
