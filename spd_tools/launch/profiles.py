"""What a job asks a cluster for: a YAML file of ``slurm/profiles``, with flags on top -> parameters of submitit."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from spd_tools.errors import SpdToolsError
from spd_tools.store.records import Record
from spd_tools.suggest import did_you_mean

PROFILE_VARIABLE = "SPD_SLURM_PROFILE"
PROFILES = Path(__file__).resolve().parents[1] / "slurm_profiles"
"""The profiles that come along: ``slurm/profiles`` of a checkout, through a link that wheels hold as a folder."""

SIGNAL_DELAY_S = 90
"""Default seconds between the checkpoint signal and the end; time for a worker to write gigabytes."""
SIGNAL_TICK_S = 30
"""SLURM looks at time limits this often: the signal may come that much earlier."""

_TIME = re.compile(r"(?:(?P<days>\d+)-(?P<day_hours>\d+)(?::(?P<day_rest>\d+(?::\d+)?))?|(?P<clock>\d+(?::\d+){0,2}))")


def _minutes(value: object) -> object:
    """A time limit as sbatch reads it -> minutes, rounded up."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError('a time limit is "HH:MM:SS", "D-HH:MM:SS" or minutes')
    found = _TIME.fullmatch(str(value).strip())
    if found is None:
        raise ValueError(f'{str(value)!r} is no time limit; write "HH:MM:SS", "D-HH:MM:SS" or minutes')
    if found["days"] is not None:
        parts = [int(found["day_hours"]), *map(int, (found["day_rest"] or "0").split(":")), 0]
        seconds = int(found["days"]) * 86_400 + parts[0] * 3600 + parts[1] * 60 + parts[2]
    else:
        clock = [int(part) for part in found["clock"].split(":")]
        hours, minutes, rest = {1: (0, *clock, 0), 2: (0, *clock), 3: tuple(clock)}[len(clock)]
        seconds = hours * 3600 + minutes * 60 + rest
    return -(-seconds // 60)


Minutes = Annotated[int, BeforeValidator(_minutes), Field(gt=0)]
Word = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\p{Cc}\p{Z}]+$")]
Line = Annotated[str, StringConstraints(pattern=r"^\P{Cc}+$")]
Memory = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]*(K|M|G|T|KB|MB|GB|TB))$")]
Umask = Annotated[str, StringConstraints(pattern=r"^0?[0-7]{3}$")]

_FIELD_OF_OPTION = {
    "cpus-per-task": "cpus_per_task",
    "gpus": "gpus",
    "gpus-per-node": "gpus",
    "gpus-per-task": "gpus",
    "signal": "signal_delay_s",
    "job-name": "job_suffix",
} | {name: name for name in ("partition", "time", "mem", "gres", "account", "qos", "constraint", "exclude")}
_OURS = ("array", "dependency", "error", "output", "open-mode", "kill-on-invalid-dep", "requeue", "no-requeue", "chdir")


