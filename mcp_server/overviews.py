"""The overview page, which the tool and the resource share."""

from __future__ import annotations

from functools import lru_cache

from mcp_server.answers import capped
from mcp_server.look_pages import overview_pages
from mcp_server.notes_pages import known_about
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

_KEPT = 128
_N_TOKENS = 8
_N_COMPONENTS = 6


def overview_answer(harvest: Harvest, key: str, n_examples: int = 5, context: int = 12) -> str:
    """One component on one page, with what is on record about it now.

    Raises:
        SpdToolsError: for an unknown component.
    """
    component = harvest.keys.key(harvest.keys.flat(key))
    head, rest = _pages(harvest, component, n_examples, context)
    page = f"{head}\n{known_about(harvest, str(component))}\n\n{rest}"
    return capped(page, "Ask for fewer examples or less context; examples, token_stats and correlations page.")


@lru_cache(_KEPT)
def _pages(harvest: Harvest, key: ComponentKey, n_examples: int, context: int) -> tuple[str, str]:
    """What a harvest says never changes, and several agents often look at one component."""
    from spd_tools.analysis.overview import overview

    found = overview(
        harvest, key, n_examples=n_examples, context=context, n_tokens=_N_TOKENS, n_components=_N_COMPONENTS
    )
    return overview_pages(harvest, found)
