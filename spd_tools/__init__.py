"""spd-tools: count what the components of a decomposed neural network do, and look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spd_tools.decompositions.resolve import load_decomposition
    from spd_tools.store.reader import open_harvest

__all__ = ["load_decomposition", "open_harvest"]


def __getattr__(name: str) -> Any:
    # Imported on first use: torch takes seconds, and the CLI must answer --help without it.
    if name == "load_decomposition":
        from spd_tools.decompositions.resolve import load_decomposition

        return load_decomposition
    if name == "open_harvest":
        from spd_tools.store.reader import open_harvest

        return open_harvest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
