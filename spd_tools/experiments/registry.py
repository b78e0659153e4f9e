"""All experiments by name: one way to run them, to read their results back and to replay them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import SerializeAsAny, ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.experiments.records import Request, Result
from spd_tools.experiments.subject import Subject
from spd_tools.store.records import Record
from spd_tools.suggest import did_you_mean

EXPERIMENTS: dict[str, str] = {
    "probe": "Probe",
    "ablate": "Ablate",
    "direct_effect": "DirectEffect",
    "triage": "Triage",
    "enrichment": "Enrichment",
    "cofiring": "Cofiring",
    "interact": "Interact",
    "generate_and_test": "GenerateAndTest",
    "sweep": "Sweep",
    "occlusion": "Occlusion",
    "minimal_context": "MinimalContext",
    "position": "Position",
}
"""Name -> stem of its classes: "probe" is spd_tools.experiments.probe with ProbeRequest, ProbeResult and probe()."""

TOLERANCE = 1e-5
"""How far numbers of a replay on another machine may lie from the first ones (of 1, or of the number if larger)."""


@dataclass(frozen=True)
class Experiment:
    """One kind of experiment."""

    name: str
    request: type[Request]
    result: type[Result]
    function: Callable[[Subject, Any], Result]


class Replay(Record):
    """A result computed again; the new one has the id of the first."""

    id: str
    same_machine: bool
    """Whether device and versions are those of the first time; only then must the results be equal to the bit."""
    identical: bool
    largest_difference: float
    """Between numbers of the two results, relative where they are above 1; infinite where they differ in form."""
    holds: bool
    """Identical on the same machine, within 1e-5 on another."""
    result: SerializeAsAny[Result]


def experiment(name: str) -> Experiment:
    """An experiment by name.

    Raises:
        SpdToolsError: when there is none of that name.
    """
    if name not in EXPERIMENTS:
        raise SpdToolsError(f"There is no experiment {name!r}; {did_you_mean(name, list(EXPERIMENTS), 'experiments')}")
    module = import_module(f"spd_tools.experiments.{name}")
    stem = EXPERIMENTS[name]
    return Experiment(name, getattr(module, f"{stem}Request"), getattr(module, f"{stem}Result"), getattr(module, name))


def make_request(name: str, parameters: Mapping[str, Any]) -> Request:
    """A request from what somebody typed.

    Raises:
        SpdToolsError: for an unknown experiment or parameter, or a value that does not fit.
    """
    kind = experiment(name)
    try:
        return kind.request.model_validate({**parameters, "experiment": name})
    except ValidationError as error:
        raise SpdToolsError(_unfit(name, error)) from None


def _unfit(name: str, error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    where = ".".join(map(str, first["loc"])) or "the request"
    if first["type"] == "missing":
        return f"{name} needs {where}; give it."
    if first["type"] == "extra_forbidden":
        return f"{name} takes no {where}; leave it out."
    said = first["msg"].removeprefix("Value error, ").rstrip(".")
    return f"{name}: {where} does not fit ({said[:1].lower()}{said[1:]}); correct it."


def run(subject: Subject, request: Request) -> Result:
    """Do an experiment.

    Raises:
        SpdToolsError: for whatever in the request does not fit the subject.
    """
    subject.harvest.keys.flat(request.key)
    return experiment(request.experiment).function(subject, request)


def read_result(document: str | bytes | Mapping[str, Any]) -> Result:
    """A result from its JSON.

    Raises:
        SpdToolsError: when it is none.
    """
    try:
        data = json.loads(document) if isinstance(document, str | bytes) else document
        return experiment(data["request"]["experiment"]).result.model_validate(data)
    except (ValidationError, KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SpdToolsError(f"This is no result of an experiment ({type(error).__name__}); run it again.") from None


def replay(subject: Subject, first: Result) -> Replay:
    """Do an experiment again and compare.

    Raises:
        SpdToolsError: when the result comes from another harvest or decomposition.
    """
    if first.subject != subject.info:
        raise SpdToolsError(
            f"{first.id} was done on harvest {first.subject.harvest_id} of {first.subject.run_id} (fingerprint "
            f"{first.subject.fingerprint[:8]}), not on {subject.info.harvest_id} (fingerprint "
            f"{subject.info.fingerprint[:8]}); name that harvest."
        )
    # Its own id may differ: a result that stands beside one that cannot be read any more has an id of its own.
    again = run(subject, first.request).model_copy(update={"id": first.id})
    same_machine = again.machine == first.machine
    pair = [result.model_dump(mode="json", exclude={"machine", *_WORDS}) for result in (first, again)]
    difference = max(_differences(*pair), default=0.0)
    identical = pair[0] == pair[1]
    return Replay(
        id=first.id,
        same_machine=same_machine,
        identical=identical,
        largest_difference=difference,
        holds=identical if same_machine else difference <= TOLERANCE,
        result=again,
    )


_WORDS = ("summary", "population")
"""Fields that say in words what the rest says in numbers: other versions may say it otherwise."""


def _differences(first: Any, second: Any) -> Iterator[float]:
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        for name in first:
            yield from _differences(first[name], second[name]) if name not in _WORDS else ()
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for a, b in zip(first, second, strict=True):
            yield from _differences(a, b)
    elif isinstance(first, float | int) and isinstance(second, float | int):
        yield abs(first - second) / max(1.0, abs(first), abs(second))
    elif first != second:
        yield math.inf
