"""Grids of configurations: which points they have, and what is refused."""

import json

import pytest
import yaml

from spd_tools.cli import main
from spd_tools.errors import SpdToolsError
from spd_tools.training.decompose import DecomposeRequest, read_request
from spd_tools.training.experiments import EXPERIMENTS
from spd_tools.training.sweep import plan_sweep
from spd_tools.training.sweep_grid import merged


@pytest.fixture
def plan(tmp_path):
    def plan(grid, *sources, max_points=100):
        path = tmp_path / "grid.yaml"
        path.write_text(grid if isinstance(grid, str) else yaml.safe_dump(grid, sort_keys=False))
        request = DecomposeRequest(source="", device="cpu")
        return plan_sweep(sources or ["tms_5-2"], path, request, max_points=max_points)

    return plan


def config_at(sweep, place):
    return read_request(sweep.request_of(place))[1]


def test_points_are_all_combinations_the_last_one_fastest(plan):
    sweep = plan({"global": {"steps": {"values": [1, 2]}, "seed": {"values": [5, 6, 7]}, "batch_size": 8}})
    assert [dict(point.varies) for point in sweep.points] == [
        {"steps": steps, "seed": seed} for steps in (1, 2) for seed in (5, 6, 7)
    ]
    configs = [config_at(sweep, place) for place in range(6)]
    assert [(config.steps, config.seed) for config in configs] == [(s, n) for s in (1, 2) for n in (5, 6, 7)]
    assert {config.batch_size for config in configs} == {8}


def losses_of(config):
    return {loss.classname: loss.coeff for loss in config.loss_metric_configs}


@pytest.fixture
def plain():
    """The configuration that is swept."""
    return read_request(DecomposeRequest(source="tms_5-2"))[1]


def test_entries_of_lists_are_known_by_their_names(plan, plain):
    coeff = {"classname": "ImportanceMinimalityLoss", "coeff": {"values": [0.1, 0.2]}}
    width = {"module_pattern": "linear1", "C": {"values": [4, 5]}}
    sweep = plan({"global": {"loss_metric_configs": [coeff], "module_info": [width]}})
    assert [label for label, _ in sweep.points[0].varies] == [
        "loss_metric_configs.ImportanceMinimalityLoss.coeff",
        "module_info.linear1.C",
    ]
    for place, (penalty, n) in enumerate([(0.1, 4), (0.1, 5), (0.2, 4), (0.2, 5)]):
        config = config_at(sweep, place)
        assert losses_of(config) == losses_of(plain) | {"ImportanceMinimalityLoss": penalty}
        assert [(info.module_pattern, info.C) for info in config.module_info] == [("linear1", n), ("linear2", 40)]


def test_a_loss_that_the_configuration_has_not_is_added(plan, plain):
    loss = {"classname": "UnmaskedReconLoss", "coeff": {"values": [0.5]}}
    config = config_at(plan({"global": {"loss_metric_configs": [loss]}}), 0)
    assert losses_of(config) == losses_of(plain) | {"UnmaskedReconLoss": 0.5}


def test_values_may_be_lists_and_mappings(plan):
    schedules = [{"start_val": 0.1}, {"start_val": 0.2, "fn_type": "linear", "final_val_frac": 0.0}]
    grid = {"ci_config": {"hidden_dims": {"values": [[8], [8, 8]]}}, "lr_schedule": {"values": schedules}}
    sweep = plan({"global": grid})
    assert [config_at(sweep, place).ci_config.hidden_dims for place in range(4)] == [[8], [8], [8, 8], [8, 8]]
    # What a value does not name stays, as everywhere in a grid.
    assert [config_at(sweep, place).lr_schedule.fn_type for place in range(2)] == ["cosine", "linear"]


def test_an_experiments_section_stands_above_the_global_one(plan):
    grid = {"global": {"steps": {"values": [1, 2]}, "seed": 3}, "tms_40-10": {"steps": 9, "seed": {"values": [0, 1]}}}
    sweep = plan(grid, "tms_5-2", "tms_40-10")
    found = [
        (point.name, config.steps, config.seed)
        for point in sweep.points
        for config in [config_at(sweep, sweep.points.index(point))]
    ]
    assert found == [("tms_5-2", 1, 3), ("tms_5-2", 2, 3), ("tms_40-10", 9, 0), ("tms_40-10", 9, 1)]


def test_a_seed_is_that_of_the_toy_too(plan):
    sweep = plan({"global": {"seed": {"values": [0, 4]}}})
    assert [sweep.request_of(place).seed for place in range(2)] == [0, 4]


def test_a_file_is_swept_as_it_is_now(plan, small_config):
    source = small_config(steps=3)
    sweep = plan({"config": {"seed": {"values": [1, 2]}}}, str(source))
    source.unlink()
    assert [(config_at(sweep, n).steps, config_at(sweep, n).seed) for n in range(2)] == [(3, 1), (3, 2)]


