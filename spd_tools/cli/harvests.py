"""`harvest`, `merge`, `prepare`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import (
    Parser,
    Subparsers,
    add_command,
    batches,
    finite_float,
    non_negative_int,
    positive_float,
    positive_int,
)
from spd_tools.cli.harvest_options import harvest_named
from spd_tools.cli.output import note, print_json
from spd_tools.cli.spreading import add_slurm_options, slurm_profile
from spd_tools.errors import SpdToolsError
from spd_tools.wording import plural

if TYPE_CHECKING:
    from spd_tools.harvest import HarvestOutcome, HarvestRequest
    from spd_tools.launch.profiles import SlurmProfile
    from spd_tools.launch.status import Job

_CHOICES = (
    "data",
    "split",
    "column",
    "seq_len",
    "tokenizer",
    "packing",
    "exclude_tokens",
    "device",
    "precision",
    "world_size",
    "threshold",
    "p_min",
    "n_uniform",
    "n_top",
    "window",
    "log_tokens",
    "seed",
    "memory_gb",
)
"""Options that a request takes as they are; those that were not given keep the request's defaults."""


def add_commands(commands: Subparsers) -> None:
    """Add `harvest`, `merge` and `prepare`."""
    harvest = add_command(commands, "harvest", _harvest, "count what every component of a run does, in one pass")
    harvest.add_argument("run", metavar="RUN", help="folder or checkpoint of an SPD run, wandb:..., planted, demo")
    harvest.add_argument("--n-batches", type=batches, required=True, metavar="N|all", help="global batches")
    harvest.add_argument("--batch-size", type=positive_int, required=True, metavar="B", help="rows per batch")
    _add_data(harvest)
    _add_running(harvest)
    _add_counting(harvest)
    _add_spreading(harvest)
    add_slurm_options(harvest)
    merge = add_command(commands, "merge", _merge, "make one harvest of what separately started ranks counted")
    merge.add_argument("run", metavar="RUN")
    merge.add_argument("--harvest", metavar="ID", help="harvest id (default: the only unfinished one)")
    merge.add_argument("--memory-gb", type=positive_float, default=2.0, metavar="GB", help="buffers (default 2)")
    prepare = add_command(commands, "prepare", _prepare, "download and tokenise only, for machines without a network")
    prepare.add_argument("run", metavar="RUN")
    prepare.add_argument(
        "--n-batches", type=batches, metavar="N|all", help="as the harvest will have it (streamed data)"
    )
    prepare.add_argument("--batch-size", type=positive_int, default=1, metavar="B", help="as the harvest will have it")
    _add_data(prepare)


def _add_data(parser: Parser) -> None:
    group = parser.add_argument_group("data (default: what the run was trained on)")
    for name, how in {
        "--data": {"metavar": "SOURCE", "help": "hub data set, local parquet, jsonl(.gz) or text, or stories[:SEED]"},
        "--split": {"metavar": "S"},
        "--column": {"metavar": "C", "help": "column of the text or of the token ids"},
        "--seq-len": {"metavar": "T", "type": positive_int, "help": "positions per row"},
        "--tokenizer": {"metavar": "NAME|FILE"},
        "--packing": {"choices": ("packed", "cut"), "help": "documents in one stream (default), or a row for each"},
    }.items():
        group.add_argument(name, default=argparse.SUPPRESS, **how)
    group.add_argument(
        "--exclude-tokens",
        type=non_negative_int,
        nargs="+",
        default=argparse.SUPPRESS,
        metavar="ID",
        help="positions with these token ids count nowhere (BOS, say)",
    )


def _add_running(parser: Parser) -> None:
    group = parser.add_argument_group("running")
    for name, how in {
        "--device": {"metavar": "D", "help": "cpu, cuda or cuda:N (default: CUDA where there is one)"},
        "--precision": {"choices": ("f32", "bf16"), "help": "of the model; counts are exact either way (default f32)"},
        "--world-size": {"metavar": "W", "type": positive_int, "help": "ranks that are started separately"},
        "--memory-gb": {"metavar": "GB", "type": positive_float, "help": "statistics kept in memory (default 2)"},
    }.items():
        group.add_argument(name, default=argparse.SUPPRESS, **how)
    group.add_argument("--rank", type=non_negative_int, metavar="R", help="only this rank's share; then `merge`")
    group.add_argument("--resume", action="store_true", help="go on from what an interrupted harvest saved")


def _add_spreading(parser: Parser) -> None:
    group = parser.add_argument_group("many GPUs")
    group.add_argument(
        "--n-gpus", type=positive_int, metavar="G", help="workers, a GPU each (on a machine without any: processes)"
    )
    group.add_argument("--max-concurrent", type=positive_int, metavar="N", help="most workers at a time")
    group.add_argument("--detach", action="store_true", help="leave at once; `jobs` shows how far it is")


