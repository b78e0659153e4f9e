"""`postprocess`: from a run to labels and their scores, as one job."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spd_tools.cli.arguments import Subparsers, add_command, batches, finite_float, positive_int
from spd_tools.cli.harvest_options import harvest_named
from spd_tools.cli.notes import option
from spd_tools.cli.output import note, print_json, show
from spd_tools.cli.spreading import add_slurm_options, slurm_profile
from spd_tools.errors import SpdToolsError
from spd_tools.wording import by_number, plural

if TYPE_CHECKING:
    from spd_tools.launch.status import Job
    from spd_tools.pipeline.config import PipelineConfig
    from spd_tools.pipeline.start import PipelinePlan

_OF_HARVEST = ("n_batches", "batch_size", "n_gpus", "max_concurrent")


def add_commands(commands: Subparsers) -> None:
    """Add `postprocess`."""
    summary = "harvest, then label components and score the labels, as one job"
    parser = add_command(commands, "postprocess", _postprocess, summary)
    parser.add_argument("run", metavar="RUN", help="what to harvest, or what was harvested: reference or run id")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="a section per step; null skips the step")
    which = parser.add_argument_group("the harvest (default: the one that finished last)")
    which.add_argument("--harvest", metavar="ID", help="start from this one")
    option(which, "--n-batches", type=batches, metavar="N|all", help="global batches of a new one")
    option(which, "--batch-size", type=positive_int, metavar="B", help="rows per batch")
    option(which, "--n-gpus", type=positive_int, metavar="G", help="workers, a GPU each")
    option(which, "--max-concurrent", type=positive_int, metavar="N", help="most workers at a time")
    how = parser.add_argument_group("how (the key is read from ANTHROPIC_API_KEY)")
    how.add_argument(
        "--budget",
        type=_budget,
        action="append",
        default=[],
        metavar="STEP=USD",
        help="of intruder, interpret, detection or fuzzing, whatever it has cost before included",
    )
    how.add_argument("--dry-run", action="store_true", help="only say what would be done, and what it would cost")
    how.add_argument("--detach", action="store_true", help="leave at once; `jobs` shows how far it is")
    add_slurm_options(parser)


def _budget(text: str) -> tuple[str, float]:
    step, equals, dollars = text.partition("=")
    if not (step and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not STEP=USD")
    return step, finite_float(dollars)


def _postprocess(args: argparse.Namespace) -> None:
    from spd_tools.pipeline.start import plan_pipeline, start_pipeline

    profile = slurm_profile(args)
    plan = plan_pipeline(args.run, _config(args), harvest_id=args.harvest, slurm=profile)
    if args.dry_run:
        _show_plan(args, plan)
        return
    job = start_pipeline(plan, slurm=profile, allow_dirty=getattr(args, "allow_dirty", False))
    _follow(args, job, slurm=profile is not None)


def _config(args: argparse.Namespace) -> PipelineConfig:
    from spd_tools.pipeline.config import read_config

    harvest: dict[str, Any] = {name: getattr(args, name) for name in _OF_HARVEST if hasattr(args, name)}
    if harvest and args.harvest:
        flag = next(iter(harvest)).replace("_", "-")
        raise SpdToolsError(f"--{flag} is for a harvest that is to be made; leave it out, or --harvest.")
    if "n_batches" in harvest and harvest["n_batches"] is None:
        harvest["n_batches"] = "all"
    return read_config(args.config, harvest=harvest, budgets=dict(args.budget))


def _show_plan(args: argparse.Namespace, plan: PipelinePlan) -> None:
    from spd_tools.pipeline.costs import step_costs
    from spd_tools.store.reader import open_harvest

    harvest = None if plan.harvest is None else open_harvest(plan.harvest.run_id, plan.harvest.harvest_id)
    costs = step_costs(plan.config, harvest)
    if args.json:
        named = ("name", "kind", "after", "n_tasks", "gpus", "here")
        steps = [{name: getattr(step, name) for name in named} for step in plan.graph.steps]
        print_json(
            {"run": plan.run, "harvest": plan.harvest, "steps": steps, "costs": costs, "configuration": plan.config}
        )
        return
    from spd_tools.render.pipeline import plan_page

    show(plan_page(plan, costs))


def _follow(args: argparse.Namespace, job: Job, *, slurm: bool) -> None:
    from spd_tools.cli.watching import is_queued, watch

    if not args.detach:
        if not slurm and not args.json:
            note(f"{job.id}: {', '.join(step.name for step in job.steps)}. Ctrl-C cancels; what is saved stays.")
        job = watch(job, is_queued if slurm else None)
    if args.json:
        print_json(job)
    elif slurm or args.detach:
        note(f"{job.id} is {'queued' if slurm else 'running'}. Look at it: spd-tools jobs show {job.id}")
    else:
        _report(job)


def _report(job: Job) -> None:
    """Say what became of each step, and what to type next."""
    results = {step.name: step.tasks[0].result or {} for step in job.steps}
    harvest = results.get("merge") or job.request["harvest"]
    run_id = harvest["run_id"]
    note(f"Harvest {harvest['harvest_id']} of {run_id}.")
    for name, result in results.items():
        if name == "interpret":
            note(
                f"interpret: {result['n_labelled']:,} of {plural(result['n_chosen'], 'component')} "
                f"{by_number(result['n_labelled'], 'was', 'were')} labelled by "
                f"{result['labeller']}, {result['n_known']:,} had a label before, {result['n_failed']:,} failed, "
                f"${result['dollars']:,.4f} paid."
            )
        elif "n_scored" in result:
            note(
                f"{name}: {result['n_scored']:,} of {plural(result['n_components'], 'component')} "
                f"{by_number(result['n_scored'], 'has', 'have')} a score, "
                f"{plural(result['n_failed_trials'], 'trial')} failed, ${result['dollars']:,.4f} paid."
            )
    which = harvest_named(run_id, harvest["harvest_id"])
    note(f"Look at them: spd-tools label show --run {run_id}, spd-tools overview KEY {which}")
