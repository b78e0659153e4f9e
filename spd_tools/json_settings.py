"""JSON settings that belong to others: one entry is put in or taken out, everything else keeps its value and order."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from spd_tools.errors import SpdToolsError


def read_bytes(path: Path) -> bytes | None:
    """A file's content; None if there is none.

    Raises:
        SpdToolsError: when it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SpdToolsError(f"Could not read {path}: {error.strerror}.") from error


def json_object(path: Path, content: bytes | None) -> dict[str, Any]:
    """The JSON object that a file holds; an empty one for an empty or missing file.

    Raises:
        SpdToolsError: when it is anything else, or something that would not survive being written again.
    """
    if content is None or not content.strip():
        return {}
    try:
        document = json.loads(content, object_pairs_hook=_unambiguous, parse_float=_finite, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise SpdToolsError(f"{path} is not valid JSON ({error}); mend it, then run again.") from error
    if not isinstance(document, dict):
        raise SpdToolsError(f"{path} is not a JSON object; mend it, then run again.")
    return document


class ServerSettings:
    """A JSON file with ``mcpServers``: name -> how a server is started."""

    def __init__(self, path: Path) -> None:
        content = read_bytes(path)
        self.exists = content is not None
        self._document = json_object(path, content)
        self._indent = _indent(content or b"")
        self._end = "\n" if content is None or content.endswith(b"\n") else ""
        if not isinstance(self._document.get("mcpServers", {}), dict):
            raise SpdToolsError(f"{path}: mcpServers is not a JSON object; mend it, then run again.")

    @property
    def has_section(self) -> bool:
        """Whether there is a list of servers, even if empty."""
        return "mcpServers" in self._document

    def server(self, name: str) -> Any:
        """How a server is started; None if there is none of that name."""
        return self._document.get("mcpServers", {}).get(name)

    def with_server(self, name: str, entry: dict[str, Any]) -> bytes:
        """The file with a server added, or replaced in its place."""
        return self._bytes(self._document | {"mcpServers": self._document.get("mcpServers", {}) | {name: entry}})

    def without_server(self, name: str, *, keep_section: bool) -> bytes | None:
        """The file without a server; None when that leaves an empty object.

        Args:
            keep_section: whether to keep the list of servers when it becomes empty.
        """
        servers = {other: entry for other, entry in self._document["mcpServers"].items() if other != name}
        document = self._document | {"mcpServers": servers}
        if not servers and not keep_section:
            del document["mcpServers"]
        return self._bytes(document) if document else None

    def _bytes(self, document: dict[str, Any]) -> bytes:
        try:
            return (json.dumps(document, indent=self._indent, ensure_ascii=False) + self._end).encode()
        except UnicodeEncodeError:  # half a surrogate pair, which JSON can only hold escaped
            return (json.dumps(document, indent=self._indent) + self._end).encode()


def _indent(content: bytes) -> int | str:
    """Indentation of the first indented line; two spaces where there is none."""
    for line in content.decode(errors="replace").splitlines():
        blank = line[: len(line) - len(line.lstrip())]
        if blank and line.strip():
            return blank
    return 2


def _unambiguous(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("a name occurs twice in one object")
    return document


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")