def test_old_spellings_are_swept_under_todays_names(plan, tmp_path):
    config = EXPERIMENTS["tms_5-2"].config()
    config |= {"C": 7, "target_module_patterns": ["linear1", "linear2"], "module_info": None}
    (tmp_path / "old.yaml").write_text(yaml.safe_dump(config))
    entry = {"module_pattern": "linear2", "C": {"values": [8]}}
    sweep = plan({"global": {"module_info": [entry]}}, str(tmp_path / "old.yaml"))
    assert [info.C for info in config_at(sweep, 0).module_info] == [7, 8]


def test_merging_changes_neither_of_both():
    below, above = {"a": {"b": [1]}, "c": 1}, {"a": {"d": 2}, "c": {"values": [1, 2]}}
    assert merged(below, above) == {"a": {"b": [1], "d": 2}, "c": {"values": [1, 2]}}
    assert (below, above) == ({"a": {"b": [1]}, "c": 1}, {"a": {"d": 2}, "c": {"values": [1, 2]}})


@pytest.mark.parametrize(
    ("grid", "complaint"),
    [
        ({"global": {"stepz": {"values": [1]}}}, "names the field stepz, .*did you mean steps"),
        ({"global": {"lr_schedule": {"start": 1}}}, "names the field lr_schedule.start, "),
        (
            {"global": {"loss_metric_configs": [{"classname": "FaithfulnessLoss", "coef": {"values": [1]}}]}},
            "names the field loss_metric_configs.FaithfulnessLoss.coef, .*did you mean coeff",
        ),
        (
            {"global": {"eval_metric_configs": [{"classname": "CEandKLLosses", "rounding_threshold": 0.1}]}},
            "eval_metric_configs.CEandKLLosses, which is not computed here",
        ),
        ({"global": {"loss_metric_configs": [{"classname": "Faith", "coeff": 1.0}]}}, "Point 0 .*the loss 'Faith'"),
        ({"global": {"ci_config": {"hidden_dim": [3]}}}, "names the field ci_config.hidden_dim, "),
        ({"global": {"steps": {"values": [3, -1]}}}, r"Point 1 .*cannot be trained \(steps"),
        ({"global": {"seed": {"values": []}}}, "seed needs a list of values"),
        ({"global": {"seed": {"values": 3}}}, "seed needs a list of values"),
        ({"global": {"seed": {"values": [1], "max": 3}}}, "seed needs a list of values and nothing else"),
        ({"global": {"seed": {"values": [0, 1, 0]}}}, "seed names 0 twice"),
        ({"global": {"ci_alive_threshold": {"values": [0, False]}}}, "ci_alive_threshold names False twice"),
        ({"tms_5-3": {"seed": 1}}, "a section 'tms_5-3', .*did you mean tms_5-2"),
        ({"seed": {"values": [1]}}, "a section 'seed', which is about nothing that is swept"),
        ({"global": [1]}, "the section global holds no fields"),
        ("", "has no sections"),
        ("global: [", "is no valid YAML"),
        ("global: {wandb_project: 2026-01-31}", "put it in quotes"),
        ({"global": {"seed": {"values": list(range(101))}}}, "has 101 points, and 100 are allowed; .*--max-points 101"),
    ],
)
def test_a_grid_that_cannot_be_swept_is_refused_in_a_sentence(grid, complaint, plan):
    with pytest.raises(SpdToolsError, match=complaint) as error:
        plan(grid)
    assert "\n" not in str(error.value)


def test_more_points_where_they_are_allowed(plan):
    grid = {"global": {"seed": {"values": list(range(101))}}}
    assert len(plan(grid, max_points=101).points) == 101


def test_one_training_twice_is_refused(plan):
    grid = {"global": {"lr_schedule": {"values": [{"start_val": 0.1}, {"start_val": 0.1, "final_val_frac": 0.0}]}}}
    with pytest.raises(SpdToolsError, match=r"Point 1 .*is the same training as point 0"):
        plan(grid)


def test_two_configurations_of_one_name_are_refused(plan):
    with pytest.raises(SpdToolsError, match="Two of the configurations are called tms_5-2"):
        plan({"global": {}}, "tms_5-2", "tms_5-2")


def test_the_command_lists_the_points(tmp_path, capsys):
    grid = tmp_path / "grid.yaml"
    grid.write_text("global: {seed: {values: [0, 1]}, lr_schedule: {start_val: {values: [0.1]}}}")
    argv = ["train-sweep", "tms_5-2", "--grid", str(grid), "--dry-run"]
    assert main([*argv, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed == [
        {"point": n, "name": "tms_5-2", "varies": {"seed": n, "lr_schedule.start_val": 0.1}} for n in range(2)
    ]
    assert main(argv) == 0
    assert {"seed", "start_val", "0.1", "2", "points"} <= set(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["tms_5-2"], "Say with --grid"),
        (["tms_5-2", "--grid", "nowhere.yaml"], "The grid nowhere.yaml cannot be read"),
        (["tms_5-3", "--grid", "nowhere.yaml"], "did you mean tms_5-2"),
        (["show"], "sweep show ID"),
        (["show", "train-sweep-0123456789ab"], "There is no job"),
        (["tms_5-2", "--grid", "g", "--time", "1:00"], "--time is for jobs of a cluster"),
    ],
)
def test_what_the_command_refuses(argv, complaint, capsys):
    assert main(["train-sweep", *argv]) == 1
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1
