"""DataConfig -> Source: what kind of data set a string names."""

from __future__ import annotations

import glob
import os
import re
from pathlib import Path

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.config import DataConfig
from spd_tools.tokens.hub import HubSource, SavedSource, is_clone, is_saved, no_split, visible_files
from spd_tools.tokens.lines import JsonlSource, TextSource
from spd_tools.tokens.parquet import ParquetSource
from spd_tools.tokens.source import Source

SUFFIXES = {".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl", ".txt": "txt"}
_READABLE = ".parquet, .jsonl, .jsonl.gz and .txt files"
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""Words in file names that say which split a file belongs to, as ``datasets`` has them."""
_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[^:\s]+))?")


def open_source(config: DataConfig) -> Source:
    """Find and open the data set.

    Raises:
        SpdToolsError: when it does not exist, cannot be read or does not have the split or the column.
    """
    # Not Path.is_file and its like: they raise for hostile names (too long, "~nobody").
    path = Path(os.path.expanduser(config.source))
    if os.path.isfile(path):
        return _files_source(config, str(path.absolute()), [path])
    if os.path.isdir(path):
        return _folder_source(config, path.absolute())
    if glob.has_magic(config.source):
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
        files = [file for file in found if file.is_file()]
        if not files:
            raise SpdToolsError(f"No file matches {config.source}.")
        return _files_source(config, str(path.absolute()), files)
    return _hub_source(config)


def _hub_source(config: DataConfig) -> Source:
    match = _HUB_NAME.fullmatch(config.source)
    if match is None or config.source.startswith(".") or config.source.endswith(tuple(SUFFIXES)):
        raise SpdToolsError(
            f"There is no file or folder {config.source}, and it is no name of a hub data set either; mend the path."
        )
    return HubSource(
        match["name"],
        config=match["config"],
        split=config.split,
        column=config.column,
        streaming=config.streaming,
        is_tokenized=config.is_tokenized,
    )


def _folder_source(config: DataConfig, folder: Path) -> Source:
    if is_saved(folder):
        return SavedSource(folder, split=config.split, column=config.column, is_tokenized=config.is_tokenized)
    if is_clone(folder):
        return HubSource(
            str(folder),
            clone=folder,
            split=config.split,
            column=config.column,
            streaming=config.streaming,
            is_tokenized=config.is_tokenized,
        )
    files = [file for file in visible_files(folder) if _kind(file)]
    if not files:
        raise SpdToolsError(f"The folder {folder} holds none of {_READABLE}.")
    by_split: dict[str | None, list[Path]] = {}
    for file in files:
        by_split.setdefault(_split_of(file.relative_to(folder)), []).append(file)
    if by_split.keys() == {None}:
        return _files_source(config, str(folder), files)
    if None in by_split:
        split_file = next(file for split, some in by_split.items() if split for file in some)
        raise SpdToolsError(
            f"{folder} has files whose names tell a split ({split_file.name}) and files whose names do not "
            f"({by_split[None][0].name}); name the files that you want by a glob."
        )
    if config.split not in by_split:
        raise no_split(str(folder), config.split, [split for split in by_split if split])
    return _source(config, str(folder), by_split[config.split])


def _files_source(config: DataConfig, name: str, files: list[Path]) -> Source:
    if config.split != "train":
        raise SpdToolsError(f"{name} has no splits, but {config.split!r} was asked for; leave out --split.")
    return _source(config, name, files)


def _source(config: DataConfig, name: str, files: list[Path]) -> Source:
    for file in files:
        if not _kind(file):
            raise SpdToolsError(f"{file} is not in a known format; data sets are {_READABLE}.")
    kinds = sorted({_kind(file) for file in files})
    if len(kinds) > 1:
        raise SpdToolsError(f"{name} mixes {' and '.join(kinds)} files; name those of one kind by a glob.")
    if kinds == ["txt"]:
        if config.is_tokenized:
            raise SpdToolsError(f"{name} is text, but token ids were asked for; use .parquet or .jsonl for token ids.")
        return TextSource(name, files)
    reader = ParquetSource if kinds == ["parquet"] else JsonlSource
    return reader(name, files, config.column, config.is_tokenized)


def _kind(file: Path) -> str:
    return next((kind for suffix, kind in SUFFIXES.items() if file.name.endswith(suffix)), "")


def _split_of(relative: Path) -> str | None:
    """The split that a path below the data set's folder names ("data/train-00000-of-00002.parquet"), if any."""
    words = set(re.split(r"[^a-z]+", relative.as_posix().lower()))
    return next((split for split, names in _SPLITS.items() if words.intersection(names)), None)