def _add_counting(parser: Parser) -> None:
    group = parser.add_argument_group("counting")
    for name, how in {
        "--threshold": {"metavar": "X", "type": finite_float, "help": "fires strictly above (default: the run's own)"},
        "--p-min": {"metavar": "P", "type": positive_float, "help": "least next-token probability (default 0.001)"},
        "--n-uniform": {"metavar": "N", "type": non_negative_int, "help": "uniform examples (default 100)"},
        "--n-top": {"metavar": "N", "type": non_negative_int, "help": "top examples (default 100)"},
        "--window": {"metavar": "W", "type": non_negative_int, "help": "activations kept to each side (default 20)"},
        "--log-tokens": {"metavar": "N", "type": non_negative_int, "help": "tokens logged fully (default 1000000)"},
        "--seed": {"metavar": "S", "type": non_negative_int, "help": "of row order and sampling (default 0)"},
    }.items():
        group.add_argument(name, default=argparse.SUPPRESS, **how)


def _request(args: argparse.Namespace) -> HarvestRequest:
    from spd_tools.harvest import HarvestRequest

    chosen = {name: getattr(args, name) for name in _CHOICES if hasattr(args, name)}
    if "exclude_tokens" in chosen:
        chosen["exclude_tokens"] = tuple(chosen["exclude_tokens"])
    return HarvestRequest(run=args.run, n_batches=args.n_batches, batch_size=args.batch_size, **chosen)


def _harvest(args: argparse.Namespace) -> None:
    from spd_tools.harvest import run_harvest

    profile = slurm_profile(args)
    if profile is not None or args.n_gpus is not None:
        _launch(args, profile)
        return
    if args.detach or args.max_concurrent:
        name = "--detach" if args.detach else "--max-concurrent"
        raise SpdToolsError(f"{name} is for several workers; say how many with --n-gpus.")
    report_outcome(args, run_harvest(_request(args), rank=args.rank, resume=args.resume))


def _launch(args: argparse.Namespace, profile: SlurmProfile | None) -> None:
    """Workers of this machine or of a cluster, then the merge."""
    from spd_tools.cli.watching import is_queued, watch
    from spd_tools.launch.harvest import start_harvest

    n_gpus = args.n_gpus or 1
    if args.rank is not None or getattr(args, "world_size", n_gpus) != n_gpus:
        raise SpdToolsError("--rank and --world-size are for workers that are started by hand; leave them out.")
    args.world_size = n_gpus
    job = start_harvest(
        _request(args),
        slurm=profile,
        max_concurrent=args.max_concurrent,
        allow_dirty=getattr(args, "allow_dirty", False),
    )
    if profile is None and not args.detach:
        _say_started(job)
        _report_job(args, watch(job))
        return
    if profile is not None and not args.detach:
        job = watch(job, is_queued)
    if args.json:
        print_json(job)
    else:
        note(f"{job.id} is {'queued' if profile is not None else 'running'}. Look at it: spd-tools jobs show {job.id}")


def _say_started(job: Job) -> None:
    from spd_tools.launch.machine import visible_gpus

    n_workers = len(job.step("workers").tasks)
    gpus = visible_gpus()
    if not gpus:
        note(f"{job.id}: no GPU here, {plural(n_workers, 'process')} on the CPUs.")
    else:
        where = plural(min(n_workers, len(gpus)), "GPU")
        note(f"{job.id}: {plural(n_workers, 'worker')} on {where}. Ctrl-C cancels; what is saved stays.")


def _report_job(args: argparse.Namespace, job: Job) -> None:
    from spd_tools.harvest import HarvestOutcome

    result = job.result or {}
    [prepared] = job.step("prepare").tasks
    earlier = bool(prepared.result and prepared.result["already_finished"])
    outcome = HarvestOutcome(
        run_id=result["run_id"],
        harvest_id=result["harvest_id"],
        folder=Path(result["folder"]),
        state="already finished" if earlier else "finished",
        n_tokens=result["n_tokens"],
        seconds=(job.ended or job.created) - job.created,
    )
    report_outcome(args, outcome)


def _merge(args: argparse.Namespace) -> None:
    from spd_tools.harvest import merge_harvest

    report_outcome(args, merge_harvest(args.run, args.harvest, memory_gb=args.memory_gb))


def _prepare(args: argparse.Namespace) -> None:
    from spd_tools.harvest import prepare

    dataset = prepare(_request(args))
    if args.json:
        print_json(
            {
                "fingerprint": dataset.fingerprint,
                "source": dataset.source,
                "seq_len": dataset.seq_len,
                "n_rows": dataset.n_rows,
            }
        )
    else:
        note(
            f"Ready: {plural(dataset.n_rows, 'row')} of {plural(dataset.seq_len, 'token')} (token file "
            f"{dataset.fingerprint})."
        )


def report_outcome(args: argparse.Namespace, outcome: HarvestOutcome) -> None:
    """Say what became of a harvest and what to type next."""
    if args.json:
        print_json(outcome)
        return
    counted = plural(outcome.n_tokens, "token")
    name = f"harvest {outcome.harvest_id} of {outcome.run_id}"
    if outcome.state == "rank finished":
        note(f"Rank {args.rank} of {name} is finished: {counted} in {outcome.seconds:.1f} s.")
        note(f"When all ranks are: spd-tools merge {outcome.run_id} --harvest {outcome.harvest_id}")
        return
    took = "was finished earlier" if outcome.state == "already finished" else f"took {outcome.seconds:.1f} s"
    note(f"{name[0].upper()}{name[1:]} {took}: {counted}, in {outcome.folder}")
    which = harvest_named(outcome.run_id, outcome.harvest_id)
    note(f"Look at it: spd-tools search {which}, then spd-tools overview KEY {which}")
