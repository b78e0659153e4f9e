"""`spd-tools demo`: a small harvest of the bundled decomposition, and a component worth a look."""

from __future__ import annotations

from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

REQUEST = HarvestRequest(run="demo", n_batches=64, batch_size=32)
COMPONENT = ComponentKey("h.0.mlp.down_proj", 13)
"""It fires on a category of words, and extremely on a rare member: top examples alone mislead, the regions tell."""


def harvest_demo() -> Harvest:
    """The demo's harvest, made the first time and found afterwards.

    Raises:
        SpdToolsError: when it cannot be written.
    """
    # An interrupted demo goes on where it stopped: whoever types it twice wants to see it, not to decide anything.
    return Harvest.open(run_harvest(REQUEST, resume=True).folder)
