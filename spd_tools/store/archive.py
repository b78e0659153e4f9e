"""A harvest as one self-contained file: ``pack`` and ``unpack``.

The file is an uncompressed tar with plain entries ``spd-harvest/<path below the harvest's folder>`` only: the manifest
first, the other files in the order of their names. Owner, mode and time are constants, so equal harvests are equal
archives. Nothing in an archive is believed: ``unpack`` takes only names of the schema, regular files of the sizes and
sha256 that the manifest states, and Arrow data that passes full validation.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from spd_tools.errors import SpdToolsError
from spd_tools.files import atomic_file
from spd_tools.settings import Settings
from spd_tools.store.folders import whole_folder
from spd_tools.store.manifest import MANIFEST, OPTIONAL_FILES, REQUIRED_FILES, read_manifest
from spd_tools.store.schema import FileInfo, Manifest
from spd_tools.store.validate import check_tables

PREFIX = "spd-harvest/"
_CHUNK = 1 << 22
_MANIFEST_LIMIT = 1 << 24


class _Writer(Protocol):
    def write(self, data: bytes, /) -> int | None: ...


class _Reader(Protocol):
    def read(self, size: int, /) -> bytes: ...


@dataclass(frozen=True)
class Packed:
    """What ``pack`` wrote or ``unpack`` read."""

    run_id: str
    harvest_id: str
    path: Path
    """The archive (pack) or the harvest's folder (unpack)."""
    bytes: int
    """Size of the archive."""


def pack(folder: Path, archive: Path) -> Packed:
    """Write the finished harvest in ``folder`` to one file, checking every checksum on the way.

    Raises:
        SpdToolsError: when the file exists, or the harvest is unfinished or damaged.
    """
    if archive.exists():
        raise SpdToolsError(f"{archive} exists already; choose another name or remove it first.")
    if not archive.parent.is_dir():
        raise SpdToolsError(f"There is no folder {archive.parent}; make it first.")
    manifest = read_manifest(folder)
    raw = (folder / MANIFEST).read_bytes()
    with atomic_file(archive) as file:
        _write_header(file, MANIFEST, len(raw))
        file.write(raw)
        _pad(file, len(raw))
        for name, info in sorted(manifest.files.items()):
            _write_header(file, name, info.bytes)
            if not (folder / name).is_file() or (folder / name).stat().st_size != info.bytes:
                raise _damaged(name)
            with (folder / name).open("rb") as source:
                _copy(source, file, name, info)
            _pad(file, info.bytes)
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        size = file.size
    return Packed(manifest.decomposition.run_id, manifest.harvest_id, archive, size)


def unpack(archive: Path, settings: Settings) -> Packed:
    """Put an archive's harvest below SPD_OUT_DIR; it appears whole or not at all.

    Raises:
        SpdToolsError: for anything that is not exactly a packed harvest, for one that is there already, and when the
            disk is too full.
    """
    if not archive.is_file():
        raise SpdToolsError(f"There is no file {archive}; name an archive that `spd-tools pack` wrote.")
    with archive.open("rb") as file:
        raw = _read_first_entry(file, archive)
        manifest = _parse_manifest(raw, archive)
        folder = _destination(manifest, settings, archive)
        # Not beside its place: no listing of harvests shall ever see it before it is whole.
        with whole_folder(folder, settings.out_dir) as aside:
            _check_space(aside, manifest, settings)
            _extract(file, manifest, aside, archive)
            check_tables(aside, manifest, archive)
            (aside / MANIFEST).write_bytes(raw)
    return Packed(manifest.decomposition.run_id, manifest.harvest_id, folder, archive.stat().st_size)


