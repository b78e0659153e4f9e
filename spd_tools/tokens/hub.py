"""Data sets that the ``datasets`` package reads: hub names, clones of hub data sets, folders of ``save_to_disk``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from spd_tools.errors import SpdToolsError
from spd_tools.tokens.columns import is_token_column, read_column
from spd_tools.tokens.file_hashes import content_hashes
from spd_tools.tokens.source import BATCH_DOCUMENTS, Source, TextBatch, TokenBatch, one_line


class HubUnreachableError(SpdToolsError):
    """There is no way to the hub now, and the data set was not downloaded before."""


class _DatasetsSource(Source):
    """A split as the package gives it, opened when needed: opening may download it."""

    _column: str
    _dataset: Any = None

    def _open(self) -> Any:
        raise NotImplementedError

    def _set_column(self, features: Any, column: str, is_tokenized: bool | None) -> None:
        self._column = column
        schema = features.arrow_schema if features is not None else next(self._tables(column=None)).schema
        self.tokenized = is_token_column(schema, column, self.name, is_tokenized)

    def _tables(self, column: str | None) -> Iterator[pa.Table]:
        with _reading(self.name):
            dataset = self._dataset if self._dataset is not None else self._open()
            self._dataset = dataset
            if column is not None:
                dataset = dataset.select_columns([column])
            empty = True
            for table in dataset.with_format("arrow").iter(batch_size=BATCH_DOCUMENTS):
                empty = False
                yield table
        if empty and column is None:
            raise _no_documents(self.name)

    def batches(self) -> Iterator[TextBatch | TokenBatch]:
        """Read the split in its order."""
        first_row = 0
        for table in self._tables(self._column):
            values = table.column(self._column).combine_chunks()
            n_rows = getattr(self._dataset, "num_rows", None)
            done = (first_row + len(values)) / n_rows if n_rows else None
            yield read_column(values, self.tokenized, self.name, first_row, done)
            first_row += len(values)


class HubSource(_DatasetsSource):
    """A hub data set, or the clone of one on disk."""

    def __init__(
        self,
        reference: str,
        *,
        config: str | None = None,
        clone: Path | None = None,
        split: str,
        column: str,
        streaming: bool,
        is_tokenized: bool | None,
    ) -> None:
        datasets = _datasets()
        self.name = f"{reference}:{config}" if config else reference
        self._split = split
        self._streaming = streaming
        with _reading(self.name):
            # The builder knows the revision before anything is downloaded, and reads that revision and no other.
            self._builder: Any = datasets.load_dataset_builder(str(clone or reference), config)
            features = self._builder.info.features
        self._set_column(features, column, is_tokenized)
        content: dict[str, Any] = (
            {"kind": "clone", "files": content_hashes(visible_files(clone))}
            if clone
            else {"kind": "hub", "name": reference, "revision": str(self._builder.hash)}
        )
        self.identity = content | {"config": self._builder.config.name, "split": split, "column": column}

    def _open(self) -> Any:
        if self._streaming:
            return self._builder.as_streaming_dataset(split=self._split)
        self._builder.download_and_prepare()
        return self._builder.as_dataset(split=self._split)


class SavedSource(_DatasetsSource):
    """A folder that ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote."""

    def __init__(self, folder: Path, *, split: str, column: str, is_tokenized: bool | None) -> None:
        datasets = _datasets()
        self.name = str(folder)
        splits = _saved_splits(folder)
        if splits is not None:
            if split not in splits:
                raise no_split(self.name, split, splits)
            folder = folder / split
        files = sorted(folder.glob("*.arrow"))
        if not files:
            raise _no_documents(self.name)
        with _reading(self.name):
            self._dataset = datasets.load_from_disk(str(folder))
        if splits is None and split not in ("train", str(self._dataset.split)):
            raise SpdToolsError(f"{self.name} holds a single data set without splits; leave out --split.")
        self._set_column(self._dataset.features, column, is_tokenized)
        self.identity = {"kind": "saved", "column": column, "files": content_hashes(files)}

    def _open(self) -> Any:
        return self._dataset


def is_saved(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote the folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def is_clone(folder: Path) -> bool:
    """Whether the folder is the clone of a hub data set: its README.md begins with a block of YAML."""
    readme = folder / "README.md"
    if not readme.is_file():
        return False
    with readme.open("rb") as file:
        return file.read(4).rstrip(b"\r\n") == b"---"


def _saved_splits(folder: Path) -> list[str] | None:
    """Splits of a saved DatasetDict, None for a single saved data set."""
    path = folder / "dataset_dict.json"
    if not path.is_file():
        return None
    try:
        return [str(split) for split in json.loads(path.read_bytes())["splits"]]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SpdToolsError(f"dataset_dict.json of {folder} is damaged; save the data set again.") from error


def _no_documents(name: str) -> SpdToolsError:
    return SpdToolsError(f"{name} holds no documents; choose another data set or split.")


def no_split(name: str, split: str, splits: list[str]) -> SpdToolsError:
    """The sentence for a split that is not there."""
    return SpdToolsError(f"{name} has no split {split!r}; it has {', '.join(map(repr, splits))}: choose with --split.")


def visible_files(folder: Path) -> list[Path]:
    """All files below a folder in a fixed order, without hidden ones."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _datasets() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SpdToolsError(
            "Hub data sets and folders saved by datasets need the datasets package: pip install 'spd-tools[hub]'."
        ) from error
    return datasets


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what the package raises (it raises nearly everything) into one sentence."""
    try:
        yield
    except SpdToolsError:
        raise
    except Exception as error:
        # The package wraps what goes wrong while it reads files into an error that says nothing.
        wrapped = type(error).__name__ == "DatasetGenerationError"
        cause = error.__cause__ if wrapped and isinstance(error.__cause__, Exception) else error
        if isinstance(cause, ConnectionError):
            raise HubUnreachableError(
                f"Data set {name} is not on this machine and the hub cannot be reached; connect, or give a local path."
            ) from error
        raise SpdToolsError(f"Data set {name} could not be read: {one_line(cause)}.") from error
