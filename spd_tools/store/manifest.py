"""Read and check manifest.json: is this folder a whole harvest that this version can read?"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from spd_tools.errors import SpdToolsError
from spd_tools.files import file_sha256
from spd_tools.store.schema import SCHEMA_VERSION, Manifest

MANIFEST = "manifest.json"
REQUIRED_FILES = frozenset(
    {
        "tokens.npy",
        "row_lengths.npy",
        "row_ids.npy",
        "components.parquet",
        "examples.arrow",
        "token_stats.arrow",
        "vocabulary.arrow",
        "correlations.arrow",
        "firings/log.arrow",
        "firings/rows.npy",
    }
)
OPTIONAL_FILES = frozenset({"excluded.npy", "tokenizer.json"})


def read_manifest(folder: Path) -> Manifest:
    """Manifest of a finished harvest.

    Raises:
        SpdToolsError: when it is missing, torn, of a future version or does not name a harvest's files.
    """
    path = folder / MANIFEST
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise SpdToolsError(f"{folder} holds no finished harvest (no {MANIFEST}); finish or merge it first.") from None
    except OSError as error:
        raise SpdToolsError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError:
        raise SpdToolsError(f"{path} is torn or no JSON; remove the folder and harvest again.") from None
    version = document.get("schema_version") if isinstance(document, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SpdToolsError(
            f"{folder} has store schema version {version}, this spd-tools reads up to {SCHEMA_VERSION}; "
            "upgrade spd-tools."
        )
    try:
        manifest = Manifest.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "document"
        raise SpdToolsError(
            f"{path} is no manifest of a harvest ({where}: {first['msg']}); remove the folder and harvest again."
        ) from None
    _check_names(path, set(manifest.files))
    return manifest


def _check_names(path: Path, names: set[str]) -> None:
    """Only names of the schema: nothing outside the folder is ever opened on a manifest's word."""
    if missing := sorted(REQUIRED_FILES - names):
        raise SpdToolsError(f"{path} does not list {missing[0]}; remove the folder and harvest again.")
    if unknown := sorted(names - REQUIRED_FILES - OPTIONAL_FILES):
        raise SpdToolsError(
            f"{path} lists {unknown[0]!r}, which is no file of a harvest; it is not ours or was altered."
        )


def check_sizes(folder: Path, manifest: Manifest) -> None:
    """Every file of the manifest is there with its size (cheap: contents are not read).

    Raises:
        SpdToolsError: naming the first file that is missing or has another size.
    """
    for name, info in sorted(manifest.files.items()):
        try:
            size = (folder / name).stat().st_size
        except OSError:
            raise SpdToolsError(
                f"{folder / name} is missing; restore it or remove the folder and harvest again."
            ) from None
        if size != info.bytes:
            raise SpdToolsError(
                f"{folder / name} is torn or foreign: it has {size:,} bytes, its manifest says {info.bytes:,}; "
                "restore it or remove the folder and harvest again."
            )


def check_contents(folder: Path, manifest: Manifest) -> None:
    """Compare every file's sha256 with the manifest (reads everything).

    Raises:
        SpdToolsError: naming the first file that differs.
    """
    check_sizes(folder, manifest)
    for name, info in sorted(manifest.files.items()):
        if file_sha256(folder / name) != info.sha256:
            raise SpdToolsError(
                f"{folder / name} differs from its checksum in {MANIFEST}; restore it or remove the folder and "
                "harvest again."
            )
