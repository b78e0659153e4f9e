"""What reaches stdout and the shell, from processes."""

from __future__ import annotations

import json
import subprocess

import pytest
from integration.processes import COMMAND, Place

KEY = "h.0.mlp.down_proj:13"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A harvest, and nothing that a command here changes."""
    place = Place(tmp_path_factory.mktemp("output"))
    place.run_well("harvest", "planted", "--n-batches", 8, "--batch-size", 32)
    return place


@pytest.mark.parametrize(
    "argv",
    [
        ("harvest", "planted", "--n-batches", 8, "--batch-size", 32),
        ("prepare", "planted"),
        ("overview", KEY),
        ("examples", KEY),
        ("tokens", KEY, "--side", "output"),
        ("correlations", KEY, "--weakest"),
        ("similar", KEY),
        ("search", "--token", "saw"),
        ("runs",),
        ("runs", "show", "planted"),
        ("caches",),
        ("doctor",),
    ],
    ids=lambda argv: argv[0] if argv[:2] != ("runs", "show") else "runs show",
)
def test_json_is_all_there_is_on_stdout(place, argv):
    assert json.loads(place.run_well(*argv, "--json"))


def test_pages_have_no_terminal_codes_where_there_is_no_terminal(place):
    assert "\x1b" not in place.run_well("overview", KEY)


@pytest.mark.parametrize(
    ("argv", "exit_code"),
    [
        (("overview", "h.9.mlp.down_proj:0"), 1),
        (("overview", "h.0.mlp.down_proj:99"), 1),
        (("overview", KEY, "--run", "nobody"), 1),
        (("search", "--token", "no such token"), 1),
        (("harvest", "planted", "--n-batches", "some", "--batch-size", 4), 2),
        (("overview", KEY, "--no-such-flag"), 2),
        ((), 2),
    ],
)
def test_what_fails_says_so_on_stderr_only(place, argv, exit_code):
    code, out, err = place.run(*argv)
    assert (code, out) == (exit_code, "")
    assert "Traceback" not in err
    assert len(err.splitlines()) == 1 or exit_code == 2


def test_a_reader_that_goes_away_is_no_error(place):
    """As in `spd-tools overview KEY | head -1`."""
    line = f'"{COMMAND}" overview {KEY} | head -1; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(
        ["bash", "-c", line],
        env={"SPD_OUT_DIR": str(place.folder), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    first, code = done.stdout.splitlines()
    assert KEY in first
    assert int(code) in (0, 141)  # 0: it was quicker than head
    assert done.stderr == ""
