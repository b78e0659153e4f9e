"""A section per step; what does not fit is refused in one sentence."""

import dataclasses

import pytest

from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest
from spd_tools.interpret import InterpretRequest
from spd_tools.launch.kinds import find_kind
from spd_tools.pipeline.config import HarvestSection, InterpretSection, PipelineConfig, read_config
from spd_tools.pipeline.graph import HarvestName, pipeline_graph

FOUND = HarvestName(run_id="planted", harvest_id="0123456789ab")


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "pipeline.yaml"
        path.write_text(text)
        return path

    return write


def names(graph):
    return {step.name: step.after for step in graph.steps}


def test_the_whole_graph():
    section = HarvestSection(n_batches=4, batch_size=2, n_gpus=3, max_concurrent=2)
    graph = pipeline_graph("planted", PipelineConfig(harvest=section))
    assert names(graph) == {
        "prepare": (),
        "workers": ("prepare",),
        "merge": ("workers",),
        "interpret": ("merge",),
        "intruder": ("merge",),
        "detection": ("interpret",),
        "fuzzing": ("interpret",),
    }
    workers = graph.step("workers")
    assert (workers.n_tasks, workers.max_concurrent, workers.gpus) == (3, 2, 1)
    assert {step.gpus for step in graph.steps if step.name != "workers"} == {0}


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("", {"interpret", "intruder", "detection", "fuzzing"}),
        ("intruder: null", {"interpret", "detection", "fuzzing"}),
        ("interpret: null", {"intruder"}),
        ("interpret: {evals: null}", {"interpret", "intruder"}),
        ("intruder: null\ninterpret:\n  evals: {fuzzing: null}", {"interpret", "detection"}),
    ],
)
def test_a_section_that_is_null_skips_its_step(write, text, left):
    assert set(names(pipeline_graph("planted", read_config(write(text)), FOUND))) == left


def test_nothing_to_do_is_said(write):
    with pytest.raises(SpdToolsError, match="nothing is left to do"):
        pipeline_graph("planted", read_config(write("intruder: null\ninterpret: null")), FOUND)


@pytest.mark.parametrize("config", [PipelineConfig(), PipelineConfig(interpret=InterpretSection(keys=["h.0:1"]))])
def test_every_step_has_a_kind_that_takes_its_arguments(config):
    for step in pipeline_graph("planted", config, FOUND).steps:
        find_kind(step.kind).arguments.model_validate(step.arguments)


def test_the_sections_have_the_fields_and_defaults_of_what_they_become():
    request = HarvestRequest(run="planted", n_batches=None, batch_size=8, world_size=5)
    assert HarvestSection(n_batches="all", batch_size=8, n_gpus=5).request("planted") == request
    fields = {field.name for field in dataclasses.fields(HarvestRequest)} - {"run", "world_size"}
    assert fields == HarvestSection.model_fields.keys() - {"n_gpus", "max_concurrent"}
    assert InterpretSection().request == InterpretRequest()
    assert InterpretSection(limit=3, budget=1.5).request == InterpretRequest(limit=3, budget=1.5)


def test_flags_stand_above_the_file(write):
    path = write(
        "harvest: {n_batches: 9, batch_size: 8, seed: 7}\ninterpret: {budget: 1, evals: {detection: {limit: 2}}}"
    )
    config = read_config(
        path, harvest={"n_batches": "all", "n_gpus": 4}, budgets={"interpret": 2.5, "detection": 3, "fuzzing": 4}
    )
    assert config.harvest == HarvestSection(n_batches="all", batch_size=8, seed=7, n_gpus=4)
    assert config.interpret is not None
    assert config.interpret.budget == 2.5
    assert {name: (section.budget, section.limit) for name, section in config.judged.items()} == {
        "intruder": (None, None),
        "detection": (3, 2),
        "fuzzing": (4, None),
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("intrudr: null", "unknown field 'intrudr'; did you mean intruder?"),
        ("interpret: {evals: {fuzing: null}}", "unknown field 'interpret.evals.fuzing'; did you mean fuzzing?"),
        ("intruder: {baselines: false}", "unknown field 'intruder.baselines'"),
        ("harvest: {n_batches: 4}", "lacks harvest.batch_size"),
        ("harvest: {n_batches: some, batch_size: 1}", "harvest.n_batches: 'some' is neither"),
        ("harvest: {n_batches: 1, batch_size: 1, device: 'cuda:1'}", "write that instead of cuda:1"),
        ("interpret: {limit: 0}", "interpret.limit: 0 does not do"),
        ("interpret: {model: claude-0}", "interpret.model: The price of model 'claude-0' is not known"),
        ("interpret: {prompt: says}", "interpret.prompt: 'says' does not do"),
        ("interpret: {evals: {detection: {n_trials: 2}}}", "interpret.evals.detection.n_trials: 2"),
        ("intruder: 5", "intruder"),
        ("intruder: {budget: .inf}", "intruder.budget"),
        ("intruder: null\nintruder: {budget: 1}", "'intruder' occurs twice"),
        ("- intruder", "holds no sections"),
        ("intruder: [", "cannot be read as YAML"),
        ("intruder: !!python/object:os.system {}", "cannot be read as YAML"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(write, text, said):
    with pytest.raises(SpdToolsError) as refused:
        read_config(write(text))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "pipeline.yaml" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "step", "said"),
    [
        ("", "interpet", "did you mean interpret?"),
        ("intruder: null", "intruder", "skips that step"),
        ("interpret: {evals: null}", "fuzzing", "evals is null"),
        ("interpret: 3", "interpret", "a section with fields"),
    ],
)
def test_a_budget_is_for_a_step_that_is_done(write, text, step, said):
    with pytest.raises(SpdToolsError, match=step if text != "interpret: 3" else "interpret") as refused:
        read_config(write(text), budgets={step: 1.0})
    assert said in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SpdToolsError, match=r"gone\.yaml cannot be read"):
        read_config(tmp_path / "gone.yaml")
