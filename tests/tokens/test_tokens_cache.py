import fcntl
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import token_processes
from letter_tokenizers import letter_tokenizer
from token_processes import make, rows

from spd_tools.errors import SpdToolsError
from spd_tools.tokens import TokenDataset, cached_rows, list_token_caches, prepare_tokens, remove_token_cache

SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def folder(out_dir):
    return out_dir / "tokens" / "some-rows"


@pytest.fixture
def started_maker():
    """A process that stands in the middle of making the token file: (process, go on, result)."""
    started, tell_started = SPAWN.Pipe(duplex=False)
    hear_go_on, go_on = SPAWN.Pipe(duplex=False)
    result, tell_result = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=token_processes.make_slowly, args=(tell_started, hear_go_on, tell_result))
    process.start()
    started.recv()
    yield process, go_on, result
    process.kill()
    process.join()


def check_whole(dataset):
    """The token file holds exactly the rows of token_processes, and nothing lies about."""
    made = [row[:length].tolist() for row, length in zip(dataset.tokens, dataset.row_lengths, strict=True)]
    assert made == [row.tolist() for row in rows()]
    assert sorted(os.listdir(dataset.folder)) == ["manifest.json", "row_lengths.npy", "tokens.npy"]
    assert sorted(os.listdir(dataset.folder.parent)) == [".some-rows.lock", "some-rows"]


def test_rows_are_cached_under_their_fingerprint(folder):
    dataset = make()
    check_whole(dataset)
    assert (dataset.folder, dataset.fingerprint, dataset.source) == (folder, "some-rows", "rows of a test")
    assert dataset.n_tokens == sum(len(row) for row in rows())


def test_rows_that_are_cached_are_not_asked_for_again():
    make()

    def never():
        raise AssertionError("asked for")

    check_whole(make(never))


def test_the_arrays_are_ordinary_npy_files(folder):
    make()
    np.testing.assert_array_equal(np.load(folder / "row_lengths.npy"), [len(row) for row in rows()])


def test_the_tokenizer_of_rows_is_kept():
    dataset = cached_rows("some-rows", 5, 90, rows, "rows", letter_tokenizer("[EOS]"))
    assert dataset.tokenizer_path is not None
    assert dataset.tokenizer_path.read_text() == letter_tokenizer("[EOS]").to_str()


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        ([[90]], "holds token id 90, but the model's vocabulary ends at 89"),
        ([[-1]], "holds token id -1"),
        ([[1] * 6], "A row has 6 tokens"),
        ([], "holds no documents"),
    ],
)
def test_bad_rows_leave_nothing(out_dir, bad, match):
    with pytest.raises(SpdToolsError, match=match):
        make(lambda: bad)
    assert os.listdir(out_dir / "tokens") == [".some-rows.lock"]


@pytest.mark.parametrize("fingerprint", ["", "../x", "a/b", ".hidden", "a b", "x" * 101])
def test_a_fingerprint_that_is_no_folder_name_is_refused(fingerprint):
    with pytest.raises(SpdToolsError, match="is no fingerprint"):
        cached_rows(fingerprint, 5, 90, rows, "rows", None)


def test_a_full_disk_is_one_sentence_and_leaves_nothing(out_dir, monkeypatch):
    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("spd_tools.tokens.writer.os.fsync", full)
    with pytest.raises(SpdToolsError, match="could not be written: No space left on device; free space or choose"):
        make()
    assert os.listdir(out_dir / "tokens") == [".some-rows.lock"]


def test_a_folder_that_cannot_be_made_is_one_sentence(out_dir):
    out_dir.write_text("a file")
    with pytest.raises(SpdToolsError, match="could not be written: "):
        make()


def test_two_processes_at_once_get_one_token_file(tmp_path, config):
    (tmp_path / "a.txt").write_text("\n\n".join("a b c d e f g"[: 1 + 2 * (at % 7)] for at in range(5000)))
    barrier = SPAWN.Barrier(2)
    pipes = [SPAWN.Pipe(duplex=False) for _ in range(2)]
    processes = [
        SPAWN.Process(target=token_processes.prepare_together, args=(barrier, config(tmp_path / "a.txt"), send))
        for _, send in pipes
    ]
    for process in processes:
        process.start()
    one, two = (receive.recv() for receive, _ in pipes)
    for process in processes:
        process.join()
    assert one == two
    assert [info.fingerprint for info in list_token_caches()] == [one[0]]


def test_the_second_process_waits_and_uses_what_the_first_one_made(started_maker):
    _, go_on, _ = started_maker
    events, tell_event = SPAWN.Pipe(duplex=False)
    second = SPAWN.Process(target=token_processes.make_unless_made, args=(tell_event,))
    second.start()
    assert events.recv() == "waits"
    go_on.send(None)
    assert events.recv() == "has it"
    second.join()


