"""stdout belongs to data: one JSON document, or what a person reads. Everything else goes to stderr."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPED_WIDTH = 120
"""Columns where stdout is no terminal and COLUMNS is not set."""


@runtime_checkable
class _Model(Protocol):
    """A pydantic record, without importing pydantic for it."""

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...


def print_json(document: Any) -> None:
    """Print one JSON document.

    Everything outside printable ASCII is escaped, so text from data cannot steer a terminal; DEL is the one control
    character that JSON lets through.
    """
    text = json.dumps(document, default=_plain, ensure_ascii=True, allow_nan=False, indent=1)
    print(text.replace("\x7f", "\\u007f"))


def _plain(value: Any) -> Any:
    if isinstance(value, _Model):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def console() -> Console:
    """stdout for people: colours only on a terminal, data is never read as markup."""
    from rich.console import Console

    class StdoutConsole(Console):
        def on_broken_pipe(self) -> None:
            # rich would leave with 1; `main` knows what to do when whoever read stdout went away.
            raise BrokenPipeError

    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPED_WIDTH
    return StdoutConsole(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False)


def show(*renderables: RenderableType) -> None:
    """Print for people."""
    target = console()
    for renderable in renderables:
        target.print(renderable)


def note(text: str) -> None:
    """A remark on stderr."""
    from spd_tools.render.safe import visible

    print(visible(text), file=sys.stderr)
