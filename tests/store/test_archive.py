import hashlib
import io
import json
import tarfile

import pytest
from reference_store import random_input, refresh_manifest, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.settings import Settings
from spd_tools.store.archive import PREFIX, pack, unpack
from spd_tools.store.reader import open_harvest


@pytest.fixture
def harvest_folder(tmp_path):
    folder = tmp_path / "elsewhere" / "made-up" / "abc123"
    write_reference_store(folder, random_input())
    return folder


@pytest.fixture
def archive(harvest_folder, tmp_path):
    path = tmp_path / "made-up.spd"
    pack(harvest_folder, path)
    return path


def settings() -> Settings:
    return Settings.from_environment()


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def leftovers(folder) -> list[str]:
    return [str(path) for path in folder.rglob("*")] if folder.exists() else []


def rewritten(archive, change) -> None:
    """Pass every entry through ``change`` (entry, data) -> list of (entry, data)."""
    with tarfile.open(archive) as old:
        entries = [(entry, old.extractfile(entry).read()) for entry in old]
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as new:
        for entry, data in entries:
            for changed, content in change(entry, data):
                changed.size = len(content) if changed.isreg() else 0
                new.addfile(changed, io.BytesIO(content) if changed.isreg() else None)


def with_manifest(archive, change) -> None:
    def on_manifest(entry, data):
        if entry.name != PREFIX + "manifest.json":
            return [(entry, data)]
        document = json.loads(data)
        change(document)
        return [(entry, json.dumps(document).encode())]

    rewritten(archive, on_manifest)


def refused(archive, *words) -> None:
    """Unpacking says all words in its sentence and leaves nothing."""
    with pytest.raises(SpdToolsError) as error:
        unpack(archive, settings())
    assert [word for word in words if word not in str(error.value)] == []
    assert leftovers(settings().out_dir) == []


def test_a_round_trip_is_byte_identical(harvest_folder, archive):
    unpacked = unpack(archive, settings())
    assert unpacked.path == settings().harvest("made-up", "abc123")
    assert contents(unpacked.path) == contents(harvest_folder)


def test_packing_what_was_unpacked_gives_the_same_archive(archive, tmp_path):
    pack(unpack(archive, settings()).path, tmp_path / "again.spd")
    assert (tmp_path / "again.spd").read_bytes() == archive.read_bytes()


def test_an_unpacked_harvest_opens(archive):
    unpack(archive, settings())
    open_harvest("made-up").verify()


def test_an_archive_is_a_tar_that_begins_with_the_manifest(archive):
    with tarfile.open(archive) as tar:
        names = tar.getnames()
    assert names[0] == "spd-harvest/manifest.json"
    assert names[1:] == sorted(names[1:])


def test_other_files_in_the_folder_are_not_packed(harvest_folder, archive, tmp_path):
    (harvest_folder / "notes.txt").write_text("private")
    pack(harvest_folder, tmp_path / "again.spd")
    assert (tmp_path / "again.spd").read_bytes() == archive.read_bytes()


def test_pack_does_not_overwrite(harvest_folder, archive):
    before = archive.read_bytes()
    with pytest.raises(SpdToolsError, match="exists already"):
        pack(harvest_folder, archive)
    assert archive.read_bytes() == before


def test_pack_refuses_an_unfinished_harvest(harvest_folder, tmp_path):
    (harvest_folder / "manifest.json").unlink()
    with pytest.raises(SpdToolsError, match="no finished harvest"):
        pack(harvest_folder, tmp_path / "x.spd")


def test_pack_refuses_a_damaged_harvest_and_leaves_no_archive(harvest_folder, tmp_path):
    path = harvest_folder / "examples.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(SpdToolsError, match=r"examples\.arrow .* damaged"):
        pack(harvest_folder, tmp_path / "x.spd")
    assert list(tmp_path.glob("*x.spd*")) == []


def test_pack_says_which_file_is_missing(harvest_folder, tmp_path):
    (harvest_folder / "tokens.npy").unlink()
    with pytest.raises(SpdToolsError, match=r"tokens\.npy"):
        pack(harvest_folder, tmp_path / "x.spd")


def test_pack_says_that_the_archives_folder_is_missing(harvest_folder, tmp_path):
    with pytest.raises(SpdToolsError, match="There is no folder"):
        pack(harvest_folder, tmp_path / "nowhere" / "x.spd")


def test_unpack_does_not_overwrite(archive):
    folder = unpack(archive, settings()).path
    before = contents(folder)
    with pytest.raises(SpdToolsError, match="is there already"):
        unpack(archive, settings())
    assert contents(folder) == before