def test_a_killed_maker_leaves_nothing_that_is_taken_for_whole(started_maker):
    process, *_ = started_maker
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert [info.manifest for info in list_token_caches()] == [None]
    check_whole(make())


def test_a_maker_killed_at_any_change_of_the_disk_is_made_good(tmp_path, monkeypatch):
    exit_codes = []
    for at in range(100):
        monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / f"out{at}"))
        process = SPAWN.Process(target=token_processes.make_and_die, args=(at,))
        process.start()
        process.join()
        exit_codes.append(process.exitcode)
        check_whole(make())
        if process.exitcode == 0:
            break
    # tokens.npy, row_lengths.npy, manifest.json, two folders: synced; renamed: manifest and folder; and made.
    assert exit_codes[-1] == 0
    assert len(exit_codes) > 8
    assert set(exit_codes[:-1]) == {-signal.SIGKILL}


def damage_manifest(folder, **changes):
    manifest = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest\.json is not of version 1"),
        (lambda folder: damage_manifest(folder, schema_version=2), r"manifest\.json is not of version 1"),
        (lambda folder: damage_manifest(folder, files={}), r"manifest\.json does not list tokens\.npy"),
        (lambda folder: damage_manifest(folder, n_rows=3), "arrays do not have the shape"),
        (lambda folder: (folder / "tokens.npy").unlink(), r"tokens\.npy is missing or has another size"),
        (lambda folder: os.truncate(folder / "tokens.npy", 1000), r"tokens\.npy is missing or has another size"),
    ],
)
def test_a_damaged_token_file_is_refused(folder, damage, match):
    make()
    damage(folder)
    with pytest.raises(SpdToolsError, match=match + ".*; remove the folder and run again"):
        make()


def test_a_foreign_file_in_the_place_of_the_tokens_is_refused(folder):
    make()
    size = (folder / "tokens.npy").stat().st_size
    (folder / "tokens.npy").write_bytes(b"x" * size)
    with pytest.raises(SpdToolsError, match=r"tokens\.npy is no array"):
        TokenDataset.open(folder)


def test_a_manifest_cannot_name_files_elsewhere(folder):
    make()
    manifest = json.loads((folder / "manifest.json").read_bytes())
    damage_manifest(folder, files=manifest["files"] | {"../../secret.npy": 3})
    with pytest.raises(SpdToolsError, match="lists the unknown file"):
        TokenDataset.open(folder)


def test_token_files_are_listed_with_their_sizes(folder, tmp_path, config):
    (tmp_path / "a.txt").write_text("a")
    text = prepare_tokens(config(tmp_path / "a.txt"))
    make()
    infos = {info.fingerprint: info for info in list_token_caches()}
    assert infos.keys() == {"some-rows", text.fingerprint}
    info = infos["some-rows"]
    assert info.path == folder
    assert info.n_bytes == sum(file.stat().st_size for file in folder.iterdir())
    assert info.manifest is not None
    assert info.manifest.n_rows == len(rows())


def test_without_any_token_file_the_list_is_empty():
    assert list_token_caches() == []


def test_a_damaged_token_file_is_listed_without_manifest(folder):
    make()
    (folder / "manifest.json").unlink()
    assert [info.manifest for info in list_token_caches()] == [None]


def test_a_token_file_is_removed(out_dir):
    make()
    (info,) = list_token_caches()
    assert remove_token_cache("some-rows") == info.n_bytes
    assert os.listdir(out_dir / "tokens") == []


def test_left_overs_are_removed(started_maker, out_dir):
    process, *_ = started_maker
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert remove_token_cache("some-rows") > 0
    assert os.listdir(out_dir / "tokens") == []


def test_a_removed_token_file_can_be_made_again():
    make()
    remove_token_cache("some-rows")
    check_whole(make())


def test_a_token_file_that_is_being_made_is_not_removed(started_maker):
    with pytest.raises(SpdToolsError, match="Token file some-rows is in use by another process now"):
        remove_token_cache("some-rows")
    _, go_on, result = started_maker
    go_on.send(None)
    result.recv()
    check_whole(make())


def test_a_token_file_that_is_not_there_is_not_removed():
    with pytest.raises(SpdToolsError, match="There is no token file some-rows"):
        remove_token_cache("some-rows")


def test_a_lock_whose_file_was_removed_meanwhile_does_not_count(folder, monkeypatch):
    """One process waits for the lock; the one that holds it removes the token file and its lock file."""
    real = fcntl.flock
    removed = []

    def flock(fd, operation):
        if not removed:
            removed.append((folder.parent / ".some-rows.lock").stat().st_ino)
            (folder.parent / ".some-rows.lock").unlink()
        real(fd, operation)

    monkeypatch.setattr("spd_tools.tokens.cache.fcntl.flock", flock)
    check_whole(make())
