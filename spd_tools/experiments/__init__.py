"""Experiments on components: each a pure function from (Subject, request) to a typed result that can be replayed."""

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
