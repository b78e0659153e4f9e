"""What a training's source names: a configuration file, the folder of a run, or an experiment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spd_tools.decompositions.spd.files import CONFIG_NAME
from spd_tools.errors import SpdToolsError
from spd_tools.targets.build import read_yaml_mapping
from spd_tools.training.experiments import experiment


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """A configuration as it was when it was read: what a queued training goes by."""

    name: str
    """Begins the name of the run's folder; an experiment's own."""
    document: dict[str, Any]
    """A final_config.yaml as a mapping."""
    base: str | None
    """Folder that its relative paths start from; None: it is an experiment's."""

    @property
    def folder(self) -> Path:
        """Folder that its relative paths start from."""
        return Path.cwd() if self.base is None else Path(self.base)


def read_configuration(source: str) -> Configuration:
    """Read what a source names.

    Raises:
        SpdToolsError: when there is none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        path = path / CONFIG_NAME
    if not path.is_file():
        return Configuration(name=source, document=experiment(source).config(), base=None)
    base = path.resolve().parent
    name = base.name if path.name == CONFIG_NAME else path.stem
    return Configuration(name=name or "run", document=read_yaml_mapping(path), base=str(base))


def check_json(document: Any, source: str) -> None:
    """See that a document is the same after it has been through JSON, as those of jobs are.

    Raises:
        SpdToolsError: when it is not: YAML knows dates, infinities and keys that are no strings.
    """
    try:
        same = json.loads(json.dumps(document, allow_nan=False)) == document
    except (TypeError, ValueError):
        same = False
    if not same:
        raise SpdToolsError(
            f"{source} holds a value or a key that is neither text, a finite number, true, false nor null (YAML reads "
            "2026-01-31 as a date, say); put it in quotes."
        )
