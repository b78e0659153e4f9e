"""What the reader returns. ``model_dump_json`` writes keys as "layer:index" and -inf as null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer

from spd_tools.keys import ComponentKey

Side = Literal["input", "output"]
SIDES: tuple[Side, ...] = ("input", "output")
ExampleKind = Literal["uniform", "top"]
EXAMPLE_KINDS: tuple[ExampleKind, ...] = ("uniform", "top")
PairMetric = Literal["pmi", "jaccard", "precision", "recall"]
PAIR_METRICS: tuple[PairMetric, ...] = ("pmi", "jaccard", "precision", "recall")
TokenMetric = Literal["recall", "precision", "lift", "pmi"]
TOKEN_METRICS: tuple[TokenMetric, ...] = ("recall", "precision", "lift", "pmi")

KeyField = Annotated[
    ComponentKey, BeforeValidator(ComponentKey.parse), PlainSerializer(str, return_type=str, when_used="json")
]
"""A component key; text in JSON."""


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None


Score = Annotated[float, PlainSerializer(_finite, return_type=float | None, when_used="json")]
"""A number that may be -inf (the PMI of what never happened); null in JSON."""


class Record(BaseModel):
    """Base of all results."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ComponentRecord(Record):
    """One component's totals."""

    key: KeyField
    index: int
    """Flat index over all layers."""
    firing_count: int
    """n_c: positions at which it fires."""
    density: float
    """n_c / T."""
    mean_activations: dict[str, float]
    """kind -> mean over all harvested tokens, firing or not."""
    mean_firing_activations: dict[str, float] | None
    """kind -> mean over its firings; None when it never fired."""
    mean_abs_firing_activations: dict[str, float] | None
    """kind -> mean absolute value over its firings; None when it never fired."""
    dropped_output_mass: float
    """D_c: next-token probability mass at its firings that lies below p_min, in units of firings."""
    logged_firings: int
    """Firings in logged rows."""
    effective_max: float | None
    """99.5th percentile of |ranking activation| over its logged firings; None without any."""


class HistogramBin(Record):
    """Firings whose ranking activation lies between two bounds."""

    low: float
    high: Score
    count: int


class Example(Record):
    """One firing and what stands around it."""

    row: int
    """Row of the harvest (of ``Harvest.tokens()``)."""
    row_id: int
    """Row of the data set's token file."""
    position: int
    """Where in the row it fires."""
    start: int
    """Position of ``token_ids[0]``."""
    firing_index: int
    """Place of the firing token in ``token_ids``: position - start."""
    token_ids: list[int]
    token_texts: list[str | None]
    """Along ``token_ids``; None where the harvest has no tokenizer or it does not know the id."""
    activations: dict[str, list[float | None]]
    """kind -> this component's activations along ``token_ids``; None where none is stored (an excluded position; beyond
    the stored window, where only logged rows have values, and only at firings)."""


class TokenScore(Record):
    """How a component and a token go together; M is the input count I or the output mass O."""

    token_id: int
    text: str | None
    """None where the harvest has no tokenizer or it does not know the id."""
    count: int | float
    """M_cv: firings on this token (input), or probability mass given to it at firings (output)."""
    total: int | float
    """M_v: the same over all harvested positions."""
    recall: float
    """M_cv / n_c."""
    precision: float
    """M_cv / M_v."""
    lift: float
    """precision / density."""
    pmi: float
    """ln(M_cv T / (n_c M_v))."""


class TokenLists(Record):
    """Best and worst tokens by one metric; no token is in both."""

    metric: TokenMetric
    min_count: float
    """Tokens with a smaller M_cv were left out."""
    n_eligible: int
    """Tokens that the lists were chosen from."""
    top: list[TokenScore]
    bottom: list[TokenScore]


class CorrelatedComponent(Record):
    """How often two components fire together. The other one is j, the one asked about i."""

    key: KeyField
    score: Score
    """The metric asked for."""
    count: int
    """n_ij: positions at which both fire."""
    expected: float
    """n_i n_j / T: the same if they were independent."""
    firing_count: int
    """n_j."""
    density: float
    """n_j / T."""
    precision: float
    """n_ij / n_i = P(j | i)."""
    recall: float
    """n_ij / n_j = P(i | j)."""
    jaccard: float
    pmi: Score
    """ln(n_ij T / (n_i n_j)); -inf when they never fired together."""


@dataclass(frozen=True, eq=False)
class Activations:
    """All firings of one component in the logged rows, in ascending order; arrays are views of the mapped file."""

    token: NDArray[np.int64]
    """[n] row * seq_len + position: index into ``Harvest.tokens().reshape(-1)``."""
    values: dict[str, NDArray[np.float32]]
    """kind -> [n]."""
    seq_len: int

    def __len__(self) -> int:
        return len(self.token)

    @property
    def row(self) -> NDArray[np.int64]:
        """[n] rows of ``Harvest.tokens()``."""
        return self.token // self.seq_len

    @property
    def position(self) -> NDArray[np.int64]:
        """[n] positions in those rows."""
        return self.token % self.seq_len
