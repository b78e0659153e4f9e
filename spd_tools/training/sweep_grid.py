"""Grids: a YAML file in which `values: [...]` stands wherever a configuration has one value.

::

    global:                              # for every configuration that is swept
      seed: {values: [0, 1, 2]}
      steps: 1000                        # the same at all points
      loss_metric_configs:               # entries are told apart by classname (of module_info: module_pattern)
        - classname: ImportanceMinimalityLoss
          coeff: {values: [1.0e-3, 1.0e-2]}
    tms_5-2:                             # for the configuration of that name, on top of global
      lr_schedule: {start_val: {values: [0.01]}}

What a grid does not name stays as the configuration has it. Points are all combinations; the last leaf varies fastest.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from spd_tools.errors import SpdToolsError
from spd_tools.suggest import did_you_mean
from spd_tools.training.configuration import check_json

GLOBAL = "global"
_VALUES = "values"
_KEYS = ("classname", "module_pattern")
"""What tells the entries of a list apart."""


@dataclass(frozen=True)
class Leaf:
    """A field that varies."""

    label: str
    """Its place, with dots: "loss_metric_configs.FaithfulnessLoss.coeff"."""
    path: tuple[str | int, ...]
    values: tuple[Any, ...]


def read_grid(path: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """What a grid file says about each configuration: its own section on top of ``global``.

    Args:
        path: The file.
        names: Of the configurations that are swept.

    Raises:
        SpdToolsError: when it cannot be read, or a section is none of theirs.
    """
    document = _read(path)
    for name, section in document.items():
        if name not in (GLOBAL, *names):
            known = did_you_mean(str(name), (GLOBAL, *names), "sections")
            raise SpdToolsError(f"{path} has a section {name!r}, which is about nothing that is swept; {known}")
        if section is not None and not isinstance(section, dict):
            raise SpdToolsError(f"{path}: the section {name} holds no fields; write lines such as `seed: 1` below it.")
    return {name: merged(document.get(GLOBAL) or {}, document.get(name) or {}) for name in names}


def _read(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpdToolsError(f"The grid {path} cannot be read ({error.strerror}); name a YAML file.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise SpdToolsError(f"The grid {path} is no valid YAML ({reason}); correct it.") from None
    if not isinstance(document, dict):
        raise SpdToolsError(f"The grid {path} has no sections; write `{GLOBAL}:` and below it what varies.")
    check_json(document, str(path))
    return document


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` says: mappings field by field, lists of named entries entry by entry."""
    result = copy.deepcopy(dict(below))
    for name, value in above.items():
        result[name] = _merged_values(result.get(name), copy.deepcopy(value))
    return result


def _merged_values(old: Any, new: Any) -> Any:
    if isinstance(old, dict) and isinstance(new, dict) and _VALUES not in old and _VALUES not in new:
        return merged(old, new)
    if isinstance(new, list) and isinstance(old, list) and (key := _key(old)) is not None and _key(new) == key:
        entries = {entry[key]: entry for entry in old}
        for entry in new:
            entries[entry[key]] = merged(entries.get(entry[key], {}), entry)
        return list(entries.values())
    return new


def _key(entries: list[Any]) -> str | None:
    """What tells a list's entries apart; None: it is one value."""
    for key in _KEYS:
        if entries and all(isinstance(entry, dict) and isinstance(entry.get(key), str) for entry in entries):
            return key
    return None


def leaves(section: Any, source: str) -> list[Leaf]:
    """The fields that vary, in their order.

    Raises:
        SpdToolsError: for `values` that are no list, are empty or name one value twice.
    """
    return list(_leaves(section, (), (), source))


def _leaves(value: Any, path: tuple[str | int, ...], labels: tuple[str, ...], source: str) -> Iterator[Leaf]:
    if isinstance(value, dict) and _VALUES in value:
        yield _leaf(value, path, ".".join(labels), source)
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, (*path, name), (*labels, name), source)
    elif isinstance(value, list) and (key := _key(value)) is not None:
        for place, entry in enumerate(value):
            yield from _leaves(entry, (*path, place), (*labels, entry[key]), source)


def _leaf(value: dict[str, Any], path: tuple[str | int, ...], label: str, source: str) -> Leaf:
    values = value[_VALUES]
    if len(value) > 1 or not isinstance(values, list) or not values:
        raise SpdToolsError(f"{source}: {label} needs a list of values and nothing else, such as `values: [1, 2]`.")
    if twice := [one for place, one in enumerate(values) if one in values[:place]]:
        raise SpdToolsError(f"{source}: {label} names {twice[0]!r} twice; leave one.")
    return Leaf(label, path, tuple(values))


def n_points(found: Sequence[Leaf]) -> int:
    """Combinations of the values."""
    return math.prod(len(leaf.values) for leaf in found)


Labelled = tuple[tuple[str, Any], ...]
"""Labels of leaves, and their values."""


def points(section: dict[str, Any], found: Sequence[Leaf]) -> Iterator[tuple[dict[str, Any], Labelled]]:
    """All combinations: (the section with one value for each leaf, the leaves' labels and values)."""
    for chosen in itertools.product(*(leaf.values for leaf in found)):
        changes = copy.deepcopy(section)
        for leaf, value in zip(found, chosen, strict=True):
            _put(changes, leaf.path, copy.deepcopy(value))
        yield changes, tuple((leaf.label, value) for leaf, value in zip(found, chosen, strict=True))


def _put(document: Any, path: tuple[str | int, ...], value: Any) -> None:
    *parents, last = path
    for step in parents:
        document = document[step]
    document[last] = value


def refuse_unknown_fields(changes: Any, config: Any, source: str, labels: tuple[str, ...] = ()) -> None:
    """See that every field that a grid names is one that a configuration has.

    Args:
        changes: What the grid says.
        config: The checked configuration that it led to.
        source: The grid's name, for messages.
        labels: Where in the configuration this is.

    Raises:
        SpdToolsError: for an unknown field, naming it.
    """
    if isinstance(changes, dict) and isinstance(config, BaseModel):
        known = type(config).model_fields
        for name, change in changes.items():
            label = ".".join((*labels, name))
            if name not in known:
                raise SpdToolsError(
                    f"{source} names the field {label}, which has no effect on a decomposition; "
                    f"{did_you_mean(name, known, 'fields there')}"
                )
            refuse_unknown_fields(change, getattr(config, name), source, (*labels, name))
    elif isinstance(changes, list) and isinstance(config, list) and (key := _key(changes)) is not None:
        for entry in changes:
            label = ".".join((*labels, entry[key]))
            found = next((one for one in config if getattr(one, key, None) == entry[key]), None)
            if found is None:
                raise SpdToolsError(f"{source} names {label}, which is not computed here; leave it out.")
            refuse_unknown_fields(entry, found, source, (*labels, entry[key]))
