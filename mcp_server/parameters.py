"""Parameters that many tools share. Lengths are bounded: nothing below has to fear a megabyte of text."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from spd_tools.settings import AUTHOR_VARIABLE, author_from_environment

MAX_NAME = 512
MAX_TEXT = 20_000
MAX_TOKEN = 256


def _absent_is_empty(value: Any) -> Any:
    return "" if value is None else value


_Name = Annotated[str, BeforeValidator(_absent_is_empty)]
"""Empty where it is not given: clients that send null for what they leave out are understood."""

Key = Annotated[str, Field(min_length=1, max_length=MAX_NAME, description="component, e.g. h.0.mlp.c_fc:12")]
Run = Annotated[
    _Name, Field(max_length=MAX_NAME, description="run id or reference; may be left out when there is only one")
]
HarvestId = Annotated[_Name, Field(max_length=MAX_NAME, description="harvest id; default: the newest finished one")]
Limit = Annotated[int, Field(ge=1, le=100, description="longest list")]
Offset = Annotated[int, Field(ge=0, le=1_000_000, description="entries to skip, to get the rest of a long list")]
Author = Annotated[
    _Name,
    Field(max_length=MAX_NAME, description=f"who does this, for the record; default: ${AUTHOR_VARIABLE}, else mcp"),
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
OptionalText = Annotated[_Name, Field(max_length=MAX_TEXT)]
Token = Annotated[str, Field(min_length=1, max_length=MAX_TOKEN)]
TokenOrId = Token | Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**63, description="of every random choice: another one repeats it anew")]
EvidenceIds = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=MAX_NAME)]],
    Field(max_length=100, description="ids of evidence, as the experiments returned them"),
]
IdempotencyKey = Annotated[
    _Name,
    Field(max_length=MAX_NAME, description="any name of this write: repeated with the same name it is done once"),
]
Base = Literal["random", "firing", "silent"]
Response = Annotated[
    Literal["ranking", "gating", "firing"], Field(description="what is measured: activation, gate, or whether it fires")
]
_NOBODY = "mcp"


def author_of(author: str) -> str:
    """Who does it: who the caller says, else who the server's environment says."""
    return author or author_from_environment() or _NOBODY
