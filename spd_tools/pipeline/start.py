"""Plan a pipeline and start it as a job."""

from __future__ import annotations

import dataclasses
import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from spd_tools.errors import SpdToolsError
from spd_tools.harvest import HarvestRequest
from spd_tools.harvest.pipeline import plan_ranks
from spd_tools.launch.control import start_job
from spd_tools.launch.graph import Graph
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.status import Job
from spd_tools.llm.api import KEY, has_key
from spd_tools.pipeline.config import ASKING, PipelineConfig
from spd_tools.pipeline.graph import HarvestName, pipeline_graph
from spd_tools.settings import Settings
from spd_tools.store.inventory import StoredHarvest, find_run, stored_harvests
from spd_tools.store.reader import open_harvest

KIND = "postprocess"
_PACKAGES = ("spd-tools", "torch", "numpy", "numba", "pyarrow", "transformers", "anthropic", "submitit")


@dataclass(frozen=True)
class PipelinePlan:
    """What a pipeline will do."""

    run: str
    config: PipelineConfig
    harvest: HarvestName | None
    """The harvest that is there; None: it is made."""
    graph: Graph

    @property
    def asking(self) -> tuple[str, ...]:
        """Steps that ask a language model."""
        return tuple(step.name for step in self.graph.steps if step.name in ASKING)


def plan_pipeline(
    run: str, config: PipelineConfig, *, harvest_id: str | None = None, slurm: SlurmProfile | None = None
) -> PipelinePlan:
    """Decide what there is to do. Nothing is started, and no language model asked.

    Args:
        run: reference, as for a harvest; a run id where a harvest is there.
        config: a section per step.
        harvest_id: start from this harvest, whatever ``config.harvest`` says. Without it, that section says what to
            make, unless an identical harvest has finished; without both, the harvest that finished last is taken.
        slurm: the profile to submit with.

    Raises:
        SpdToolsError: when there is no such harvest, or nothing to do.
    """
    harvest = _harvest_of(run, config, harvest_id)
    here = slurm is not None and slurm.prepare == "here"
    return PipelinePlan(run, config, harvest, pipeline_graph(run, config, harvest, prepare_here=here))


def start_pipeline(plan: PipelinePlan, *, slurm: SlurmProfile | None = None, allow_dirty: bool = False) -> Job:
    """Start it as a job; a pipeline that is at work already is not started again.

    request.json of the job holds the complete configuration and the versions of what it was started with.

    Raises:
        SpdToolsError: as ``start_job``; where the key of the API is missing.
    """
    if plan.asking:
        _check_key(plan.asking, slurm)
    request = {
        "run": plan.run,
        "harvest": None if plan.harvest is None else plan.harvest.model_dump(),
        "configuration": plan.config.model_dump(mode="json"),
        "versions": _versions(),
    }
    return start_job(
        kind=KIND,
        subject=plan.run,
        request=request,
        graph=plan.graph,
        executor="local" if slurm is None else "slurm",
        profile=slurm,
        allow_dirty=allow_dirty,
    )


def _harvest_of(run: str, config: PipelineConfig, harvest_id: str | None) -> HarvestName | None:
    if harvest_id is None and config.harvest is not None:
        return finished_harvest(config.harvest.request(run))
    try:
        found = open_harvest(find_run(Settings.from_environment(), run), harvest_id)
    except SpdToolsError as error:
        if harvest_id is not None:
            raise
        raise SpdToolsError(
            f"There is no harvest to start from ({str(error).rstrip('.')}); say how much to harvest, with --n-batches "
            "and --batch-size or in the section harvest of --config."
        ) from None
    return HarvestName(run_id=found.run_id, harvest_id=found.harvest_id)


def finished_harvest(request: HarvestRequest) -> HarvestName | None:
    """A finished harvest of the same decomposition, data and choices; its number of ranks does not matter.

    The run is loaded only where a harvest looks the same. None also where that cannot be told from here: then the
    job's first step finds out, and the workers have nothing to do.
    """
    for found in stored_harvests(Settings.from_environment()):
        if not _looks_the_same(found, request):
            continue
        assert found.manifest is not None
        same_ranks = dataclasses.replace(request, world_size=found.manifest.config.world_size)
        try:
            plan = plan_ranks(same_ranks)
        except SpdToolsError:
            return None
        if (plan.decomposition.run_id, plan.harvest_id) == (found.run_id, found.harvest_id):
            return HarvestName(run_id=found.run_id, harvest_id=found.harvest_id)
    return None


def _looks_the_same(found: StoredHarvest, request: HarvestRequest) -> bool:
    if found.manifest is None:
        return False
    manifest, settings = found.manifest, Settings.from_environment()
    if not settings.token_cache(manifest.data.fingerprint).is_dir():  # it would have to be tokenised here
        return False
    if request.run not in (manifest.decomposition.reference, found.run_id) and not _same_path(request.run, found):
        return False
    names = ("n_batches", "batch_size", "seq_len", "threshold", "precision", "p_min", "n_uniform", "n_top", "window")
    wanted = {name: getattr(request, name) for name in (*names, "seed")}
    return all(value is None or value == getattr(manifest.config, name) for name, value in wanted.items())


def _same_path(run: str, found: StoredHarvest) -> bool:
    assert found.manifest is not None
    return os.path.exists(run) and os.path.realpath(run) == found.manifest.decomposition.reference


def _check_key(asking: tuple[str, ...], slurm: SlurmProfile | None) -> None:
    steps = ", ".join(asking)
    if not has_key():
        raise SpdToolsError(
            f"{KEY} is not set, and {steps} ask a language model; put a key of the Anthropic API into the environment, "
            "or skip them (null in --config)."
        )
    if slurm is None:
        return
    options = {name.lstrip("-").replace("_", "-"): value for name, value in slurm.extra.items()}
    exported = str(options.get("export", os.environ.get("SBATCH_EXPORT", "ALL"))).split(",")
    if "ALL" not in exported and KEY not in exported:
        raise SpdToolsError(
            f"{KEY} would not reach the jobs of {steps}, as sbatch is told to export {','.join(exported)}; remove that "
            "from the profile and from SBATCH_EXPORT, or name the variable there."
        )


def _versions() -> dict[str, str | None]:
    """Of what the answers depend on; None: not installed."""
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
