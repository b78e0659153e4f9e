import pytest
from hypothesis import given
from hypothesis import strategies as st
from planted_store import KEY, OTHER

from spd_tools.annotations.multiplicity import controls_for, corrected, holds
from spd_tools.experiments import make_request, run
from spd_tools.investigate import corrected_p_values


@pytest.fixture
def stored(investigation, subject):
    """Store a result of KEY, or of another component, with this p-value."""
    results = {key: run(subject, make_request("probe", {"key": key, "texts": ["a cat"]})) for key in (KEY, OTHER)}

    def stored(evidence_id, p_value, key=KEY):
        result = results[key].model_copy(update={"id": evidence_id, "p_value": p_value})
        return investigation.notes.add_evidence(result, author="a")

    return stored


def test_the_family_is_all_that_is_stored_about_the_component_shown_or_not(investigation, stored):
    first, *_ = [stored("a", 0.01), stored("b", 0.04), stored("c", 0.02)]
    assert corrected_p_values(investigation.notes, [first]) == {"a": pytest.approx(0.03)}
    listed = investigation.notes.list_evidence(limit=None)
    assert corrected_p_values(investigation.notes, listed) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})


def test_other_components_and_results_without_a_p_value_are_in_no_family(investigation, stored):
    every = [stored("a", 0.01), stored("b", 0.02, OTHER), stored("c", None)]
    assert corrected_p_values(investigation.notes, every) == {"a": 0.01, "b": 0.02}


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0, 1))
def test_whatever_is_tried_beside_it_makes_no_result_worth_more(p_values, another):
    """What a label's own evidence does not reach, it does not reach among everything: imports rely on it."""
    family = {str(number): p_value for number, p_value in enumerate(p_values)}
    alone, among = corrected(family), corrected({**family, "another": another})
    assert all(alone[name] <= among[name] for name in family)


@given(st.lists(st.floats(0, 1), max_size=8))
def test_as_many_controls_as_asked_for_let_one_more_result_hold(p_values):
    family = {str(number): p_value for number, p_value in enumerate(p_values)}
    best = 1 / (controls_for(len(family)) + 1)
    assert holds(corrected({**family, "new": best})["new"])


def test_what_has_no_p_value_does_not_hold():
    assert not holds(None)
