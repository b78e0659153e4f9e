import pytest
from pydantic import ValidationError

from spd_tools.launch.graph import Graph, Step


def steps(**after):
    return [Step(name=name, kind="some", after=parents) for name, parents in after.items()]


def test_dependents_are_found_through_others():
    graph = Graph(steps=steps(a=(), b=("a",), c=("b",), d=()))
    assert graph.dependents(["a"]) == {"b", "c"}
    assert graph.dependents(["b", "d"]) == {"c"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (steps(a=("b",), b=()), "no earlier step is called"),
        (steps(a=("a",)), "no earlier step is called"),
        (steps(a=()) * 2, "two steps are called a"),
        ([Step(name="a", kind="k"), Step(name="b", kind="k", after=("a",), here=True)], "before anything is queued"),
    ],
)
def test_an_impossible_order_is_refused(given, said):
    with pytest.raises(ValidationError, match=said):
        Graph(steps=given)


@pytest.mark.parametrize("name", ["", "A", "../x", "a/b", "a b", "-a"])
def test_names_are_names_of_files(name):
    with pytest.raises(ValidationError):
        Step(name=name, kind="some")
