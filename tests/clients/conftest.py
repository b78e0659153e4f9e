"""The planted decomposition harvested, clients with a home, and a server to call."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from installations import COMMAND, Place, in_a_checkout
from investigation import HARVEST
from programs import Home, need_clients

from spd_tools.harvest import run_harvest


@pytest.fixture(scope="session")
def clients() -> None:
    need_clients()


@pytest.fixture(scope="session")
def harvested(clients: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SPD_OUT_DIR with a harvest of the planted decomposition; not to be written."""
    folder = tmp_path_factory.mktemp("harvested")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder))
        run_harvest(HARVEST, progress=False)
    return folder


@pytest.fixture
def home(tmp_path: Path, out_dir: Path, harvested: Path) -> Home:
    """A client's home with a harvest of the planted decomposition of its own."""
    shutil.copytree(harvested, out_dir)
    return Home(tmp_path / "home", out_dir)


@pytest.fixture
def checkout(tmp_path: Path, home: Home) -> Place:
    """A checkout with a harvest of the planted decomposition of its own."""
    return in_a_checkout(tmp_path, home.out_dir)


@pytest.fixture(scope="module")
def http_url(harvested: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a server on loopback with a harvest of the planted decomposition of its own."""
    out_dir = tmp_path_factory.mktemp("served") / "spd_out"
    shutil.copytree(harvested, out_dir)
    environment = os.environ | {"SPD_OUT_DIR": str(out_dir), "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [COMMAND, "mcp", "--http", "0"], env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        announced = server.stderr.readline()
        assert " at http" in announced, announced + server.stderr.read()
        yield announced.rpartition(" at ")[2].strip()
    finally:
        server.terminate()
        server.communicate()
