"""Experiments by name, their results as JSON, and their replays."""

from __future__ import annotations

import math

import pytest
from planted_subjects import do, key_of, planted

from spd_tools.errors import SpdToolsError
from spd_tools.experiments import EXPERIMENTS, experiment, make_request, read_result, replay, run
from spd_tools.experiments.records import Estimate, Request, Result
from spd_tools.experiments.registry import _differences

REQUESTS = {
    "probe": ("because", {"texts": ["the rain because", "row:3", "because rain"]}),
    "sweep": ("random", {"tokens": ["because", "rain"], "n_contexts": 6, "n_controls": 19}),
    "occlusion": ("random", {"n_contexts": 4, "window": 3, "n_draws": 2}),
    "minimal_context": ("bigram-city-1", {"n_contexts": 4, "n_draws": 2}),
    "position": ("late-position", {"n_contexts": 4, "n_positions": 4}),
}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_its_classes_and_says_what_its_parameters_are(name):
    found = experiment(name)
    assert issubclass(found.request, Request)
    assert issubclass(found.result, Result)
    assert found.request.model_fields["experiment"].default == name
    for field, info in found.request.model_fields.items():
        assert field == "experiment" or info.description, field


@pytest.mark.parametrize("name", REQUESTS)
def test_results_come_back_from_json_and_replay_to_the_bit(subject, name):
    rule, parameters = REQUESTS[name]
    result = do(subject, name, rule, **parameters)
    assert read_result(result.model_dump_json()) == result
    assert result.id.startswith(f"{name}-")
    again = replay(subject, result)
    assert again.same_machine
    assert again.identical
    assert again.holds
    assert again.largest_difference == 0
    assert again.result == result


@pytest.mark.parametrize("name", [name for name in REQUESTS if name != "probe"])
def test_another_seed_asks_in_other_contexts(subject, name):
    rule, parameters = REQUESTS[name]
    one, other = (do(subject, name, rule, seed=seed, **parameters) for seed in (0, 1))
    assert one.id != other.id
    assert one.model_dump(exclude={"id", "request"}) != other.model_dump(exclude={"id", "request"})


def test_a_result_from_before_controls_said_how_like_they_are_is_read(subject):
    result = do(subject, "sweep", "because", tokens=["because"], n_contexts=2, n_controls=19)
    assert result.matching is not None
    older = result.model_dump(mode="json", exclude={"matching"})
    assert read_result(older) == result.model_copy(update={"matching": None})


def test_a_replay_on_another_machine_may_differ_in_the_last_bits(subject):
    result = do(subject, "sweep", "because", tokens=["because"], n_contexts=6)
    effect = Estimate(value=result.effect.value + 1e-6, low=2, high=2, n=6)
    machine = result.machine.model_copy(update={"torch": "another"})
    near = result.model_copy(update={"effect": effect, "machine": machine, "summary": "in other digits"})
    found = replay(subject, near)
    assert not found.same_machine
    assert not found.identical
    assert found.holds
    assert found.largest_difference == pytest.approx(5e-7, rel=0.01)
    here = near.model_copy(update={"machine": result.machine})
    assert not replay(subject, here).holds
    far = near.model_copy(update={"effect": Estimate(value=2.1, low=2, high=2, n=6)})
    assert not replay(subject, far).holds
    without = near.model_copy(update={"effect": None})
    assert replay(subject, without).largest_difference == math.inf


def test_a_result_of_another_decomposition_is_not_replayed(subjects):
    result = do(subjects[0], "probe", "because", texts=["the"])
    with pytest.raises(SpdToolsError, match=r"fingerprint \w{8}\), not on .*name that harvest"):
        replay(subjects[1], result)


def test_differences_are_relative_above_one_and_infinite_between_forms():
    assert list(_differences({"a": [1.0, 200.0]}, {"a": [0.5, 100.0]})) == [0.5, 0.5]
    assert list(_differences({"summary": "x"}, {"summary": "y"})) == []
    for pair in (([1], [1, 2]), ({"a": 1}, {"b": 1}), ("x", "y"), (None, 1.0), (True, "x")):
        assert max(_differences(*pair)) == math.inf


