"""Words that somebody typed and the vocabulary lacks: a model is shown something else in their place."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spd_tools.errors import SpdToolsError

if TYPE_CHECKING:
    from spd_tools.experiments.records import Request
    from spd_tools.store.tokentext import TokenText

_TEXTS = {
    "probe": ("texts",),
    "minimal_context": ("places",),
    "generate_and_test": ("positives", "negatives", "near_misses"),
}
"""Experiment -> fields of its request that hold texts."""
_ROW = "row:"
_NO_MARKS = str.maketrans("", "", "«»")
_SHOWN = 8


def unknown_words(request: Request, spelling: TokenText) -> list[str]:
    """What the vocabulary lacks of the texts of a request, each once; rows of the harvest lack nothing."""
    texts = [text for field in _TEXTS.get(request.experiment, ()) for text in getattr(request, field)]
    plain = (text.translate(_NO_MARKS) for text in texts if not text.startswith(_ROW))
    found = (text[start:stop] for text in plain for start, stop in spelling.unknown_parts(text))
    return list(dict.fromkeys(found))


def unknown_remark(request: Request, spelling: TokenText) -> str | None:
    """What to know about a result on texts with such words; None where there are none."""
    words = unknown_words(request, spelling)
    if not words:
        return None
    shown = ", ".join(map(repr, words[:_SHOWN])) + (f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else "")
    instead = "leaves them out" if spelling.unknown is None else f"sees {spelling.unknown} in their place"
    return f"The vocabulary lacks {shown}; the model {instead}, so this says nothing about them."


def refuse_unknown_triggers(request: Request, spelling: TokenText) -> None:
    """Refuse to test a label on words that the model cannot read.

    Raises:
        SpdToolsError: when a text marks one, or has nothing else.
    """
    for field in _TEXTS[request.experiment]:
        for text in getattr(request, field):
            plain, start, stop = text.translate(_NO_MARKS), text.find("«"), text.find("»") - 1
            parts = spelling.unknown_parts(plain)
            if start >= 0:
                lacking = [plain[a:b] for a, b in parts if a < stop and b > start]
            else:
                known = "".join(char for at, char in enumerate(plain) if not any(a <= at < b for a, b in parts))
                lacking = [] if known.strip() else [plain]
            if lacking:
                raise SpdToolsError(
                    f"The vocabulary lacks {lacking[0]!r}, on which {text!r} is judged, so the model cannot read it; "
                    "write another word there."
                )
