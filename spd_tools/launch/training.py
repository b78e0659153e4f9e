"""A training as a job: what needs no GPU first, then one task, which starts a process per GPU."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from pydantic import TypeAdapter

from spd_tools.errors import SpdToolsError
from spd_tools.launch.control import start_job
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.status import Job
from spd_tools.training.configuration import check_json, read_configuration
from spd_tools.training.decompose import DecomposeRequest, read_request
from spd_tools.training.pretrain_run import PretrainRequest

_GRES = re.compile(r"(gpu(?::[^:,()]*[^:,()\d][^:,()]*)?)(?::\d+)?")
"""gpu, gpu:TYPE, gpu:N, gpu:TYPE:N"""


def start_decompose(
    request: DecomposeRequest, *, slurm: SlurmProfile, n_gpus: int = 1, allow_dirty: bool = False
) -> Job:
    """Queue a training, which goes on from whatever an earlier one of the same request has saved.

    The configuration is read now: what becomes of its file later does not matter.

    Args:
        request: What to train.
        slurm: The profile to submit with.
        n_gpus: GPUs of one node that train together.
        allow_dirty: Let jobs run tracked changes that were not committed.

    Raises:
        SpdToolsError: as ``start_job`` and ``read_request`` do.
    """
    frozen = dataclasses.replace(request, configuration=read_configuration(request.source))
    found, _ = read_request(frozen)
    check_json(found.document, request.source)
    arguments = {"request": plain_request(frozen), "n_gpus": n_gpus}
    return _start("decompose", found.name, arguments, request.device, n_gpus, slurm, allow_dirty)


def start_pretrain(request: PretrainRequest, *, slurm: SlurmProfile, n_gpus: int = 1, allow_dirty: bool = False) -> Job:
    """Queue a pretraining, which goes on from whatever an earlier one of the same request has saved.

    Args:
        request: What to train.
        slurm: The profile to submit with.
        n_gpus: GPUs of one node that train together.
        allow_dirty: Let jobs run tracked changes that were not committed.

    Raises:
        SpdToolsError: as ``start_job`` does.
    """
    check_json(request.config.model_dump(mode="json"), f"The configuration {request.config.name}")
    arguments = {"request": plain_request(request), "n_gpus": n_gpus}
    return _start("pretrain", request.config.name, arguments, request.device, n_gpus, slurm, allow_dirty)


def _start(
    kind: str,
    subject: str,
    arguments: dict[str, Any],
    device: str | None,
    n_gpus: int,
    slurm: SlurmProfile,
    allow_dirty: bool,
) -> Job:
    steps = training_steps(kind, arguments, gpus=gpus_of(device, n_gpus), prepare_here=slurm.prepare == "here")
    return start_job(
        kind=kind,
        subject=subject,
        request=arguments,
        graph=Graph(steps=steps),
        executor="slurm",
        profile=with_gpus(slurm, device, n_gpus),
        allow_dirty=allow_dirty,
    )


def training_steps(kind: str, arguments: dict[str, Any], *, gpus: int, prepare_here: bool = False) -> tuple[Step, Step]:
    """The steps ``prepare`` and ``train``.

    Args:
        kind: "decompose" or "pretrain".
        arguments: Of both steps.
        gpus: GPUs of the training.
        prepare_here: Prepare on the machine that submits.
    """
    return (
        Step(name="prepare", kind=f"{kind}-prepare", arguments=arguments, here=prepare_here),
        Step(name="train", kind=kind, arguments=arguments, after=("prepare",), gpus=gpus),
    )


def plain_request(request: Any) -> Any:
    """A request as JSON."""
    return TypeAdapter(type(request)).dump_python(request, mode="json")


def gpus_of(device: str | None, n_gpus: int) -> int:
    """GPUs that a training's task asks for.

    Raises:
        SpdToolsError: for one by its number, which means another GPU in every task.
    """
    if device is not None and device.startswith("cuda:"):
        raise SpdToolsError(f"A task sees the GPUs that it is given; say --device cuda instead of {device}.")
    return 0 if device == "cpu" else n_gpus


def with_gpus(profile: SlurmProfile, device: str | None, n_gpus: int) -> SlurmProfile:
    """A profile that gives a training's task all of its GPUs: what it says is about one.

    Raises:
        SpdToolsError: when the number of GPUs cannot be put into what it says, or it gives none.
    """
    if n_gpus == 1 or device == "cpu":
        return profile
    if profile.gpus == 0:
        raise SpdToolsError(f"The profile gives its tasks no GPU, and {n_gpus} were asked for; add --cpu.")
    if profile.gres is None:
        return profile.with_flags(gpus=n_gpus)
    found = _GRES.fullmatch(profile.gres)
    if found is None:
        raise SpdToolsError(
            f"The profile's gres {profile.gres!r} cannot be asked for {n_gpus} times; write it as gpu:TYPE:N."
        )
    return profile.with_flags(gres=f"{found[1]}:{n_gpus}")