@pytest.mark.parametrize(
    "document", ["{}", "[]", "no json", '{"request": {"experiment": "probe"}}', b"\xff", "[" * 100_000]
)
def test_what_is_no_result_is_refused_in_a_sentence(document):
    with pytest.raises(SpdToolsError, match="no result of an experiment"):
        read_result(document)


def test_unknown_names_are_refused_with_a_suggestion():
    with pytest.raises(SpdToolsError, match=r"no experiment 'prob'.*probe"):
        make_request("prob", {})
    with pytest.raises(SpdToolsError, match="no experiment"):
        read_result('{"request": {"experiment": "os"}}')


@pytest.mark.parametrize(
    ("parameters", "says"),
    [
        ({"texts": ["a"]}, "probe needs key"),
        ({"key": "nonsense", "texts": ["a"]}, "key does not fit"),
        ({"key": "h.0.mlp.down_proj:1", "texts": []}, "texts does not fit"),
        ({"key": "h.0.mlp.down_proj:1", "texts": ["a"], "seed": -1}, "seed does not fit"),
        ({"key": "h.0.mlp.down_proj:1", "texts": ["a"], "colour": 1}, "takes no colour"),
    ],
)
def test_parameters_that_do_not_fit_are_named(parameters, says):
    with pytest.raises(SpdToolsError, match=says):
        make_request("probe", parameters)


def test_an_unknown_component_is_refused(subject):
    with pytest.raises(SpdToolsError, match=r"no component h\.0\.mlp\.down_proj:999"):
        run(subject, make_request("probe", {"key": "h.0.mlp.down_proj:999", "texts": ["a"]}))


def test_a_probe_shows_every_position(subject):
    rule = planted(subject).rule("because")
    result = do(subject, "probe", "because", texts=["rain because", "the rain because because"])
    assert [text.firing_positions for text in result.texts] == [[1], [2, 3]]
    assert result.texts[1].ranking == [0, 0, 2, 2]
    assert result.texts[1].token_texts == ["the", "rain", "because", "because"]
    assert result.effect is result.control is result.p_value is result.excludes_control is None
    assert result.n == 6
    assert str(result.request.key) == rule.key == key_of(subject, "because")


def test_a_row_of_the_harvest_is_a_text(subject):
    (text,) = do(subject, "probe", "always", texts=["row:7"]).texts
    assert text.token_ids == subject.harvest.tokens()[7].tolist()
    assert text.firing_positions == list(range(64))


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("row:512", "no row 512"), ("the " * 65, "shorten it")])
def test_a_text_that_cannot_be_run_is_refused_in_a_sentence(subject, text, says):
    with pytest.raises(SpdToolsError, match=says):
        do(subject, "probe", "because", texts=[text])


def estimate(low, high):
    return Estimate(value=0, low=low, high=high, n=9)


@pytest.mark.parametrize(
    ("effect", "control", "p_value", "excludes"),
    [
        (estimate(1, 2), estimate(0, 0.9), None, True),
        (estimate(-2, -1), estimate(0, 0.9), 0.05, True),
        (estimate(0.5, 2), estimate(0, 0.9), 0.001, False),
        (estimate(1, 2), estimate(0, 0.9), 0.06, False),  # apart only because neither sample has any spread
        (estimate(None, None), estimate(0, 1), 0.001, None),
        (None, estimate(0, 1), None, None),
        (estimate(0, 1), None, None, None),
    ],
)
def test_an_effect_excludes_its_control_where_intervals_are_apart(subject, effect, control, p_value, excludes):
    result = do(subject, "probe", "because", texts=["the"])
    changed = result.model_copy(update={"effect": effect, "control": control, "p_value": p_value})
    assert changed.excludes_control is excludes
