"""`spd-tools postprocess`, as it is typed."""

import json

import pytest
import yaml
from launch.forks import ended
from test_pipeline_run import HARVEST, KEYS, SMALL, config

from spd_tools.errors import SpdToolsError
from spd_tools.launch.status import list_jobs
from spd_tools.store.reader import open_harvest


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(config().model_dump(mode="json")))
    return path


def test_a_dry_run_says_what_each_step_would_cost_and_starts_nothing(run, run_json, planted, file, out_dir):
    found = run_json("planted", "--config", file, "--dry-run", "--budget", "interpret=2")
    assert [step["name"] for step in found["steps"]] == ["interpret", "intruder", "detection", "fuzzing"]
    costs = {cost["step"]: cost for cost in found["costs"]}
    calls = {step: cost["estimate"]["n_calls"] for step, cost in costs.items()}
    assert calls == {"interpret": 2, "intruder": 2 * 5, "detection": 2 * 5 * 4, "fuzzing": 2 * 5}
    assert all(cost["estimate"]["dollars_at_most"] > 0 for cost in costs.values())
    assert costs["interpret"]["budget"] == 2
    assert found["harvest"]["harvest_id"] == planted
    page, _ = run("planted", "--config", file, "--dry-run", "--budget", "interpret=2")
    assert {"intruder", "interpret", "detection", "fuzzing", "$2"} <= set(page.split())
    assert "At most $" in page
    assert not (out_dir / "jobs").exists()
    assert not (out_dir / "annotations").exists()


def test_an_estimate_holds_and_what_is_left_costs(run_json, run, serve, planted, file):
    api = serve()
    most = {cost["step"]: cost["estimate"] for cost in run_json("planted", "--config", file, "--dry-run")["costs"]}
    assert all(estimate["counted"] for estimate in most.values())
    out, err = run("planted", "--config", file, "--json")
    assert err == ""
    paid = {step["name"]: step["tasks"][0]["result"]["dollars"] for step in json.loads(out)["steps"]}
    assert all(0 < paid[step] <= most[step]["dollars_at_most"] for step in paid)
    assert len(api.billed_tokens) <= sum(estimate["n_calls"] for estimate in most.values())
    [left, *_] = run_json("planted", "--config", file, "--dry-run")["costs"]
    assert (left["estimate"], left["remark"]) == (None, "everything is labelled")


def test_a_dry_run_without_a_harvest_says_what_cannot_be_known(run, run_json, out_dir):
    found = run_json("planted", "--n-batches", "all", "--batch-size", 64, "--n-gpus", 3, "--dry-run")
    assert [step["n_tasks"] for step in found["steps"] if step["name"] == "workers"] == [3]
    assert [cost["estimate"] for cost in found["costs"]] == [None] * 4
    assert found["configuration"]["harvest"]["n_batches"] == "all"
    assert "not known before the harvest" in run("planted", "--n-batches", 4, "--batch-size", 64, "--dry-run")[0]
    assert not out_dir.exists()


def test_a_person_reads_what_was_labelled_and_scored(run, serve, planted, tmp_path):
    serve()
    path = tmp_path / "one.yaml"
    one = SMALL | {"keys": KEYS[:1], "baselines": False}
    evals = {"detection": one, "fuzzing": None}
    path.write_text(yaml.safe_dump({"intruder": None, "interpret": {"keys": KEYS[:1], "evals": evals}}))
    out, err = run("planted", "--config", path)
    assert out == ""
    assert f"Harvest {planted} of planted." in err
    assert "interpret: 1 of 1 component was labelled by claude-haiku-5-5" in err
    assert "detection: 1 of 1 component has a score" in err
    out, err = run("planted", "--config", path, "--detach")
    job = list_jobs()[0]
    assert job.id in err
    assert ended(job).status == "finished"


def test_a_failure_says_why_and_how_to_go_on(run, serve, planted, file, monkeypatch):
    serve()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-another")
    with pytest.raises(SpdToolsError, match=r"did not finish: .* key .*jobs retry"):
        run("planted", "--config", file)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--harvest", "x", "--n-gpus", 2), "--n-gpus is for a harvest that is to be made"),
        (("--n-gpus", 2), "lacks harvest.n_batches"),
        (("--partition", "gpu"), "add --slurm"),
        (("--budget", "merge=3"), "no step of that name"),
    ],
)
def test_flags_that_make_no_sense_together_are_refused(run, planted, argv, said):
    with pytest.raises(SpdToolsError) as refused:
        run("planted", *argv)
    assert said in str(refused.value)


def test_a_budget_has_a_step(run):
    with pytest.raises(SystemExit) as leaving:
        run("planted", "--budget", "3")
    assert leaving.value.code == 2


def test_keys_of_the_demo_are_what_these_tests_think(planted):
    harvest = open_harvest("planted")
    assert all(harvest.component(key).firing_count > 50 for key in KEYS)
    assert harvest.manifest.config.batch_size == HARVEST["batch_size"]