class StepResources(Record):
    """What the steps without a GPU ask for instead; what is left out is as for the workers."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    partition: Word | None = None
    """Partition with CPUs."""
    time: Minutes | None = None
    """Time limit in minutes."""
    mem: Memory | None = None
    """Memory of a node."""
    cpus_per_task: int | None = Field(default=None, gt=0)
    """CPUs; the merge uses all that it gets."""
    constraint: Line | None = None
    """Features that the node must have."""


class SlurmProfile(Record):
    """What jobs ask SLURM for; None: whatever the cluster gives."""

    model_config = ConfigDict(coerce_numbers_to_str=True)

    partition: Word | None = None
    """Partition, or several with commas."""
    time: Minutes = 240
    """Time limit of one attempt in minutes, in YAML also "HH:MM:SS" or "D-HH:MM:SS"; a worker goes on in the next."""
    mem: Memory | None = None
    """Memory of a node, "32G"; 0: all of it."""
    cpus_per_task: int | None = Field(default=None, gt=0)
    """CPUs of a worker; it counts on them while the GPU runs the model."""
    gpus: int | None = Field(default=None, ge=0)
    """GPUs that a worker asks for; None: the one that it uses; 0: none, the workers run on CPUs."""
    gres: Line | None = None
    """How a worker asks for its GPU where a number is not enough, "gpu:a100:1"; in place of gpus."""
    account: Word | None = None
    """Account that is charged."""
    qos: Word | None = None
    """Quality of service."""
    constraint: Line | None = None
    """Features that the node must have."""
    exclude: Word | None = None
    """Nodes to avoid, with commas."""
    umask: Umask | None = None
    """Permissions that files of the job do not get, "0007" to share them with a group."""
    max_gpus: int | None = Field(default=None, gt=0)
    """Most workers of one array that run at a time, counted in GPUs."""
    job_suffix: Word | None = None
    """Added to the names of jobs."""
    signal_delay_s: int | None = Field(default=None, gt=0)
    """Seconds before the time limit at which a worker is told to save; None: 90, less where the limit is short."""
    setup: tuple[Line, ...] = ()
    """Shell lines before Python starts (module load ...); a line that fails ends the job."""
    prepare: Literal["here", "job"] = "job"
    """Where data are downloaded and tokenised: here, on the login node, where compute nodes are offline; or a job."""
    without_gpu: StepResources | None = None
    """What prepare and merge ask for where the workers' partition is not for them."""
    extra: dict[Word, Line | bool | int] = Field(default_factory=dict)
    """Any other options of sbatch, name -> value (true: without a value)."""

    @model_validator(mode="after")
    def _consistent(self) -> SlurmProfile:
        if self.gpus is not None and self.gres is not None:
            raise ValueError("gpus and gres say the same thing; keep one of them")
        if self.signal_delay_s is not None and self.signal_delay_s + SIGNAL_TICK_S >= self.time * 60:
            raise ValueError(
                f"a signal {self.signal_delay_s} s before the end of {self.time} min may come at the start, as SLURM "
                f"sends it up to {SIGNAL_TICK_S} s early; lower signal_delay_s or raise time"
            )
        for option in map(_option, self.extra):
            if option in _FIELD_OF_OPTION:
                raise ValueError(f"extra has {option!r}, for which there is the field {_FIELD_OF_OPTION[option]!r}")
            if option in _OURS:
                raise ValueError(f"extra has {option!r}, which spd-tools sets itself; remove it")
        return self

    def with_flags(self, **overrides: Any) -> SlurmProfile:
        """The profile with some fields replaced; None: not given.

        Raises:
            SpdToolsError: for a value that does not fit, naming the flag.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        unknown = given.keys() - type(self).model_fields.keys()
        assert not unknown, f"no fields of a profile: {unknown}"
        document = self.model_dump(exclude_unset=True)
        for name, other in (("gpus", "gres"), ("gres", "gpus")):
            if name in given:
                document.pop(other, None)
        try:
            return SlurmProfile.model_validate(document | given)
        except ValidationError as error:
            raise SpdToolsError(_flag_sentence(error, given)) from None

    def submitit_parameters(
        self,
        *,
        gpus: int,
        name: str,
        max_concurrent: int | None = None,
        dependency: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> dict[str, object]:
        """What ``AutoExecutor(cluster="slurm").update_parameters`` takes.

        Args:
            gpus: GPUs that a job of this step uses: 1 for a worker, 0 for prepare and merge.
            name: of the job.
            max_concurrent: most elements of an array that run at a time; ``max_gpus`` may lower it.
            dependency: ``afterok:ID``; if it can never hold, the job is cancelled instead of pending for ever.
            environment: variables of the job, also on clusters that do not export the submitter's.
        """
        step = StepResources() if gpus or self.without_gpu is None else self.without_gpu
        minutes = step.time or self.time
        cpus = step.cpus_per_task or self.cpus_per_task
        extra: dict[str, object] = {_option(key): value for key, value in self.extra.items() if value is not False}
        # A preempted job comes back on clusters, too, whose default is to drop it.
        extra["requeue"] = True
        if dependency is not None:
            extra["kill-on-invalid-dep"] = "yes"
        parameters: dict[str, object] = {
            "name": name if self.job_suffix is None else f"{name}-{self.job_suffix}",
            "timeout_min": minutes,
            "nodes": 1,
            "tasks_per_node": 1,
            "stderr_to_stdout": True,
            "cpus_per_task": cpus,
            "slurm_partition": step.partition or self.partition,
            "slurm_mem": step.mem or self.mem,
            "slurm_account": self.account,
            "slurm_qos": self.qos,
            "slurm_constraint": step.constraint or self.constraint,
            "slurm_exclude": self.exclude,
            "slurm_signal_delay_s": self._signal_delay(minutes),
            "slurm_setup": self._setup(environment or {}),
            "slurm_dependency": dependency,
            "slurm_additional_parameters": extra,
            # Since SLURM 22.05 srun does not take the number over from sbatch.
            "slurm_srun_args": None if cpus is None else [f"--cpus-per-task={cpus}"],
            "slurm_array_parallelism": self._array_parallelism(gpus, max_concurrent),
            **self._gpu_parameters(gpus),
        }
        return {key: value for key, value in parameters.items() if value is not None}

    def _signal_delay(self, minutes: int) -> int:
        if self.signal_delay_s is not None and minutes == self.time:
            return self.signal_delay_s
        return min(SIGNAL_DELAY_S, minutes * 20)  # of one minute: 20 s, as at least ten have to be left before them

    def _setup(self, environment: Mapping[str, str]) -> list[str] | None:
        lines = list(self.setup)
        if self.umask is not None:
            lines.append(f"umask {self.umask}")
        # Last: a module's PYTHONPATH must not hide the job's own code.
        lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(environment.items())]
        # Or a failed line would go unnoticed.
        return ["set -e", *lines] if lines else None

    def _gpu_parameters(self, gpus: int) -> dict[str, object]:
        if gpus == 0 or self.gpus == 0:
            return {}
        if self.gres is not None:
            return {"slurm_gres": self.gres}
        return {"gpus_per_node": gpus if self.gpus is None else self.gpus}

    def _array_parallelism(self, gpus: int, max_concurrent: int | None) -> int | None:
        limits = [] if max_concurrent is None else [max_concurrent]
        if self.max_gpus is not None and gpus:
            limits.append(max(1, self.max_gpus // (self.gpus or gpus)))
        return min(limits, default=None)


def load_profile(name_or_path: str | None) -> SlurmProfile:
    """A profile by its name (of those that come along), or by the path of a YAML file.

    Args:
        name_or_path: None: what ``SPD_SLURM_PROFILE`` names, or else the defaults of every field.

    Raises:
        SpdToolsError: when there is no such profile, or it is damaged.
    """
    wanted = name_or_path or os.environ.get(PROFILE_VARIABLE)
    if not wanted:
        return SlurmProfile()
    path = _find(wanted)
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_ProfileLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SpdToolsError(f"The profile {path} cannot be read as YAML ({reason}); correct it.") from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise SpdToolsError(f"The profile {path} holds no fields; write lines such as `partition: gpu`.")
    try:
        return SlurmProfile.model_validate(document)
    except ValidationError as error:
        raise SpdToolsError(_sentence(f"The profile {path}", error)) from None


def profile_names() -> list[str]:
    """The profiles that come along."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def _find(wanted: str) -> Path:
    if os.sep in wanted or wanted.endswith((".yaml", ".yml")):
        path = Path(wanted).expanduser()
        if not path.is_file():
            raise SpdToolsError(
                f"There is no profile {path}; name a YAML file or one of: {', '.join(profile_names())}."
            )
        return path
    if wanted not in profile_names():
        raise SpdToolsError(f"There is no profile {wanted!r}; {did_you_mean(wanted, profile_names(), 'profiles')}")
    return PROFILES / f"{wanted}.yaml"


