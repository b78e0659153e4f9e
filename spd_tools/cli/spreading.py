"""Options of commands that start jobs: where their tasks run, and how many at once."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from spd_tools.cli.arguments import Parser, positive_int
from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.launch.profiles import SlurmProfile

_PROFILE_FIELDS = (
    *("time", "partition", "mem", "cpus_per_task", "gres", "account", "qos", "constraint", "exclude"),
    *("umask", "max_gpus", "job_suffix", "signal_delay_s", "prepare"),
)
"""Fields of a profile that have a flag."""
_NEED_SLURM = (*_PROFILE_FIELDS, "profile", "allow_dirty")


def add_slurm_options(parser: Parser) -> None:
    """--slurm, --profile and what stands above the profile."""
    group = parser.add_argument_group("SLURM (a profile, with these flags on top)")
    group.add_argument("--slurm", action="store_true", help="submit to a cluster instead of starting processes here")
    suppressed = argparse.SUPPRESS
    for name, how in {
        "--profile": {"metavar": "NAME|FILE", "help": "YAML profile (default: SPD_SLURM_PROFILE)"},
        "--time": {
            "metavar": "T",
            "help": "limit of one attempt: HH:MM:SS, D-HH:MM:SS or minutes; workers go on in the next",
        },
        "--partition": {"metavar": "P"},
        "--mem": {"metavar": "M", "help": "memory of a node: 32G"},
        "--cpus-per-task": {"metavar": "N", "type": positive_int},
        "--gres": {"metavar": "G", "help": "how a worker asks for its GPU: gpu:a100:1"},
        "--account": {"metavar": "A"},
        "--qos": {"metavar": "Q"},
        "--constraint": {"metavar": "C"},
        "--exclude": {"metavar": "NODES"},
        "--umask": {"metavar": "MASK", "help": "0007 shares the files with a group"},
        "--max-gpus": {"metavar": "N", "type": positive_int, "help": "most GPUs of one array at a time"},
        "--job-suffix": {"metavar": "TEXT", "help": "added to the names of jobs"},
        "--signal-delay-s": {"metavar": "S", "type": positive_int, "help": "warning time before the limit"},
        "--prepare": {"choices": ("here", "job"), "help": "where data are tokenised: here, or in a job"},
    }.items():
        group.add_argument(name, default=suppressed, **how)
    group.add_argument(
        "--allow-dirty",
        action="store_true",
        default=suppressed,
        help="let jobs run uncommitted changes of tracked files",
    )


def slurm_profile(args: argparse.Namespace) -> SlurmProfile | None:
    """The profile with the flags on top; None without --slurm.

    Raises:
        SpdToolsError: for flags that make no sense without --slurm, and unusable values.
    """
    if not args.slurm:
        if given := [name for name in _NEED_SLURM if hasattr(args, name)]:
            raise SpdToolsError(
                f"--{given[0].replace('_', '-')} is for jobs of a cluster; add --slurm or leave it out."
            )
        return None
    from spd_tools.launch.profiles import load_profile

    flags = {name: getattr(args, name) for name in _PROFILE_FIELDS if hasattr(args, name)}
    return load_profile(getattr(args, "profile", None)).with_flags(**flags)
