"""Whole pipelines as jobs, against a stand-in of the Messages API."""

from collections import Counter
from dataclasses import replace

import pytest
from launch.forks import DEADLINE, Fork, ended, wait_until
from llm.stand_in import KEY, Refuse, Say

from spd_tools.annotations import Annotations
from spd_tools.errors import SpdToolsError
from spd_tools.evaluate.trials import MIN_TRIALS
from spd_tools.harvest import HarvestRequest
from spd_tools.harvest import pipeline as harvesting
from spd_tools.interpret import InterpretRequest, estimate_interpretation
from spd_tools.launch.control import cancel_job, retry_job
from spd_tools.launch.folder import JobFolder
from spd_tools.launch.harvest import start_harvest
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.status import job_status, list_jobs
from spd_tools.llm import retries
from spd_tools.pipeline.config import PipelineConfig, read_config
from spd_tools.pipeline.start import plan_pipeline, start_pipeline
from spd_tools.store.reader import open_harvest

KEYS = ["h.0.mlp.down_proj:13", "h.0.attn.o_proj:1"]
SMALL = {"keys": KEYS, "n_trials": MIN_TRIALS}
HARVEST = {"n_batches": "all", "batch_size": 64, "n_gpus": 2}


def config(**changes):
    """Two components through every step."""
    sections = {
        "intruder": SMALL,
        "interpret": {"keys": KEYS, "evals": {"detection": SMALL, "fuzzing": SMALL | {"baselines": False}}},
    }
    return PipelineConfig.model_validate(sections | changes)


def quick(**changes):
    """One component, labelled and scored once."""
    one = SMALL | {"keys": KEYS[:1], "baselines": False}
    interpret = {"keys": KEYS[:1], "evals": {"detection": one, "fuzzing": None}}
    return config(**({"intruder": None, "interpret": interpret} | changes))


def start(configuration, **options):
    return start_pipeline(plan_pipeline("planted", configuration, **options))


def is_labelling(asked):
    return "Component " in asked.prompt and ", of layer" in asked.prompt


def prompts(api):
    return Counter(prompt for prompt, *_ in api.billed_tokens)


def states(job):
    return {step.name: step.status for step in job.steps}


@pytest.fixture
def impatient(monkeypatch):
    """Failures that may pass are tried twice, at once."""
    monkeypatch.setattr(retries.Retries, "pause", lambda self, attempt, asked: 0.0 if attempt < 2 else None)


@pytest.fixture
def patient(monkeypatch):
    """Failures that may pass are tried for as long as a test may take."""
    most = 1.5 * DEADLINE / 0.01
    monkeypatch.setattr(retries.Retries, "pause", lambda self, attempt, asked: 0.01 if attempt < most else None)


def test_a_run_becomes_labels_with_scores(serve, out_dir):
    api = serve()
    job = ended(start(config(harvest=HARVEST)))
    assert job.status == "finished", job.error
    notes = Annotations.of(open_harvest("planted"))
    for key in KEYS:
        label = notes.label(key)
        assert label is not None
        assert label.status == "draft"
        assert {score.method for score in notes.scores(key)} == {"intruder", "detection", "fuzzing"}
    assert job.step("interpret").tasks[0].result["n_labelled"] == 2
    assert job.step("detection").tasks[0].result["n_scored"] == 2
    assert job.step("merge").tasks[0].result["harvest_id"] == open_harvest("planted").harvest_id
    request = JobFolder(job.folder).request().request
    assert request["configuration"]["interpret"]["evals"]["detection"]["n_trials"] == MIN_TRIALS
    assert request["versions"]["torch"]
    assert max(prompts(api).values()) == 1
    holders = [path for path in out_dir.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]
    assert holders == []


def test_it_starts_from_a_finished_harvest_and_pays_nothing_twice(serve, planted):
    api = serve()
    first = ended(start(quick()))
    assert first.status == "finished", first.error
    assert list(states(first)) == ["interpret", "detection"]
    paid = len(api.billed_tokens)
    assert paid == 1 + MIN_TRIALS
    again = ended(start(quick(), harvest_id=planted))
    assert (again.id != first.id, again.status) == (True, "finished")
    assert len(api.billed_tokens) == paid
    assert again.step("interpret").tasks[0].result["n_known"] == 1


