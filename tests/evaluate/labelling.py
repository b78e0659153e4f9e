"""Labels as `interpret` writes them: with a call in the ledger that they are the answer to."""

from __future__ import annotations

from typing import Any

from spd_tools.annotations import Annotations, LabelDraft, LabelRecord
from spd_tools.evaluate.splits import Split
from spd_tools.interpret import DEFAULT_MODEL, Interpretation, Labeller
from spd_tools.interpret.labeller import PURPOSE
from spd_tools.llm import Answer, Call, Ledger, requests
from spd_tools.store.harvest import Harvest


def answered(harvest: Harvest, ledger: Ledger, key: Any, text: str) -> LabelDraft:
    """Put a call and its answer into the ledger; the draft that `interpret` makes of it."""
    value = Interpretation(reasoning="so", input_view=text, output_view="", label="a", verdict="clear", confidence=0.5)
    call = Call(
        purpose=PURPOSE,
        model=DEFAULT_MODEL,
        system="Label.",
        prompt=f"{key}: {text}",
        schema=Interpretation,
        max_tokens=100,
        tag=str(key),
    )

    def write(connection) -> None:
        seq = requests.begin(connection, call, 0, "interpret", None)
        assert isinstance(seq, int)
        answer = value.model_dump_json()
        outcome = requests.Outcome("answered", requests.NOTHING, 0, served=DEFAULT_MODEL, answer=answer)
        requests.settle(connection, seq, outcome)

    ledger.transaction([write])
    answer = Answer(
        call_hash=call.hash,
        tag=call.tag,
        value=value,
        model=DEFAULT_MODEL,
        usage=requests.NOTHING,
        dollars=0,
        seconds=None,
        request_id=None,
        time="",
        from_ledger=False,
    )
    return Labeller(Split(harvest), DEFAULT_MODEL, "detects").draft(answer)


def interpreted(harvest: Harvest, notes: Annotations, ledger: Ledger, key: Any, text: str) -> LabelRecord:
    """Label a component as `interpret` would."""
    return notes.set_label(key, answered(harvest, ledger, key, text), author=DEFAULT_MODEL).label
