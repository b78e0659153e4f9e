"""Experiments on components: each a pure function from (Subject, request) to a typed result that can be replayed."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spd_tools.experiments.records import Estimate, Request, Result
    from spd_tools.experiments.registry import EXPERIMENTS, Replay, experiment, make_request, read_result, replay, run
    from spd_tools.experiments.subject import Subject

__all__ = [
    "EXPERIMENTS",
    "Estimate",
    "Replay",
    "Request",
    "Result",
    "Subject",
    "experiment",
    "make_request",
    "read_result",
    "replay",
    "run",
]


def __getattr__(name: str) -> Any:
    # On first use: the model's side of it imports torch, and whoever lists stored results needs none of that.
    for module in ("records", "registry", "subject"):
        if name in __all__ and hasattr(found := import_module(f"spd_tools.experiments.{module}"), name):
            return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