class _ProfileLoader(yaml.SafeLoader):
    """safe_load, in which 4:00:00 is text and 0027 too: YAML 1.1 makes them the numbers 14400 and 23."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleVariableOverride]


_ProfileLoader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))
_ProfileLoader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile("^(?:null|~|)$"), ["n", "~", ""])
_ProfileLoader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile("^(?:0|[1-9][0-9]*)$"), list("0123456789"))


def _option(name: str) -> str:
    return name.lstrip("-").replace("_", "-")


def _sentence(what: str, error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section = StepResources if place.startswith("without_gpu.") else SlurmProfile
        known = did_you_mean(str(first["loc"][-1]), section.model_fields, "fields")
        return f"{what} has an unknown field {place!r}; {known}"
    return f"{what}: {place}: {_complaint(first)}." if place else f"{what}: {_complaint(first)}."


def _flag_sentence(error: ValidationError, given: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    complaint = _complaint(first)
    if name in given:
        return f"--{name.replace('_', '-')}: {complaint}."
    return f"{complaint[:1].upper()}{complaint[1:]}."  # a rule between fields


def _complaint(error: Mapping[str, Any]) -> str:
    form = _FORMS.get(str(error["loc"][-1]) if error["loc"] else "")
    if error["type"] == "string_pattern_mismatch":
        return f"{error['input']!r} is not {form or 'plain text without breaks or blanks'}"
    if error["type"] == "value_error":
        return str(error["msg"]).removeprefix("Value error, ")
    return f"{error['input']!r} does not do: {error['msg'][:1].lower()}{error['msg'][1:]}"


_FORMS = {
    "mem": 'an amount of memory with its unit, such as "32G"',
    "umask": 'a umask of octal digits, such as "0027"',
}
