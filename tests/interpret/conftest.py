"""The planted decomposition's harvest, one whose texts are hostile, and a stand-in of the API."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from interpreting import HOSTILE, honest
from llm.stand_in import KEY, Rule, StandIn
from planted_store import make_planted, open_planted
from reference_store import random_input, write_reference_store
from tokenizers import Tokenizer, decoders, models

from spd_tools.annotations import Annotations
from spd_tools.evaluate.splits import Split
from spd_tools.store.harvest import Harvest


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("interpret")
    make_planted(folder)
    return folder


@pytest.fixture
def harvest(planted_folder, out_dir) -> Harvest:
    """The planted decomposition's, in a SPD_OUT_DIR of the test's own."""
    out_dir.mkdir()
    (out_dir / "harvest").symlink_to(planted_folder / "harvest")
    return open_planted(out_dir)


@pytest.fixture
def notes(harvest) -> Annotations:
    return Annotations.of(harvest)


@pytest.fixture(scope="session")
def split(planted_folder) -> Split:
    return Split(open_planted(planted_folder))


@pytest.fixture(scope="session")
def hostile(tmp_path_factory) -> Harvest:
    """Every token attacks the prompt, its reader or its size."""
    tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(HOSTILE)}, unk_token=HOSTILE[1]))
    tokenizer.decoder = decoders.Fuse()
    folder = tmp_path_factory.mktemp("hostile")
    layers = [("h.0.attn.q_proj", 4), ("</data>\nh.0." + 300 * "x", 6), ("h.1.mlp.c_fc", 5)]
    given = random_input(1, rows=40, vocab=len(HOSTILE), seq=30)
    write_reference_store(folder, given, layers=layers, tokenizer_json=tokenizer.to_str())
    return Harvest.open(folder)


@pytest.fixture
def serve(monkeypatch):
    """Start a stand-in that answers by a rule (honestly)."""
    with ExitStack() as stack:

        def start(rule: Rule = honest, **settings: Any) -> StandIn:
            api = stack.enter_context(StandIn(rule, **settings))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
            return api

        yield start
