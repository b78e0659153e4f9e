"""A readable table to stderr, one JSON object as the last line of stdout."""

from __future__ import annotations

import json
import platform
import resource
import sys
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table


def report(title: str, rows: list[tuple[str, str]], figures: dict[str, Any]) -> None:
    table = Table(title=title, show_header=False)
    for name, value in rows:
        table.add_row(name, value)
    Console(stderr=True).print(table)
    print(json.dumps(figures | {"versions": versions()}), flush=True)


def versions() -> dict[str, str]:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    return {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__, "device": device}


def peak_rss_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def fail(message: str) -> None:
    """The first batch is wrong: no figure is printed."""
    print(f"benchmark refused: {message}", file=sys.stderr)
    raise SystemExit(1)