def test_an_identical_finished_harvest_is_not_made_again_whatever_its_ranks(planted, out_dir):
    for n_gpus in (1, 3):
        plan = plan_pipeline("planted", config(harvest=HARVEST | {"n_gpus": n_gpus}))
        assert plan.harvest is not None
        assert plan.harvest.harvest_id == planted
    for changes in ({"seed": 1}, {"log_tokens": 5}, {"n_batches": 3}, {"exclude_tokens": [1]}):
        assert plan_pipeline("planted", config(harvest=HARVEST | changes)).harvest is None
    assert [folder.name for folder in (out_dir / "harvest/planted").iterdir()] == [planted], "planning writes nothing"


def test_an_api_that_is_down_stops_what_depends_on_it_and_a_retry_goes_on(serve, planted, impatient):
    down = True
    api = serve(lambda asked, honest: Refuse(503, "busy") if down and is_labelling(asked) else honest(asked))
    job = ended(start(config()))
    assert states(job) == {"interpret": "failed", "intruder": "finished", "detection": "skipped", "fuzzing": "skipped"}
    assert "interpret: 2 of 2 calls failed" in job.error
    assert "status 503" in job.error
    paid = prompts(api)
    down = False
    job = ended(retry_job(job.id))
    assert job.status == "finished", job.error
    assert job.step("intruder").tasks[0].attempt == 1
    assert max(prompts(api).values()) == 1
    assert paid <= prompts(api)


def test_a_key_that_is_refused_is_told(serve, planted, monkeypatch):
    serve()
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-another")
    job = ended(start(config()))
    assert states(job)["detection"] == "skipped"
    assert "does not accept the key" in job.error


def test_a_budget_that_is_used_up_fails_the_step_and_a_larger_one_goes_on(serve, planted):
    most = estimate_interpretation(open_harvest("planted"), InterpretRequest(keys=KEYS))
    assert most is not None
    api = serve(lambda asked, honest: replace(honest(asked), output_tokens=asked.body["max_tokens"]))  # costs the most
    one_call = {"keys": KEYS, "evals": None, "budget": 0.6 * most.dollars_at_most}
    job = ended(start(config(intruder=None, interpret=one_call)))
    assert "1 of 2 components was not finished" in job.error
    assert "--budget interpret=USD" in job.error
    assert len(api.billed_tokens) == 1
    job = ended(start(config(intruder=None, interpret=one_call | {"budget": 1.0})))
    assert job.status == "finished", job.error
    assert sorted(prompts(api).values()) == [1, 1]


def test_few_failures_are_listed_and_do_not_stop_what_follows(serve, planted, knower):
    unlucky = KEYS[1]
    serve(
        lambda asked, honest: (
            Say("", stop_reason="refusal")
            if is_labelling(asked) and f"Component {unlucky}," in asked.prompt
            else honest(asked)
        )
    )
    harvest = open_harvest("planted")
    rules = [key for key, rule in knower._decomposition.rules.items() if harvest.component(key).firing_count][:14]
    keys = [unlucky, *[key for key in rules if key != unlucky]][:12]
    job = ended(start(config(intruder=None, interpret={"keys": keys, "evals": None})))
    assert job.status == "finished", job.error
    assert (job.result["n_labelled"], job.result["n_failed"]) == (11, 1)
    assert f"{unlucky} has no label" in JobFolder(job.folder).log("interpret", 0).read_text()


def test_a_cancelled_pipeline_goes_on_where_it_was(serve, planted, patient):
    held = True

    def rule(asked, honest):
        if held and not is_labelling(asked):
            return Refuse(503, "later")
        return honest(asked)

    api = serve(rule)
    job = start(quick())
    wait_until(lambda: job_status(job.id).step("interpret").status == "finished")
    wait_until(lambda: job_status(job.id).step("detection").status == "running")
    cancel_job(job.id)
    assert ended(job).status == "cancelled"
    held = False
    job = ended(retry_job(job.id))
    assert job.status == "finished", job.error
    assert job.step("interpret").tasks[0].attempt == 1
    assert max(prompts(api).values()) == 1


