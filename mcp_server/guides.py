"""Descriptions of the tools that experiment, in the words that all doors share."""

from __future__ import annotations

from spd_tools.experiments.guide import GUIDES

_NAMES = {
    "enrichment": "token_stats with metric enrichment",
    "cofiring": "correlations with given_token",
    "occlusion": "minimal_context with mode occlusion",
    "position": "minimal_context with mode position or distance",
    "absolute": "position",
}
"""What is called otherwise here than in the guides."""
_OF_CONTEXT = {"minimal": "minimal_context", "occlusion": "occlusion", "position and distance": "position"}


def description(experiment: str) -> str:
    """What a client is told about an experiment."""
    return GUIDES[experiment].text(lambda name: _NAMES.get(name, name))


def context_description() -> str:
    """The same of minimal_context, which is three experiments."""
    parts = (f"{mode}: {description(name)}" for mode, name in _OF_CONTEXT.items())
    return "\n\n".join(["Which context does it need? Four questions, one per mode.", *parts])
