"""What can be harvested: the protocol that SPD runs, the planted decomposition and dictionaries share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import Tensor

from spd_tools.keys import ComponentKey

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def computing_at(precision: Literal["f32", "bf16"], device: torch.device) -> torch.autocast:
    """Within this a model computes at a harvest's precision: bf16 by autocast, its weights stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@dataclass(frozen=True)
class DecompositionOutput:
    """One forward pass."""

    logits: Tensor
    """[batch, seq, vocab]"""
    activations: dict[str, dict[str, Tensor]]
    """kind -> layer -> [batch, seq, C of the layer], in the order of ``layers``."""


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """One layer's activations as a harvest takes them."""

    layer: str
    gating: Tensor
    """[batch, seq, C]; the gating activation once clamped to low..high."""
    low: float = -math.inf
    high: float = math.inf
    ranking: Tensor | None = None
    """[batch, seq, C]; None when the gating activation also ranks or when ``inputs`` are given."""
    inputs: Tensor | None = None
    """[batch, seq, d_in]: the ranking activation is inputs @ weights.T, to be computed only where it is needed."""
    weights: Tensor | None = None
    """[C, d_in]"""


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """What a run was trained on: the defaults of a harvest."""

    dataset: str
    """Hub name (or a path)."""
    split: str = "train"
    column: str = "text"
    seq_len: int
    tokenizer: str | None
    """Hub name or absolute path of a tokenizer file; None when the data set is tokenised."""
    is_tokenized: bool = False
    streaming: bool = False


class Decomposition(ABC):
    """A target model together with the components that it was decomposed into."""

    run_id: str
    fingerprint: str
    """Hex digest of the weights and of everything else that determines activations."""
    reference: str
    """What the user would type to load this again (absolute path, "wandb:...", "planted:0")."""
    layers: dict[str, int]
    """Layer name -> number of components, in flat-index order."""
    vocab_size: int
    max_seq_len: int
    gating_kind: str
    """Activation kind that decides firing: strictly above the threshold."""
    ranking_kind: str
    """Activation kind that orders a component's firings."""
    default_threshold: float = 0.0
    training_data: TrainingData | None = None

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """Read on first use.

        Raises:
            SpdToolsError: when it cannot be found.
        """

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the weights are."""

    @abstractmethod
    def to(self, device: torch.device | str) -> Self:
        """Move in place."""

    @abstractmethod
    def __call__(self, tokens: Tensor) -> DecompositionOutput:
        """Run the target as it is and read off every activation kind. tokens: [batch, seq] int64."""

    def parts(self, tokens: Tensor) -> tuple[Tensor, Iterator[LayerParts]]:
        """The same as a call, in pieces: logits, and the layers one by one in order.

        A decomposition overrides this where it can do without all dense activations at once.
        """
        out = self(tokens)
        ranks = self.gating_kind != self.ranking_kind
        return out.logits, (
            LayerParts(
                layer=layer,
                gating=out.activations[self.gating_kind][layer],
                ranking=out.activations[self.ranking_kind][layer] if ranks else None,
            )
            for layer in self.layers
        )

    @abstractmethod
    def run(
        self,
        tokens: Tensor,
        masks: Mapping[str, Tensor] | None = None,
        clamp: Mapping[str | ComponentKey, float | Tensor] | None = None,
        delta: float = 1.0,
    ) -> DecompositionOutput:
        """Run with component activations changed.

        Args:
            tokens: [batch, seq] int64.
            masks: layer -> [batch, seq, C], multiplied onto the component activations.
            clamp: key -> the value that this component's activation (as reported) takes, a number or [batch, seq].
            delta: share of the weights that no component covers.

        Layers named in neither run as the target does.
        """

    def run_logits(self, tokens: Tensor, masks: Mapping[str, Tensor] | None = None, delta: float = 1.0) -> Tensor:
        """Logits [batch, seq, vocab] of ``run``; cheaper where activations have to be computed apart from them."""
        return self.run(tokens, masks, delta=delta).logits

    @abstractmethod
    def read_vectors(self, layer: str) -> Tensor:
        """[C, d_in]: directions that the layer's components read."""

    @abstractmethod
    def write_vectors(self, layer: str) -> Tensor:
        """[C, d_out]: directions that the layer's components write."""

    @property
    @abstractmethod
    def unembedding(self) -> Tensor | None:
        """[d_model, vocab], or None where the target has none."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Activation kinds in a fixed order: gating first, ranking last (one when they are the same)."""
        return (self.gating_kind,) if self.gating_kind == self.ranking_kind else (self.gating_kind, self.ranking_kind)
