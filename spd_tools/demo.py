"""`spd-tools demo`: a small harvest of the bundled decomposition, and a component worth a look."""

from __future__ import annotations

from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.keys import ComponentKey
from spd_tools.store.harvest import Harvest

REQUEST = HarvestRequest(run="demo", n_batches=32, batch_size=32)
COMPONENT = ComponentKey("h.1.mlp.down_proj", 123)
"""It fires on "her" and "his" where a relative comes next, and with the other sign before small animals."""


def harvest_demo() -> Harvest:
    """The demo's harvest, made the first time and found afterwards.

    Raises:
        SpdToolsError: when it cannot be written.
    """
    # An interrupted demo goes on where it stopped: whoever types it twice wants to see it, not to decide anything.
    return Harvest.open(run_harvest(REQUEST, resume=True).folder)
