"""A small harvest of the planted decomposition, and a label of one of its components with texts to test it on."""

from __future__ import annotations

from pathlib import Path

import pytest

from spd_tools.harvest import HarvestRequest, pipeline, run_harvest
from spd_tools.store.harvest import Harvest

ROWS = 512
KEY = "h.0.mlp.down_proj:13"
"""Fires on tool words, extremely on the rare "needle"; in the first block, so that nothing but the token matters."""
OTHER = "h.0.mlp.down_proj:0"
TOOLS = ("saw", "drill", "knife", "ladder", "nail", "axe", "rope", "shovel", "hammer", "bucket", "brush", "needle")
LABEL = "any tool word"
POSITIVES = [
    "the green «saw» falls",
    "a white «drill» rests often",
    "every dog sees this «needle»",
    "this cat keeps that «knife»",
    "seven blue «axe»",
    "a mouse takes the «hammer»",
    "this wolf sells every «shovel»",
    "the train hides that «rope»",
    "a castle brings seven «bucket»",
    "every salad and the «ladder»",
    "this bean and a «nail»",
    "the valley takes a «brush»",
]
NEGATIVES = [
    "the green «cat» falls",
    "a white «dog» rests",
    "every wolf sees this «mouse»",
    "this cat keeps that «salad»",
    "a blue «train»",
    "the mouse takes a «bean»",
]
PARAMETERS: dict[str, dict] = {
    "ablate": {"tokens": ["falls"], "n_sites": 4, "n_controls": 19},
    "cofiring": {"other": OTHER},
    "direct_effect": {},
    "enrichment": {"limit": 3},
    "generate_and_test": {"label": LABEL, "positives": POSITIVES[:2]},
    "interact": {"first_tokens": ["saw"], "second_tokens": ["cat", "drill"], "n_contexts": 4, "n_controls": 19},
    "minimal_context": {"n_contexts": 3, "n_draws": 2, "max_length": 3},
    "occlusion": {"n_contexts": 6, "window": 3, "n_draws": 2},
    "position": {"n_contexts": 4, "n_positions": 3, "n_draws": 2},
    "probe": {"texts": ["the needle and the saw sings", "a cat sleeps"]},
    "sweep": {"tokens": ["needle", "cat"], "n_contexts": 8, "n_controls": 19},
    "triage": {"n_sites": 2, "n_controls": 19},
}
"""Experiment -> parameters of a quick one on KEY."""


def make_planted(folder: Path) -> None:
    """Harvest the planted decomposition's first rows; ``folder`` becomes an SPD_OUT_DIR."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder))
        patch.setattr(pipeline, "PLANTED_ROWS", ROWS)
        run_harvest(HarvestRequest(run="planted", n_batches=None, batch_size=64), progress=False)


def open_planted(folder: Path) -> Harvest:
    """Open the only harvest of an SPD_OUT_DIR."""
    [harvest] = (folder / "harvest/planted").iterdir()
    return Harvest.open(harvest)


def misses_tools(candidate: str) -> bool:
    """Whether the label says that the component does not fire on the marked part of a near miss."""
    return not any(word in candidate.partition("«")[2].partition("»")[0].split() for word in TOOLS)
