"""Typed calls to Claude: every one in a ledger, paid once, within a budget."""

from spd_tools.llm.batch_rows import abandon_batch, adopt_batch
from spd_tools.llm.batches import BatchSettings
from spd_tools.llm.budget import Budget
from spd_tools.llm.call import Answer, Call, Effort, Failure, NotSent, Outcome, Usage
from spd_tools.llm.estimate import Estimate, estimate
from spd_tools.llm.ledger import CallRecord, Ledger, Spending
from spd_tools.llm.model import LanguageModel
from spd_tools.llm.prices import Price, Prices
from spd_tools.llm.progress import CallBar, CallProgress, Tally
from spd_tools.llm.retries import Retries

__all__ = [
    "Answer",
    "BatchSettings",
    "Budget",
    "Call",
    "CallBar",
    "CallProgress",
    "CallRecord",
    "Effort",
    "Estimate",
    "Failure",
    "LanguageModel",
    "Ledger",
    "NotSent",
    "Outcome",
    "Price",
    "Prices",
    "Retries",
    "Spending",
    "Tally",
    "Usage",
    "abandon_batch",
    "adopt_batch",
    "estimate",
]
