"""Every test gets an SPD_OUT_DIR of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# Kernels are compiled within whichever example comes first; machines are shared.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")
os.environ["HF_HUB_OFFLINE"] = "1"  # no test may wait for a hub
sys.path.insert(0, str(Path(__file__).parent))  # the reference modules are used across folders


@pytest.fixture(autouse=True)
def out_dir(tmp_path, monkeypatch):
    folder = tmp_path / "spd_out"
    monkeypatch.setenv("SPD_OUT_DIR", str(folder))
    return folder
