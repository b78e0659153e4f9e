"""The file: made once, shared by many, never half-written, and only ours."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from annotation_processes import EIGHT_WRITE_LABELS, WRITE_LABELS, WRITE_LOG, start
from annotation_results import FINGERPRINT, KEY, RUN, draft, supported

from spd_tools.annotations import Annotations, database
from spd_tools.annotations.schema import SCHEMA_VERSION
from spd_tools.errors import SpdToolsError


def plain(path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None)


def assert_sound(path):
    connection = plain(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.execute("INSERT INTO label_words (label_words) VALUES ('integrity-check')")
    connection.close()


def test_reading_makes_no_file(notes, harvest, out_dir):
    assert notes.label(KEY) is None
    assert notes.labels() == notes.label_history(KEY) == notes.search_labels("the") == []
    assert notes.list_evidence() == notes.hypotheses() == notes.scores() == notes.research_log() == []
    assert notes.disputed() == notes.leases() == []
    assert notes.texts_used(KEY) == set()
    assert notes.find_evidence("probe-1") is None
    assert notes.queue(harvest)
    assert not out_dir.exists()


def test_first_write_makes_the_file(notes, out_dir):
    notes.add_log("begun", author="ada")
    assert notes.path == out_dir / "annotations" / f"{RUN}.sqlite"
    assert [path.name for path in notes.path.parent.iterdir()] == [f"{RUN}.sqlite"]
    assert_sound(notes.path)


def test_without_write_ahead_log(notes):
    notes.add_log("begun", author="ada")
    connection = plain(notes.path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_a_file_that_somebody_set_to_write_ahead_goes_back(notes):
    notes.add_log("begun", author="ada")
    connection = plain(notes.path)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    notes.add_log("gone on", author="ada")
    connection = plain(notes.path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_empty_file_counts_as_none(notes):
    """A writer that is killed before its first commit leaves one."""
    notes.path.parent.mkdir(parents=True)
    notes.path.touch()
    assert notes.research_log() == []
    notes.add_log("begun", author="ada")
    assert [entry.text for entry in notes.research_log()] == ["begun"]


def test_another_fingerprint_is_refused(notes):
    notes.add_log("begun", author="ada")
    with pytest.raises(SpdToolsError, match=r"fingerprint ffffffff, and this one has 00000000.*about other components"):
        Annotations.open(RUN, "0" * 64)


def test_another_fingerprint_is_refused_although_the_file_came_later(notes):
    other = Annotations.open(RUN, "0" * 64)
    notes.add_log("begun", author="ada")
    with pytest.raises(SpdToolsError, match="fingerprint ffffffff"):
        other.add_log("mine", author="eve")
    with pytest.raises(SpdToolsError, match="fingerprint ffffffff"):
        other.research_log()


def test_future_version_is_refused(notes):
    notes.add_log("begun", author="ada")
    connection = plain(notes.path)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(SpdToolsError, match="schema version 2 and this spd-tools reads version 1"):
        Annotations.open(RUN, FINGERPRINT)


def test_another_programs_database_is_refused_and_left_alone(notes):
    notes.path.parent.mkdir(parents=True)
    connection = plain(notes.path)
    connection.execute("CREATE TABLE meta (name, value)")
    connection.close()
    before = notes.path.read_bytes()
    for action in (notes.labels, lambda: notes.add_log("mine", author="ada")):
        with pytest.raises(SpdToolsError, match="not of annotations"):
            action()
    assert notes.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"x", b"run,key,label\n" * 500, b"\0" * 5000])
def test_foreign_file_is_refused_and_left_alone(notes, content):
    notes.path.parent.mkdir(parents=True)
    notes.path.write_bytes(content)
    for action in (notes.labels, lambda: notes.add_log("mine", author="ada")):
        with pytest.raises(SpdToolsError, match="damaged or no annotations file"):
            action()
    assert notes.path.read_bytes() == content


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_torn_file_is_refused(notes, share):
    supported(notes)
    whole = notes.path.read_bytes()
    notes.path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(SpdToolsError, match=r"damaged.*restore a copy"):
        Annotations.open(RUN, FINGERPRINT)


@pytest.mark.parametrize(
    "run_id",
    ["../x", "..", ".", "", "/etc/x", "a/b", "a\\b", "a/", "a\0b", "a\nb", "\ud800", ".hidden", "x" * 300, "é" * 150],
)
def test_run_ids_stay_in_their_folder(run_id, out_dir):
    with pytest.raises(SpdToolsError, match="is no run id"):
        Annotations.open(run_id, FINGERPRINT)
    assert not out_dir.exists()


@pytest.mark.parametrize("run_id", ["a b", "proj-1%2F..?mode=ro#x", "ünï", "'; DROP TABLE labels; --", "-x"])
def test_odd_run_ids_are_plain_file_names(run_id, out_dir):
    notes = Annotations.open(run_id, FINGERPRINT)
    notes.add_log("begun", author="ada")
    assert [path.name for path in (out_dir / "annotations").iterdir()] == [f"{run_id}.sqlite"]
    assert len(Annotations.open(run_id, FINGERPRINT).research_log()) == 1


def test_a_folder_in_the_files_place(notes):
    notes.path.mkdir(parents=True)
    with pytest.raises(SpdToolsError, match="cannot be opened"):
        notes.add_log("begun", author="ada")


def test_a_file_in_the_folders_place(notes, out_dir):
    out_dir.mkdir()
    notes.path.parent.touch()
    with pytest.raises(SpdToolsError, match="choose another SPD_OUT_DIR"):
        notes.add_log("begun", author="ada")


def test_gives_up_when_others_hold_the_file(notes, monkeypatch):
    notes.add_log("begun", author="ada")
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.0)
    other = plain(notes.path)
    other.execute("BEGIN EXCLUSIVE")
    for action in (notes.research_log, lambda: notes.add_log("mine", author="ada")):
        with pytest.raises(SpdToolsError, match="locked by other processes"):
            action()
    other.execute("ROLLBACK")
    assert len(notes.research_log()) == 1


def test_what_fails_leaves_no_trace(notes, monkeypatch):
    notes.add_log("begun", author="ada")

    def fail(*_):
        raise RuntimeError("in the middle of a write")

    monkeypatch.setattr("spd_tools.annotations.labels._index", fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        notes.set_label(KEY, draft(), author="ada")
    assert notes.label_history(KEY) == []


def test_no_connection_outlives_its_transaction(notes):
    notes.add_log("begun", author="ada")
    notes.research_log()
    held = sqlite3.connect(notes.path, timeout=0, isolation_level=None)
    held.execute("BEGIN EXCLUSIVE")
    held.execute("ROLLBACK")


def test_threads_share_one_object(notes):
    with ThreadPoolExecutor(8) as pool:
        written = set(pool.map(lambda number: notes.add_log(f"entry {number}", author="ada").id, range(80)))
        read = list(pool.map(lambda _: len(notes.research_log(limit=None)), range(20)))
    assert {entry.id for entry in notes.research_log(limit=None)} == written
    assert len(written) == 80
    assert read == [80] * 20


def _add_as_child(notes, number):
    notes.add_log(f"child {number}", author="ada")


def test_forked_children_write_while_the_parents_threads_do(notes):
    stop = threading.Event()
    written = []

    def keep_writing():
        while not stop.is_set():
            written.append(notes.add_log("parent", author="ada").id)

    thread = threading.Thread(target=keep_writing)
    thread.start()
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=_add_as_child, args=(notes, number)) for number in range(6)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    stop.set()
    thread.join()
    assert [child.exitcode for child in children] == [0] * 6
    log = notes.research_log(limit=None)
    assert sorted(entry.text for entry in log if entry.id not in written) == [f"child {n}" for n in range(6)]
    assert len(log) == len(written) + 6
    assert_sound(notes.path)


def test_processes_that_begin_together_make_one_file(notes):
    processes = [start(WRITE_LOG, f"p{number}", 3) for number in range(4)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    ended = [process.communicate() for process in processes]
    assert [err for _, err in ended] == [""] * 4
    written = {line for out, _ in ended for line in out.split()}
    assert {entry.id for entry in notes.research_log()} == written
    assert len(written) == 12


@pytest.fixture
def memory_out_dir(monkeypatch):
    """An SPD_OUT_DIR in memory, where there is such a file system: 16,000 waits for a busy disk take minutes."""
    shared_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared_memory if shared_memory.is_dir() else None) as folder:
        monkeypatch.setenv("SPD_OUT_DIR", folder)
        yield


def test_eight_processes_write_five_hundred_labels_each(memory_out_dir):
    notes = Annotations.open(RUN, FINGERPRINT)
    process = start(EIGHT_WRITE_LABELS, "p", 500)
    out, err = process.communicate()
    assert (process.returncode, err) == (0, "")
    written = set(out.split())
    assert len(written) == 4000
    histories = [notes.label_history(f"h.0.mlp.c_fc:{index}") for index in range(50)]
    assert {label.id for history in histories for label in history} == written
    for history in histories:
        assert [label.version for label in history] == list(range(1, 81))
        assert [label.created for label in history] == sorted(label.created for label in history)
    newest = {label.id for label in notes.labels()}
    assert {label.id for label in notes.search_labels("label", limit=100)} == newest
    assert_sound(notes.path)


def test_killed_writers_lose_nothing_that_they_had_acknowledged(notes):
    rng = random.Random(0)
    acknowledged = []
    for round_ in range(3):
        processes = [start(WRITE_LABELS, f"r{round_} p{number}", 10_000) for number in range(3)]
        for process in processes:
            assert process.stdout is not None
            acknowledged += [process.stdout.readline().strip() for _ in range(rng.randint(1, 30))]
        for process in processes:
            process.kill()
            assert process.stdout is not None
            acknowledged += process.stdout.read().split("\n")[:-1]
            process.wait()
        reopened = Annotations.open(RUN, FINGERPRINT)
        kept = {label.id for index in range(50) for label in reopened.label_history(f"h.0.mlp.c_fc:{index}")}
        assert set(acknowledged) <= kept
        assert len(kept) <= len(acknowledged) + 3 * (round_ + 1)
        assert_sound(notes.path)


def test_a_reader_rolls_the_journal_of_a_killed_writer_back(notes):
    """The journal of a transaction that was being written into the file, as a kill leaves it."""
    supported(notes)
    before, expected = notes.path.read_bytes(), notes.label_history(KEY)
    connection = plain(notes.path)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("UPDATE labels SET notes = hex(randomblob(50000)), status = 'rejected'")
    connection.execute("INSERT INTO meta VALUES ('filler', hex(randomblob(200000)))")
    journal = notes.path.with_name(notes.path.name + "-journal")
    torn, kept = notes.path.read_bytes(), journal.read_bytes()
    connection.execute("ROLLBACK")
    connection.close()
    assert torn != before
    notes.path.write_bytes(torn)
    journal.write_bytes(kept)
    assert notes.label_history(KEY) == expected
    assert not journal.exists()
    assert_sound(notes.path)
