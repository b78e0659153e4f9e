"""The decomposition that a harvest counted, for questions that need its weights."""

from __future__ import annotations

from spd_tools.decompositions.base import Decomposition
from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.store.harvest import Harvest


def decomposition_of(harvest: Harvest) -> Decomposition:
    """Load it again from where it was found.

    Raises:
        SpdToolsError: when it is gone, cannot be loaded or has changed since.
    """
    described = harvest.manifest.decomposition
    try:
        decomposition = load_decomposition(described.reference)
    except SpdToolsError as error:
        raise SpdToolsError(f"This needs the weights of {described.run_id}, which cannot be loaded: {error}") from None
    if decomposition.fingerprint != described.fingerprint:
        raise SpdToolsError(
            f"{described.reference} is no longer what harvest {harvest.harvest_id} counted; harvest it again."
        )
    return decomposition
