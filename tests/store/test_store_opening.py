"""Harvests that are not there, not finished, torn or foreign."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from reference_store import random_input, refresh_manifest, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest
from spd_tools.store.manifest import OPTIONAL_FILES, REQUIRED_FILES
from spd_tools.store.reader import open_harvest, which_of_several

ALL_FILES = sorted(REQUIRED_FILES | OPTIONAL_FILES)


def refused(folder, *parts):
    """Opening fails with one sentence that holds all parts."""
    with pytest.raises(SpdToolsError) as caught:
        Harvest.open(folder).token_text(0)
    message = str(caught.value)
    assert all(part in message for part in parts), message
    assert "\n" not in message


def edit_manifest(folder, **changes):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_newest_finished_harvest_is_opened(store_copy):
    newer = shutil.copytree(store_copy, store_copy.parent / "def456")
    edit_manifest(newer, harvest_id="def456")
    os.utime(store_copy / "manifest.json", (1000, 1000))
    unfinished = shutil.copytree(store_copy, store_copy.parent / "unfinished")
    (unfinished / "manifest.json").unlink()
    assert open_harvest("made-up").harvest_id == "def456"
    os.utime(newer / "manifest.json", (500, 500))
    assert open_harvest("made-up").harvest_id == "abc123"
    assert open_harvest("made-up", "def456").harvest_id == "def456"


@pytest.mark.parametrize("run_id", ["other", "../harvest/made-up", ""])
def test_unknown_run(store_copy, run_id):
    with pytest.raises(SpdToolsError, match=r"has been harvested \(harvested runs: made-up\)"):
        open_harvest(run_id)


def test_no_run_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "nowhere"))
    with pytest.raises(SpdToolsError, match="nothing has been harvested yet"):
        open_harvest("made-up")


@pytest.mark.parametrize("harvest_id", ["zzz", "../made-up/abc123"])
def test_unknown_harvest(store_copy, harvest_id):
    with pytest.raises(SpdToolsError, match="does not exist; the finished ones are: abc123"):
        open_harvest("made-up", harvest_id)


def test_unfinished_harvest(store_copy):
    (store_copy / "manifest.json").unlink()
    with pytest.raises(SpdToolsError, match=r"has no finished harvest, only unfinished ones \(abc123\)"):
        open_harvest("made-up")
    with pytest.raises(SpdToolsError, match="'abc123' of run made-up is unfinished"):
        open_harvest("made-up", "abc123")
    refused(store_copy, "holds no finished harvest")


def test_a_harvest_in_another_ones_place(store_copy):
    shutil.move(store_copy, store_copy.parent / "def456")
    with pytest.raises(SpdToolsError, match="it belongs to harvest abc123 of run made-up"):
        open_harvest("made-up")


def test_future_schema_version(store_copy):
    edit_manifest(store_copy, schema_version=2, brand_new_field=1)
    refused(store_copy, "store schema version 2", "reads up to 1", "upgrade spd-tools")


@pytest.mark.parametrize(
    "content", [b"", b'{"schema_version": 1', b"\xff\xfe", b"[]", b"{}", b'{"schema_version": "1"}']
)
def test_torn_or_foreign_manifest(store_copy, content):
    (store_copy / "manifest.json").write_bytes(content)
    refused(store_copy, "manifest.json")


def test_a_manifest_that_leads_outside_the_folder(store_copy):
    files = json.loads((store_copy / "manifest.json").read_text())["files"]
    edit_manifest(store_copy, files={**files, "../../secret": {"bytes": 1, "sha256": "0"}})
    refused(store_copy, "lists '../../secret'")


def test_a_manifest_that_forgets_a_file(store_copy):
    files = json.loads((store_copy / "manifest.json").read_text())["files"]
    files.pop("tokens.npy")
    edit_manifest(store_copy, files=files)
    refused(store_copy, "does not list tokens.npy")


@pytest.mark.parametrize("name", ALL_FILES)
def test_missing_file(store_copy, name):
    (store_copy / name).unlink()
    refused(store_copy, f"{name} is missing")


@pytest.mark.parametrize("name", ALL_FILES)
def test_torn_file(store_copy, name):
    path = store_copy / name
    path.write_bytes(path.read_bytes()[:-3])
    refused(store_copy, f"{name} is torn or foreign", "its manifest says")


@pytest.mark.parametrize("name", sorted({*ALL_FILES} - {"excluded.npy"}))
def test_foreign_file_of_the_right_size(store_copy, name):
    path = store_copy / name
    path.write_bytes(b"x" * path.stat().st_size)
    refused(store_copy, f"{name} is torn or foreign")


@pytest.mark.parametrize("name", [name for name in ALL_FILES if name.endswith((".arrow", ".parquet"))])
def test_table_with_other_columns(store_copy, name):
    path, table = store_copy / name, pa.table({"a": [1, 2, 3]})
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    refresh_manifest(store_copy)
    refused(store_copy, f"{name} is torn or foreign (its columns are a")


@pytest.mark.parametrize("name", [name for name in ALL_FILES if name.endswith((".arrow", ".parquet"))])
def test_table_of_another_decomposition(store_copy, tmp_path, name):
    given = random_input(0, n_components=6, vocab=12)
    write_reference_store(tmp_path / "other", given, layers=[("h.0.mlp.c_fc", 6)])
    shutil.copy(tmp_path / "other" / name, store_copy / name)
    refresh_manifest(store_copy)
    refused(store_copy, f"{name} is torn or foreign", "rows, expected")


def test_array_of_another_shape(store_copy):
    np.save(store_copy / "tokens.npy", np.zeros((2, 2), np.uint16))
    refresh_manifest(store_copy)
    refused(store_copy, "tokens.npy is torn or foreign (it is uint16 (2, 2), expected")


def test_verify_accepts_what_was_written(store_copy):
    Harvest.open(store_copy).verify()


@pytest.mark.parametrize("name", ALL_FILES)
def test_verify_finds_one_changed_byte(store_copy, name):
    harvest = Harvest.open(store_copy)
    path = store_copy / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SpdToolsError) as caught:
        harvest.verify()
    assert f"{name} differs from its checksum" in str(caught.value)


def test_which_of_several_harvests_this_is_and_how_large_the_others_are(tmp_path, monkeypatch):
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path))

    def add(harvest_id, rows, changed):
        folder = tmp_path / "harvest" / "made-up" / harvest_id
        write_reference_store(folder, random_input(0, rows=rows), run_id="made-up", harvest_id=harvest_id)
        os.utime(folder / "manifest.json", (changed, changed))
        return open_harvest("made-up", harvest_id)

    large = add("large", 30, 1)
    assert which_of_several(large) is None
    (tmp_path / "harvest" / "made-up" / "unfinished").mkdir()
    assert which_of_several(large) is None
    add("small", 5, 2)
    newest = open_harvest("made-up")
    assert newest.harvest_id == "small"
    assert which_of_several(newest) == (
        f"2 harvests of made-up; this is small, the newest ({newest.n_tokens:,} tokens; the other has "
        f"{large.n_tokens:,})"
    )
    add("smaller", 4, 3)
    said = which_of_several(open_harvest("made-up"))
    assert said.startswith("3 harvests of made-up; this is smaller")
    assert f"the largest of the others has {large.n_tokens:,}" in said
    torn = tmp_path / "harvest" / "made-up" / "small" / "manifest.json"
    torn.write_text("{")
    os.utime(torn, (2, 2))
    assert which_of_several(open_harvest("made-up")).startswith("2 harvests")
