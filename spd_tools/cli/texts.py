"""A file of texts on which a label is tested."""

from __future__ import annotations

from pathlib import Path

from spd_tools.errors import SpdToolsError

LABEL = "label"
GROUPS = ("positives", "negatives", "near_misses")
_MAX_BYTES = 1 << 22


def read_texts(path: Path) -> tuple[str | None, dict[str, list[str]]]:
    """Read it: JSON or YAML, a mapping from any of GROUPS to a list of texts, and from LABEL to what is tested.

    Returns:
        the label, None where there is none, and the groups that there are.

    Raises:
        SpdToolsError: when it is something else.
        OSError: when it cannot be read.
    """
    import yaml

    if path.stat().st_size > _MAX_BYTES:
        raise SpdToolsError(f"{path} is too large for a file of texts; give at most {_MAX_BYTES >> 20} MB.")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise SpdToolsError(
            f"{path} is neither JSON nor YAML; write a mapping of {LABEL}, {', '.join(GROUPS)}."
        ) from None
    if not isinstance(document, dict) or not document:
        raise SpdToolsError(f"{path} is no mapping; write {LABEL}, and {', '.join(GROUPS)}, each a list of texts.")
    label = document.pop(LABEL, None)
    if label is not None and not isinstance(label, str):
        raise SpdToolsError(f"{LABEL} in {path} is no text; put it in quotes.")
    for group, texts in document.items():
        if group not in GROUPS:
            raise SpdToolsError(f"{path} has {group!r}, and there are {LABEL}, {', '.join(GROUPS)}; correct it.")
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise SpdToolsError(f"{group} in {path} is no list of texts; put each text in quotes.")
    return label, document
