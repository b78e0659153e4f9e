from types import SimpleNamespace

import pytest
from demo_store import KEY, OTHER

from spd_tools.investigate import corrected_p_values


class Notes:
    """Evidence as (id, key, p-value)."""

    def __init__(self, *evidence):
        self.all = [SimpleNamespace(id=id_, key=key, p_value=p_value) for id_, key, p_value in evidence]

    def list_evidence(self, key, limit):
        assert limit is None
        return [result for result in self.all if result.key == key]


def test_the_family_is_all_that_is_stored_about_the_component_shown_or_not():
    notes = Notes(("a", KEY, 0.01), ("b", KEY, 0.04), ("c", KEY, 0.02))
    assert corrected_p_values(notes, notes.all[:1]) == {"a": pytest.approx(0.03)}
    assert corrected_p_values(notes, notes.all) == pytest.approx({"a": 0.03, "b": 0.04, "c": 0.04})


def test_other_components_and_results_without_a_p_value_are_in_no_family():
    notes = Notes(("a", KEY, 0.01), ("b", OTHER, 0.02), ("c", KEY, None))
    assert corrected_p_values(notes, notes.all) == {"a": 0.01, "b": 0.02}
