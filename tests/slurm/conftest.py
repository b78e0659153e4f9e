"""One node, one checkout and one harvest to compare with, for all tests."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from slurm_node import HARVEST, Desk, commit_all, make_checkout, running_node

REQUIRED = os.environ.get("SPD_TOOLS_REQUIRE_SLURM") == "1"


@dataclass(frozen=True)
class Reference:
    """A checkout, and what one process harvests with it."""

    checkout: Path
    store: dict[str, Any]
    """File -> size and sha256."""


@pytest.fixture(scope="session")
def node(tmp_path_factory):
    """A running SLURM. In CI it has to be there; elsewhere nothing is installed for it."""
    folder = tmp_path_factory.mktemp("node")
    try:
        # A requeued job waits longer than the old srun does (KillWait + 2 s), as on real clusters (120, 32 s): that one
        # would else cancel the new attempt's step, which has the same number.
        with running_node(folder, SLURM_NODE_APT="1" if REQUIRED else "0", SLURM_NODE_CRED_EXPIRE="10") as running:
            yield running
    except RuntimeError as error:
        if REQUIRED:
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def reference(tmp_path_factory) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    desk = Desk(make_checkout(folder / "checkout"), folder)
    done = json.loads(desk.run("harvest", *HARVEST, "--json"))
    commit_all(desk.checkout)
    return Reference(desk.checkout, json.loads((Path(done["folder"]) / "manifest.json").read_text())["files"])


@pytest.fixture
def desk(node, reference, tmp_path) -> Desk:
    return Desk(reference.checkout, tmp_path, node)


@pytest.fixture
def own_desk(node, reference, tmp_path) -> Desk:
    """With a checkout that the test may change."""
    return Desk(Path(shutil.copytree(reference.checkout, tmp_path / "checkout", symlinks=True)), tmp_path, node)


@pytest.fixture(scope="session", autouse=True)
def timed_out(node, reference, tmp_path_factory) -> tuple[Desk, str]:
    """A harvest with a time limit of a minute and slow batches, started first: its test is the last."""
    desk = Desk(reference.checkout, tmp_path_factory.mktemp("timed-out"), node)
    desk.close_gate("slow", "0.5")
    return desk, desk.submit("--time", "1", workers=1)
