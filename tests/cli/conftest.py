import json

import pytest
import torch
from planted_store import make_planted
from reference_store import random_input, write_reference_store
from tokenizers import Tokenizer, decoders, models

from spd_tools.cli import main
from spd_tools.settings import Settings

VOCABULARY = ["the", " cat", "\x1b[31mred", "[bold]x[/bold]", "\n", "\u202ertl", " of", "é", "a\x07", "", " z"]


def hostile_words() -> str:
    """A tokenizer.json whose tokens are VOCABULARY."""
    tokenizer = Tokenizer(models.WordLevel({token: n for n, token in enumerate(VOCABULARY)}, unk_token="the"))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer.to_str()


def letters() -> str:
    """A tokenizer.json with a token for each letter from a to k."""
    return Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate("abcdefghijk")}, merges=[])).to_str()


@pytest.fixture
def add_harvest():
    """Write a made-up harvest below SPD_OUT_DIR; returns its folder."""

    def add(run_id="made-up", harvest_id="abc123", seed=0, rows=30, tokenizer=None):
        folder = Settings.from_environment().harvest(run_id, harvest_id)
        given = random_input(seed, rows=rows)
        write_reference_store(folder, given, run_id=run_id, harvest_id=harvest_id, tokenizer_json=tokenizer)
        return folder

    return add


@pytest.fixture
def harvest(add_harvest):
    return add_harvest(tokenizer=hostile_words())


@pytest.fixture
def run(capsys):
    """Run one command line in this process; returns (exit code, stdout, stderr)."""

    def run(*argv):
        try:
            code = main([str(arg) for arg in argv])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def run_json(run):
    """Run with --json; returns the document."""

    def run_json(*argv):
        code, out, _ = run(*argv, "--json")
        assert code == 0
        return json.loads(out)

    return run_json


@pytest.fixture
def lettered(add_harvest):
    """A harvest whose tokens are the letters a to k."""
    return add_harvest(tokenizer=letters())


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    """An SPD_OUT_DIR with the planted decomposition's harvest."""
    folder = tmp_path_factory.mktemp("cli")
    make_planted(folder)
    return folder


@pytest.fixture
def planted(planted_folder, out_dir):
    """The test's own SPD_OUT_DIR with the planted decomposition's harvest, whose model runs, and without notes."""
    out_dir.mkdir()
    (out_dir / "harvest").symlink_to(planted_folder / "harvest")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # batches are small: threads would only wait for each other
    yield out_dir
    torch.set_num_threads(threads)
