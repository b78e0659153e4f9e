"""The steps of a pipeline, from its configuration."""

from __future__ import annotations

from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.harvest import harvest_steps
from spd_tools.pipeline.config import PipelineConfig
from spd_tools.store.records import Record


class HarvestName(Record):
    """A finished harvest."""

    run_id: str
    harvest_id: str


def pipeline_graph(
    run: str, config: PipelineConfig, harvest: HarvestName | None = None, *, prepare_here: bool = False
) -> Graph:
    """prepare -> workers -> merge -> intruder; merge -> interpret -> detection, fuzzing.

    Args:
        run: what to harvest.
        config: a section that is None leaves its step out.
        harvest: start from this one; without it ``config.harvest`` says what to make.
        prepare_here: prepare on the machine that submits.

    Raises:
        SpdToolsError: when nothing is left to do.
    """
    steps: list[Step] = []
    if harvest is None:
        assert config.harvest is not None, "either there is a harvest or it says what to make"
        request = config.harvest.request(run)
        steps += harvest_steps(request, max_concurrent=config.harvest.max_concurrent, prepare_here=prepare_here)
    given = {"harvest": None if harvest is None else harvest.model_dump()}
    first = ("merge",) if harvest is None else ()
    if config.interpret is not None:
        arguments = given | {"request": config.interpret.request.model_dump(mode="json")}
        steps.append(Step(name="interpret", kind="interpret", arguments=arguments, after=first))
    for score, section in config.judged.items():
        arguments: dict[str, Any] = given | {"score": score, "section": section.model_dump(mode="json")}
        after = first if score == "intruder" else ("interpret",)
        steps.append(Step(name=score, kind="evaluate", arguments=arguments, after=after))
    if not steps:
        raise SpdToolsError("There is a harvest and every other step is skipped, so nothing is left to do.")
    return Graph(steps=tuple(steps))
