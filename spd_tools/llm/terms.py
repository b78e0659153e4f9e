"""What stays the same while a model is used."""

from __future__ import annotations

from dataclasses import dataclass

from spd_tools.llm.ledger import Ledger
from spd_tools.llm.prices import Prices
from spd_tools.llm.retries import Retries


@dataclass(frozen=True)
class Terms:
    """See ``LanguageModel``."""

    ledger: Ledger
    job: str
    max_concurrent: int
    prices: Prices
    retries: Retries
    timeout_seconds: float