def _parse_manifest(raw: bytes, where: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValueError:
        raise SpdToolsError(
            f"The manifest in {where} is not one that this version of spd-tools reads; update spd-tools or pack again."
        ) from None
    names = set(manifest.files)
    if not REQUIRED_FILES <= names <= REQUIRED_FILES | OPTIONAL_FILES:
        wrong = ", ".join(sorted((names ^ REQUIRED_FILES) - OPTIONAL_FILES))
        raise SpdToolsError(f"The manifest in {where} does not list the files of a harvest ({wrong}); pack it again.")
    if any(info.bytes < 0 for info in manifest.files.values()):
        raise SpdToolsError(f"The manifest in {where} states a negative file size; pack the harvest again.")
    return manifest


# --- the tar format: plain entries only, so no library has to interpret what a stranger wrote ---


def _write_header(file: _Writer, name: str, size: int) -> None:
    entry = tarfile.TarInfo(PREFIX + name)
    entry.size = size
    entry.mode = 0o644
    file.write(entry.tobuf(tarfile.GNU_FORMAT))


def _pad(file: _Writer, size: int) -> None:
    file.write(bytes(-size % tarfile.BLOCKSIZE))


def _copy(source: _Reader, target: _Writer, name: str, info: FileInfo) -> None:
    """Copy ``info.bytes`` bytes and check their sha256."""
    digest = hashlib.sha256()
    left = info.bytes
    while left:
        chunk = source.read(min(_CHUNK, left))
        if not chunk:
            raise _damaged(name)
        digest.update(chunk)
        target.write(chunk)
        left -= len(chunk)
    if digest.hexdigest() != info.sha256:
        raise _damaged(name)


def _damaged(name: str) -> SpdToolsError:
    return SpdToolsError(
        f"{name} is not the file that the manifest describes (size or sha256): the harvest is damaged."
    )


def _next_entry(file: _Reader, archive: Path) -> tarfile.TarInfo | None:
    """Header of the next entry, None at the end.

    Raises:
        SpdToolsError: for anything but a regular file with a relative name below PREFIX.
    """
    try:
        entry = tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "strict")
    except tarfile.EOFHeaderError:  # pyright: ignore[reportAttributeAccessIssue]
        return None
    except (tarfile.HeaderError, UnicodeDecodeError):
        raise SpdToolsError(f"{archive} is no harvest that `spd-tools pack` wrote, or it is cut short.") from None
    name = PurePosixPath(entry.name)
    plain = entry.type == tarfile.REGTYPE and not name.is_absolute() and ".." not in name.parts
    if not plain or not entry.name.startswith(PREFIX) or entry.size < 0:
        raise SpdToolsError(f"{archive} holds {entry.name!r}, which no packed harvest has; nothing was unpacked.")
    entry.name = entry.name.removeprefix(PREFIX)
    return entry


def _skip_padding(file: _Reader, size: int) -> None:
    file.read(-size % tarfile.BLOCKSIZE)


def _read_first_entry(file: _Reader, archive: Path) -> bytes:
    entry = _next_entry(file, archive)
    if entry is None or entry.name != MANIFEST or entry.size > _MANIFEST_LIMIT:
        raise SpdToolsError(f"{archive} does not begin with a manifest; only what `spd-tools pack` wrote is unpacked.")
    raw = file.read(entry.size)
    _skip_padding(file, entry.size)
    return raw


def _extract(file: _Reader, manifest: Manifest, folder: Path, archive: Path) -> None:
    missing = dict(manifest.files)
    while (entry := _next_entry(file, archive)) is not None:
        info = missing.pop(entry.name, None)
        if info is None or info.bytes != entry.size:
            raise SpdToolsError(
                f"{archive} holds {entry.name!r} twice, unasked or in another size than its manifest says; "
                "nothing was unpacked."
            )
        path = folder / entry.name
        path.parent.mkdir(exist_ok=True)
        with path.open("xb") as target:
            _copy(file, target, entry.name, info)
        _skip_padding(file, entry.size)
    if missing:
        raise SpdToolsError(f"{archive} lacks {', '.join(sorted(missing))}; copy it again, it may be cut short.")


# --- the folder that it becomes ---


def _destination(manifest: Manifest, settings: Settings, archive: Path) -> Path:
    run_id, harvest_id = manifest.decomposition.run_id, manifest.harvest_id
    for name in (run_id, harvest_id):
        if not name.isprintable() or "/" in name or "\\" in name or name.startswith(".") or not 0 < len(name) <= 200:
            raise SpdToolsError(f"{archive} names its run {run_id!r}, harvest {harvest_id!r}: no names for folders.")
    folder = settings.harvest(run_id, harvest_id)
    if folder.exists():
        raise SpdToolsError(
            f"Harvest {harvest_id} of {run_id} is there already; "
            f"`spd-tools runs remove {run_id} --harvest {harvest_id}` makes room for the packed one."
        )
    return folder


def _check_space(folder: Path, manifest: Manifest, settings: Settings) -> None:
    needed = sum(info.bytes for info in manifest.files.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise SpdToolsError(
            f"Unpacking needs {needed / 1e9:.1f} GB, but {settings.out_dir} has {free / 1e9:.1f} GB free; "
            "free space or choose another SPD_OUT_DIR."
        )
