"""An investigation of one component of the planted decomposition, as a scripted assistant does it.

The component fires on instruments unless a colour came within the three tokens before. The assistant knows the
protocol, the language of the texts and what it suspects; ids and trigger tokens it reads off the tools' answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from messages_api import Answer, Call, Conversation, Step

from spd_tools.harvest import HarvestRequest

HARVEST = HarvestRequest(run="planted", n_batches=16, batch_size=32)
KEY = "h.0.mlp.down_proj:21"
COLOURS = ("white", "black", "green", "blue", "brown", "grey", "red", "yellow")
REACH = 3
ID = re.compile(r"\b(?:h|[a-z]+(?:_[a-z]+)*)-[0-9a-f]{12}\b")
"""Of a hypothesis or of evidence."""

POSITIVES = [
    "anna takes the old horn again .",
    "the quiet guitar falls near a bed",
    "grace likes this harp and sings",
    "why never a cello today ?",
    "two tiny lute jumps above every castle",
    "henry draws that cold horn slowly",
    "who brings a guitar to lima ?",
    "every harp waits behind the old ladder",
    "felix sells one young cello often !",
    "this lute rests because emma runs",
    "ben keeps the heavy horn ; always",
]
NEGATIVES = [
    "anna takes the blue horn again .",
    "the red quiet guitar falls near a bed",
    "grace likes this tiny saw and sings",
    "why never a yellow old cello today ?",
    "two green tiny jacket jumps above every castle",
    "henry draws that cold pear slowly",
    "who brings a black guitar near paris ?",
    "every knife waits behind the old ladder",
]
LABEL = {
    "input_view": "an instrument (horn, harp, guitar, cello, lute), unless a colour came within three tokens before",
    "category": "gate",
    "confidence": 0.9,
}
TEXTS = {"label": LABEL["input_view"], "positives": POSITIVES, "negatives": NEGATIVES}
"""What is tested, and on what."""


def whole_protocol() -> list[Step]:
    """Triage to research log, by the book."""
    return [
        lambda _: [_ask("triage"), Call("research_log", {"action": "read", "key": KEY})],
        lambda _: [_ask("overview"), _ask("examples", kind="uniform", limit=10), _ask("token_stats", metric="recall")],
        lambda _: [
            _ask("hypothesis", action="add", text="fires on instruments, whatever stands before", confidence=0.6),
            _ask("hypothesis", action="add", text="fires on instruments unless a colour stands before", confidence=0.4),
        ],
        _tell_them_apart,
        _update_hypotheses,
        lambda _: [_ask("direct_effect", limit=4)],
        lambda conversation: [_ask("ablate", tokens=_raised(conversation))],
        lambda conversation: [_set_label(conversation, "draft", ["interact", "ablate"])],
        lambda _: [_ask("generate_and_test", **TEXTS)],
        _test,
        lambda conversation: [_set_label(conversation, "supported", ["interact", "ablate", "generate_and_test"])],
        lambda conversation: [_write_log(conversation)],
        lambda _: "Labelled: a gate.",
    ]


def without_intervention() -> list[Step]:
    """The same conviction from a probe and a passed test: nothing was ever changed beside something unchanged."""
    return [
        lambda _: [_ask("overview"), _ask("token_stats", metric="recall")],
        lambda _: [_ask("probe", texts=["a horn", "a red horn"])],
        lambda _: [_ask("generate_and_test", **TEXTS)],
        _test,
        lambda conversation: [_set_label(conversation, "supported", ["probe", "generate_and_test"])],
        lambda _: "It stays a draft.",
    ]


def evidence(conversation: Conversation, tool: str) -> str:
    """Id of the newest evidence that a tool returned."""
    found = re.search(r"^Evidence (\S+)", conversation.last(tool).text, re.MULTILINE)
    assert found, conversation.last(tool).text
    return found.group(1)


def _ask(tool: str, **arguments: object) -> Call:
    return Call(tool, {"key": KEY, **arguments})


def _tell_them_apart(conversation: Conversation) -> Answer:
    instruments = _first_cells(conversation.last("token_stats").text)[:3]
    return [_ask("interact", first_tokens=["red", "blue", "green"], second_tokens=instruments)]


def _update_hypotheses(conversation: Conversation) -> Answer:
    rejected, kept = (ID.findall(result.text)[0] for result in conversation.results if result.name == "hypothesis")
    cited = {"action": "update", "evidence": [evidence(conversation, "interact")]}
    return [
        _ask("hypothesis", hypothesis_id=rejected, status="rejected", note="colours silence it", **cited),
        _ask("hypothesis", hypothesis_id=kept, status="supported", confidence=0.9, **cited),
    ]


def _raised(conversation: Conversation) -> list[str]:
    """Tokens that the write vector points at, most first: a guess for the ablation to test."""
    return _first_cells(conversation.last("direct_effect").text)[:4]


def _test(conversation: Conversation) -> Answer:
    candidates = map(json.loads, _first_cells(conversation.last("generate_and_test").text))
    silent = [text for text in candidates if not _label_says_it_fires(text, instruments=_instruments(conversation))]
    return [_ask("generate_and_test", **TEXTS, near_misses=silent)]


def _instruments(conversation: Conversation) -> list[str]:
    return _first_cells(conversation.last("token_stats").text)


def _label_says_it_fires(text: str, instruments: Sequence[str]) -> bool:
    words = text.split()
    return any(
        word in instruments and not set(words[max(0, place - REACH) : place]) & set(COLOURS)
        for place, word in enumerate(words)
    )


def _set_label(conversation: Conversation, wants: str, tools: Sequence[str]) -> Call:
    cited = [evidence(conversation, tool) for tool in tools]
    ruled_out = [f"any instrument, whatever stands before ({cited[0]})"]
    if "ablate" in tools:
        output = {"output_view": f"raises {', '.join(_raised(conversation))}", "output_effect": "raises"}
    else:
        output = {"output_view": "not looked at", "output_effect": "unknown"}
    return _ask("label", action="set", evidence=cited, wants=wants, ruled_out=ruled_out, **LABEL, **output)


def _write_log(conversation: Conversation) -> Call:
    text = (
        f"A gate: colours silence it ({evidence(conversation, 'interact')}). Open: colours more than three tokens away."
    )
    return _ask("research_log", action="write", text=text)


def _first_cells(page: str) -> list[str]:
    """The first quoted cell of every row of a table."""
    return re.findall(r"^\|[^⟦\n]*⟦(.*?)⟧ \|", page, re.MULTILINE)
