import json

import pytest


@pytest.fixture
def archive(harvest, run, tmp_path):
    path = tmp_path / "made-up.spd"
    assert run("pack", "made-up", path)[0] == 0
    return path


def test_pack_remove_unpack_overview(archive, harvest, run, run_json):
    before = run_json("overview", "h.0.mlp.c_fc:1")
    run("runs", "remove", "made-up", "--yes")
    assert run("unpack", archive)[0] == 0
    assert run_json("overview", "h.0.mlp.c_fc:1") == before


def test_pack_and_unpack_as_json(harvest, run, run_json, tmp_path):
    packed = run_json("pack", "made-up", tmp_path / "x.spd")
    run("runs", "remove", "made-up", "--yes")
    unpacked = run_json("unpack", tmp_path / "x.spd")
    assert packed["path"] == str(tmp_path / "x.spd")
    assert unpacked["path"] == str(harvest)
    assert packed["bytes"] == unpacked["bytes"] == (tmp_path / "x.spd").stat().st_size


def test_unpack_twice_is_one_sentence(archive, run):
    code, out, err = run("unpack", archive)
    assert (code, out, len(err.splitlines())) == (1, "", 1)


def test_pack_of_an_unknown_run_leaves_no_file(harvest, run, tmp_path):
    code, _, err = run("pack", "nope", tmp_path / "x.spd")
    assert (code, len(err.splitlines())) == (1, 1)
    assert list(tmp_path.glob("*x.spd*")) == []


def test_export_writes_the_layout(harvest, run, tmp_path):
    assert run("export", "made-up", "--to", tmp_path / "out")[0] == 0
    lines = (tmp_path / "out" / "activation_contexts" / "components.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["component_key"] == "h.0.attn.q_proj:0"


def test_export_into_an_existing_folder_is_refused(harvest, run, tmp_path):
    code, _, err = run("export", "made-up", "--to", tmp_path)
    assert (code, len(err.splitlines())) == (1, 1)


def test_export_needs_a_folder(harvest, run):
    assert run("export", "made-up")[0] == 2
