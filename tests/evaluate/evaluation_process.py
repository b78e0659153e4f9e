"""An evaluation as a process of its own, to be killed: FOLDER of the harvest, then the settings as JSON."""

from __future__ import annotations

import asyncio
import json
import sys

from spd_tools.annotations import Annotations
from spd_tools.evaluate.plan import settings_of
from spd_tools.evaluate.runner import evaluate
from spd_tools.llm import LanguageModel, Ledger
from spd_tools.store.harvest import Harvest


def main() -> None:
    harvest = Harvest.open(sys.argv[1])
    settings = settings_of(harvest, **json.loads(sys.argv[2]))
    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    model = LanguageModel(ledger, job=settings.id, max_concurrent=4)
    asyncio.run(evaluate(harvest, Annotations.of(harvest), model, settings))


if __name__ == "__main__":
    main()
