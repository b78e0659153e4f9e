"""Harvests as processes: interrupted, killed, refused, split into ranks; the store has the same bytes every time."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
from integration.processes import Place, ended, wait_until

HARVEST = ("harvest", "planted", "--n-batches", 64, "--batch-size", 4)
A_SEGMENT_PER_BATCH = ("--memory-gb", "1e-6")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("undisturbed"))
    place.run_well(*HARVEST)
    return place


@pytest.fixture
def place(undisturbed, out_dir):
    """A place where nothing but the token file is there yet."""
    shutil.copytree(undisturbed.folder / "tokens", out_dir / "tokens")
    return Place(out_dir)


@pytest.fixture(scope="module")
def killed(undisturbed, tmp_path_factory):
    """What a killed harvest left."""
    place = Place(tmp_path_factory.mktemp("killed"))
    shutil.copytree(undisturbed.folder / "tokens", place.folder / "tokens")
    assert interrupt(place, signal.SIGKILL)[0] == -signal.SIGKILL
    return place


@pytest.fixture
def unfinished(killed, out_dir):
    shutil.copytree(killed.folder, out_dir)
    return Place(out_dir)


def interrupt(place, number):
    """Send a signal to a harvest that has saved some, but not all, of its batches."""
    process = place.start(*HARVEST, *A_SEGMENT_PER_BATCH)
    wait_until(lambda: any(state["segments"] for state in place.states()), process)
    process.send_signal(number)
    code, out, err = ended(process)
    assert out == ""
    [state] = place.states()
    assert state["next_batch"] < 64
    return code, err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_stopped_harvest_goes_on(place, undisturbed, number):
    code, err = interrupt(place, number)
    assert code == 1
    assert "is saved and goes on with --resume." in err.splitlines()[-1]
    assert "Traceback" not in err
    place.run_well(*HARVEST, "--resume")
    assert place.store() == undisturbed.store()


def test_a_killed_harvest_goes_on(unfinished, undisturbed):
    unfinished.run_well(*HARVEST, "--resume")
    assert unfinished.store() == undisturbed.store()


def test_unfinished_work_needs_resume(unfinished, killed):
    code, out, err = unfinished.run(*HARVEST)
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    assert "go on with --resume" in err
    assert unfinished.states() == killed.states()


def test_an_unfinished_harvest_is_listed_and_not_read(unfinished):
    [listed] = json.loads(unfinished.run_well("runs", "--json"))
    assert listed["state"] == "unfinished"
    code, out, err = unfinished.run("search")
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_ranks_started_together_make_the_same_store(undisturbed, out_dir):
    """They find each other's token file too: nothing was prepared."""
    place = Place(out_dir)
    ranks = [place.start(*HARVEST, "--world-size", 2, "--rank", rank) for rank in (0, 1)]
    assert [(code, out) for code, out, _ in map(ended, ranks)] == [(0, "")] * 2
    assert place.run("overview", "h.0.mlp.down_proj:13")[0] == 1
    place.run_well("merge", "planted")
    assert place.store() == undisturbed.store()


def test_a_finished_harvest_is_not_made_again(undisturbed):
    [manifest] = undisturbed.folder.glob("harvest/*/*/manifest.json")
    written = manifest.stat().st_mtime_ns
    again = json.loads(undisturbed.run_well(*HARVEST, "--json"))
    assert (again["state"], again["folder"]) == ("already finished", str(manifest.parent))
    assert manifest.stat().st_mtime_ns == written
