"""`--batch` and what to say about a batch whose creation was interrupted; `interpret` and `evaluate` share it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spd_tools.store.harvest import Harvest


def add_settling_options(group: Any) -> None:
    """--adopt-batch and --abandon-batch, which the error about an uncertain batch asks for."""
    group.add_argument(
        "--adopt-batch",
        type=_adopted,
        action="append",
        default=[],
        metavar="INTENT=ID",
        help="an interrupted batch was created, as this one",
    )
    group.add_argument(
        "--abandon-batch", action="append", default=[], metavar="INTENT", help="an interrupted batch was never created"
    )


def settle_batches(args: argparse.Namespace, harvest: Harvest) -> None:
    """Write down what the user said about interrupted batches.

    Raises:
        SpdToolsError: for one that is not in the ledger, or is known under another id.
    """
    if not args.adopt_batch and not args.abandon_batch:
        return
    from spd_tools.llm import Ledger, abandon_batch, adopt_batch

    ledger = Ledger.open(harvest.run_id, harvest.manifest.decomposition.fingerprint)
    for intent, batch_id in args.adopt_batch:
        adopt_batch(ledger, intent, batch_id)
    for intent in args.abandon_batch:
        abandon_batch(ledger, intent)


def _adopted(text: str) -> tuple[str, str]:
    intent, equals, batch_id = text.partition("=")
    if not (intent and equals and batch_id):
        raise argparse.ArgumentTypeError(f"{text!r} is not INTENT=ID")
    return intent, batch_id
