"""Sweeps: a grid over one or several configurations -> trainings, each with a folder of its own."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd_tools.decompositions.spd.config import modern_spelling
from spd_tools.errors import SpdToolsError
from spd_tools.training.configuration import Configuration, check_json, read_configuration
from spd_tools.training.decompose import DecomposeRequest, prepare_decomposition, read_request
from spd_tools.training.sweep_grid import leaves, merged, n_points, points, read_grid, refuse_unknown_fields

MAX_POINTS = 100
"""Trainings that are started without being asked twice."""


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One training of a sweep."""

    name: str
    """Of its configuration."""
    changes: dict[str, Any]
    """What the grid says about it, to be merged into the configuration."""
    varies: tuple[tuple[str, Any], ...]
    """Place of every field that varies, with dots, and its value here: pairs, as their order is the grid's."""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Trainings that differ in what a grid varies."""

    request: DecomposeRequest
    """What all of them have in common; its source names all configurations."""
    configurations: dict[str, Configuration]
    """Name -> as it was when it was read."""
    points: tuple[SweepPoint, ...]

    def request_of(self, place: int) -> DecomposeRequest:
        """What ``decompose`` is asked at one point. A seed is also that of the toy target, as with ``--seed``."""
        point = self.points[place]
        base = self.configurations[point.name]
        return dataclasses.replace(
            self.request,
            source=point.name,
            configuration=dataclasses.replace(base, document=merged(base.document, point.changes)),
            seed=point.changes.get("seed"),
        )


def plan_sweep(sources: Sequence[str], grid: Path, request: DecomposeRequest, *, max_points: int = MAX_POINTS) -> Sweep:
    """Read and check everything; nothing is trained.

    Args:
        sources: Configuration files, folders of runs, or experiments' names.
        grid: The file (``spd_tools.training.sweep_grid``).
        request: What all trainings have in common.
        max_points: More are refused.

    Raises:
        SpdToolsError: when something cannot be read, the grid names an unknown field or has too many points, or a point
            of it cannot be trained.
    """
    configurations = _configurations(sources)
    found = [
        SweepPoint(name=name, changes=changes, varies=varies)
        for name, section in _sections(grid, list(configurations), max_points)
        for changes, varies in points(section, leaves(section, str(grid)))
    ]
    sweep = Sweep(
        request=dataclasses.replace(request, source=", ".join(configurations)),
        configurations=configurations,
        points=tuple(found),
    )
    _check(sweep, grid)
    return sweep


def _configurations(sources: Sequence[str]) -> dict[str, Configuration]:
    read = [read_configuration(source) for source in sources]
    for source, one in zip(sources, read, strict=True):
        check_json(one.document, source)
    twice = [name for name, n in Counter(one.name for one in read).items() if n > 1]
    if twice:
        raise SpdToolsError(
            f"Two of the configurations are called {twice[0]}; rename a file, or sweep them one by one."
        )
    return {one.name: dataclasses.replace(one, document=modern_spelling(one.document)) for one in read}


def _sections(grid: Path, names: list[str], max_points: int) -> list[tuple[str, dict[str, Any]]]:
    sections = list(read_grid(grid, names).items())
    n = sum(n_points(leaves(section, str(grid))) for _, section in sections)
    if n > max_points:
        raise SpdToolsError(
            f"The grid {grid} has {n:,} points, and {max_points:,} are allowed; make it smaller, or allow them with "
            f"--max-points {n}."
        )
    return sections


def _check(sweep: Sweep, grid: Path) -> None:
    same: dict[str, int] = {}
    for place, point in enumerate(sweep.points):
        name = f"Point {place} of {grid} ({point.name})"
        request = dataclasses.replace(sweep.request_of(place), source=name)
        _, config = read_request(request)
        refuse_unknown_fields(point.changes, config, str(grid))
        earlier = same.setdefault(f"{point.name} {config.model_dump_json()}", place)
        if earlier != place:
            raise SpdToolsError(f"{name} is the same training as point {earlier}; leave one of the values that differ.")


def prepare_sweep(sweep: Sweep) -> None:
    """Download, train toy targets and tokenise what the points need; each thing once.

    Raises:
        SpdToolsError: when a target or data cannot be had, or does not fit its configuration.
    """
    seen: set[str] = set()
    for place in range(len(sweep.points)):
        request = sweep.request_of(place)
        _, config = read_request(request)
        decides_files = config.model_dump_json(
            include={
                *("pretrained_model_class", "pretrained_model_name", "pretrained_model_path", "tokenizer_name"),
                *("module_info", "identity_module_info", "init_spd_checkpoint", "task_config"),
                *("batch_size", "steps", "eval_batch_size", "n_eval_steps"),
            }
        )
        key = f"{request.source} {request.seed if config.is_toy else None} {decides_files}"
        if key not in seen:
            seen.add(key)
            prepare_decomposition(request)