def test_two_pipelines_at_once_do_not_disturb_each_other_and_ask_nothing_twice(serve, planted, patient):
    held = True
    api = serve(lambda asked, honest: Refuse(503, "later") if held else honest(asked))
    score = SMALL | {"keys": KEYS[:1], "baselines": False}
    with_one = config(intruder=None, interpret={"keys": KEYS[:1], "evals": {"detection": score, "fuzzing": None}})
    other = config(intruder=None, interpret={"keys": KEYS, "evals": {"detection": score, "fuzzing": score}})
    jobs = [start(with_one), start(other)]
    assert jobs[0].id != jobs[1].id
    logs = [JobFolder(job.folder).log("interpret", 0) for job in jobs]
    wait_until(lambda: any(log.exists() and "waiting for it" in log.read_text() for log in logs))
    held = False
    assert [ended(job).status for job in jobs] == ["finished", "finished"]
    notes = Annotations.of(open_harvest("planted"))
    assert all(notes.label(key) is not None for key in KEYS)
    assert max(prompts(api).values()) == 1


@pytest.fixture
def hold(tmp_path, monkeypatch):
    """Workers wait before their first batch until the file is removed."""
    file = tmp_path / "hold"
    file.touch()
    work = harvesting.work

    def held(*args, **options):
        wait_until(lambda: not file.exists())
        return work(*args, **options)

    monkeypatch.setattr(harvesting, "work", held)
    return file


ONLY_HARVEST = {"harvest": HARVEST, "intruder": None, "interpret": None}
REQUEST = HarvestRequest(run="planted", n_batches=None, batch_size=64, world_size=2)
"""The harvest of HARVEST, as `spd-tools harvest` asks for it."""


def test_the_same_pipeline_is_started_once_and_the_same_harvest_made_once(serve, hold):
    serve()
    job = start(config(**ONLY_HARVEST))
    assert start(config(**ONLY_HARVEST)).id == job.id
    for same in (
        lambda: start(config(harvest=HARVEST)),
        lambda: start_harvest(REQUEST),
        lambda: start_harvest(replace(REQUEST, memory_gb=1.0)),
    ):
        with pytest.raises(SpdToolsError, match=f"{job.id} is making this harvest now"):
            same()
    hold.unlink()
    assert ended(job).status == "finished"
    found = ended(start(config(harvest=HARVEST, interpret=None)))
    assert list(states(found)) == ["intruder"]
    assert found.status == "finished", found.error


def test_of_two_that_submit_the_same_harvest_at_once_one_makes_it(hold):
    def door(start):
        def submit():
            try:
                start()
            except SpdToolsError as error:
                return 3 if "is making this harvest now" in str(error) else 4
            return 0

        return Fork(submit)

    doors = [door(lambda: start(config(**ONLY_HARVEST))), door(lambda: start_harvest(REQUEST))]
    assert sorted(process.wait() for process in doors) == [0, 3]
    [job] = list_jobs()
    hold.unlink()
    assert ended(job).status == "finished"


def test_a_retry_does_not_make_what_another_job_makes(hold):
    job = start_harvest(REQUEST)
    cancel_job(job.id)
    assert ended(job).status == "cancelled"
    other = start(config(**ONLY_HARVEST))
    with pytest.raises(SpdToolsError, match=f"{other.id} is making this harvest now"):
        retry_job(job.id)
    hold.unlink()
    assert ended(other).status == "finished"
    assert ended(retry_job(job.id)).status == "finished"


# --- before anything is started ---------------------------------------------------------------------------------------


def test_without_a_key_nothing_is_started(planted):
    with pytest.raises(SpdToolsError, match="ANTHROPIC_API_KEY is not set, and interpret, intruder"):
        start(config())
    assert list_jobs() == []


def test_without_a_key_a_harvest_alone_is_made():
    job = ended(start(config(harvest=HARVEST, intruder=None, interpret=None)))
    assert job.status == "finished", job.error


@pytest.mark.parametrize("extra", [{"export": "NONE"}, {"--export": "PATH,HOME"}])
def test_a_cluster_that_would_not_get_the_key_is_noticed(serve, planted, extra):
    serve()
    profile = SlurmProfile(extra=extra)
    with pytest.raises(SpdToolsError, match="would not reach the jobs"):
        start_pipeline(plan_pipeline("planted", config(), slurm=profile), slurm=profile)


def test_a_run_without_a_harvest_needs_to_be_told_how_much():
    with pytest.raises(SpdToolsError, match="--n-batches and --batch-size"):
        plan_pipeline("planted", read_config(None))


def test_an_unknown_harvest_is_refused(planted):
    with pytest.raises(SpdToolsError, match=f"the finished ones are: {planted}"):
        plan_pipeline("planted", read_config(None), harvest_id="no-such")