def test_unpack_says_that_there_is_no_file(tmp_path):
    refused(tmp_path / "none.spd", "There is no file")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.99])
def test_an_archive_cut_short_is_refused(archive, share):
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * share)])
    refused(archive)


def test_a_foreign_file_is_refused(tmp_path):
    path = tmp_path / "x.spd"
    path.write_bytes(b"PK\x03\x04" + bytes(5000))
    refused(path, "no harvest")


def test_a_flipped_bit_is_refused(archive):
    data = bytearray(archive.read_bytes())
    data[data.index(b"ARROW1") + 100] ^= 1
    archive.write_bytes(data)
    refused(archive, "damaged")


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "firings/../../escape", "notes.txt"])
def test_a_name_that_is_not_of_the_schema_is_refused(archive, name):
    extra = tarfile.TarInfo(PREFIX + name if name[0] != "/" else name)

    def with_extra(entry, data):
        return [(entry, data), (extra, b"boo")] if entry.name.endswith("manifest.json") else [(entry, data)]

    rewritten(archive, with_extra)
    refused(archive, "escape" if "escape" in name else "notes.txt")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_entry_that_is_no_file_is_refused(archive, kind):
    def replaced(entry, data):
        if entry.name == PREFIX + "tokens.npy":
            entry.type = kind
            entry.linkname = "/etc/passwd"
        return [(entry, data)]

    rewritten(archive, replaced)
    refused(archive, "tokens.npy")


def test_a_file_twice_is_refused(archive):
    rewritten(archive, lambda entry, data: [(entry, data)] * (2 if entry.name.endswith("tokens.npy") else 1))
    refused(archive, "tokens.npy", "twice")


def test_a_missing_file_is_refused(archive):
    rewritten(archive, lambda entry, data: [] if entry.name.endswith("tokens.npy") else [(entry, data)])
    refused(archive, "lacks tokens.npy")


def test_a_manifest_that_does_not_come_first_is_refused(archive):
    with tarfile.open(archive) as tar:
        entries = [(entry, tar.extractfile(entry).read()) for entry in tar]
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for entry, data in entries[::-1]:
            tar.addfile(entry, io.BytesIO(data))
    refused(archive, "does not begin with a manifest")


def test_a_manifest_that_leaves_files_out_is_refused(archive):
    with_manifest(archive, lambda document: document["files"].pop("tokens.npy"))
    refused(archive, "tokens.npy")


def test_a_manifest_with_files_of_its_own_is_refused(archive):
    info = {"bytes": 3, "sha256": hashlib.sha256(b"boo").hexdigest()}
    with_manifest(archive, lambda document: document["files"].update({"../escape": info}))
    refused(archive, "../escape")


@pytest.mark.parametrize("run_id", ["..", "a/b", "", ".hidden", "a\x1b[31m", "x" * 300])
def test_a_run_id_that_is_no_folder_name_is_refused(archive, run_id):
    with_manifest(archive, lambda document: document["decomposition"].update(run_id=run_id))
    refused(archive, "no names for folders")


def test_a_future_schema_version_is_refused(archive):
    with_manifest(archive, lambda document: document.update(schema_version=99))
    refused(archive, "update spd-tools")


def test_a_size_beyond_the_disk_is_refused_before_anything_is_written(archive):
    with_manifest(archive, lambda document: document["files"]["tokens.npy"].update(bytes=1 << 60))
    refused(archive, "GB free")


def test_offsets_that_lead_outside_their_buffers_are_refused(harvest_folder, tmp_path):
    path = harvest_folder / "token_stats.arrow"
    data = bytearray(path.read_bytes())
    at = data.index((0).to_bytes(4, "little") + open_folder_first_offset(harvest_folder))
    data[at + 4 : at + 8] = (0x7FFFFFF0).to_bytes(4, "little")
    path.write_bytes(data)
    refresh_manifest(harvest_folder)
    pack(harvest_folder, tmp_path / "evil.spd")
    refused(tmp_path / "evil.spd", "token_stats.arrow")


def open_folder_first_offset(folder) -> bytes:
    """The second offset of the first list column: the number of input tokens of component 0."""
    import pyarrow as pa

    with pa.ipc.open_file(str(folder / "token_stats.arrow")) as reader:
        return len(reader.get_batch(0).column("input_token")[0]).to_bytes(4, "little")


def test_a_table_with_other_columns_is_refused(harvest_folder, tmp_path):
    (harvest_folder / "token_stats.arrow").write_bytes((harvest_folder / "vocabulary.arrow").read_bytes())
    refresh_manifest(harvest_folder)
    pack(harvest_folder, tmp_path / "other.spd")
    refused(tmp_path / "other.spd", "token_stats.arrow")
