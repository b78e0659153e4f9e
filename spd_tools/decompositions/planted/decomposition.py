"""The planted model behind the protocol that every decomposition answers to."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from torch import Tensor

from spd_tools.decompositions.base import Decomposition, DecompositionOutput, TrainingData
from spd_tools.decompositions.planted.build import build
from spd_tools.decompositions.planted.corpus import sample_rows
from spd_tools.decompositions.planted.model import Change, PlantedModel
from spd_tools.decompositions.planted.rules import FIRING_LEVEL, Rule
from spd_tools.decompositions.planted.vocabulary import MAX_SEQ_LEN
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey, KeySpace

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class PlantedDecomposition(Decomposition):
    """Known answers: ``rules`` says of every component when it fires, how strongly, and what that does to the logits.

    Write vectors have norm 1, so the component activation is x @ read. Causal importance is
    clamp(|component activation| - 3/16, 0, 1), computed from the layer's input, before masks and clamps of that layer.
    """

    gating_kind = "causal_importance"
    ranking_kind = "component_activation"
    max_seq_len = MAX_SEQ_LEN

    def __init__(self, seed: int) -> None:
        planted = build(seed)
        self.seed = seed
        self.run_id = f"planted-{seed}" if seed else "planted"
        self.reference = f"planted:{seed}" if seed else "planted"
        self.rules: dict[str, Rule] = planted.rules
        """Key -> rule, in flat-index order."""
        self.uncovered: dict[str, Rule] = planted.uncovered
        """Layer -> rule of the weights that no component covers."""
        self.model: PlantedModel = planted.model
        self._cast = planted.cast
        self._tokenizer: Tokenizer | None = None
        self.words: tuple[str, ...] = planted.cast.words
        """Token id -> word."""
        self.layers = {name: self.model.layer(name).read.shape[0] for name in self.model.names}
        self.vocab_size = len(self.words)
        self.training_data = TrainingData(
            dataset=f"planted:{seed}", seq_len=MAX_SEQ_LEN, tokenizer=None, is_tokenized=True
        )
        self.fingerprint = _fingerprint(self.model, self.words)
        self._keys = KeySpace(self.layers)

    @property
    def tokenizer(self) -> Tokenizer:
        """Lower-cased words and single punctuation marks; other words become ``<unk>``."""
        if self._tokenizer is None:
            self._tokenizer = self._cast.tokenizer()
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.unembedding.device

    def to(self, device: torch.device | str) -> Self:
        """Move in place."""
        self.model.to(device)
        return self

    @property
    def unembedding(self) -> Tensor:
        """[d_model, vocab]."""
        return self.model.unembedding

    def read_vectors(self, layer: str) -> Tensor:
        """[C, d_in]: d_in are the layer's hidden neurons."""
        self._keys.span(layer)
        return self.model.layer(layer).read

    def write_vectors(self, layer: str) -> Tensor:
        """[C, d_model], each of norm 1; times ``unembedding`` they are the rules' effects."""
        self._keys.span(layer)
        return self.model.layer(layer).write

    def rule(self, name: str) -> Rule:
        """The rule of that name ("tail-marker", "duplicate-a", ...), whichever component it is under this seed."""
        for rule in self.rules.values():
            if rule.name == name:
                return rule
        known = ", ".join(sorted(rule.name for rule in self.rules.values()))
        raise SpdToolsError(f"There is no planted rule {name!r}; the rules are {known}.")

    def corpus(self, n_rows: int, seq_len: int = MAX_SEQ_LEN) -> np.ndarray:
        """Rows 0..n_rows-1 of this seed's text: [n_rows, seq_len] int64.

        Drawn from the model itself; a row is the same whatever n_rows is.

        Raises:
            SpdToolsError: when seq_len is not in 1..max_seq_len or n_rows is negative.
        """
        if n_rows < 0 or not 1 <= seq_len <= MAX_SEQ_LEN:
            raise SpdToolsError(
                f"The planted corpus has no {n_rows} rows of {seq_len} tokens; ask for 0 rows or more, "
                f"of 1 to {MAX_SEQ_LEN} tokens."
            )
        return sample_rows(self.model, self._cast, n_rows, seq_len)

    def __call__(self, tokens: Tensor) -> DecompositionOutput:
        """Run the target as it is and read off both activation kinds. tokens: [batch, seq] int64."""
        return self._forward(tokens, {})

    def run(
        self,
        tokens: Tensor,
        masks: Mapping[str, Tensor] | None = None,
        clamp: Mapping[str | ComponentKey, float | Tensor] | None = None,
        delta: float = 1.0,
    ) -> DecompositionOutput:
        """Run with component activations changed; see ``Decomposition.run``.

        Layers that neither masks nor clamp name run as the target does, whatever delta is. The component activations
        returned are those after masks and clamps.

        Raises:
            SpdToolsError: for an unknown layer or component, or a mask or clamp of the wrong shape.
        """
        masks, clamp = masks or {}, clamp or {}
        clamps: dict[str, dict[int, float | Tensor]] = {}
        for key, value in clamp.items():
            layer, index = self._keys.key(self._keys.flat(key))
            if isinstance(value, Tensor):
                _require_shape(f"clamp of {key}", value, tuple(tokens.shape), allow_number=True)
            clamps.setdefault(layer, {})[index] = value
        for layer, mask in masks.items():
            self._keys.span(layer)
            _require_shape(f"mask of layer {layer}", mask, (*tokens.shape, self.layers[layer]))
        changes = {
            layer: Change(masks.get(layer), clamps.get(layer, {}), delta)
            for layer in self.layers
            if layer in masks or layer in clamps
        }
        return self._forward(tokens, changes)

    def _forward(self, tokens: Tensor, changes: Mapping[str, Change]) -> DecompositionOutput:
        self._check(tokens)
        logits, layers, _ = self.model(tokens, changes)
        importance = {name: (out.natural.abs() - FIRING_LEVEL).clamp(0.0, 1.0) for name, out in layers.items()}
        applied = {name: out.applied for name, out in layers.items()}
        return DecompositionOutput(logits, {self.gating_kind: importance, self.ranking_kind: applied})

    def _check(self, tokens: Tensor) -> None:
        if tokens.ndim != 2 or tokens.shape[1] > MAX_SEQ_LEN or tokens.dtype not in (torch.int64, torch.int32):
            raise SpdToolsError(
                f"Tokens of shape {list(tokens.shape)} and {tokens.dtype} do not fit {self.run_id}; give whole numbers "
                f"[batch, seq] with seq up to {MAX_SEQ_LEN}."
            )
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.vocab_size:
            raise SpdToolsError(
                f"Token ids {int(tokens.min())} to {int(tokens.max())} do not fit {self.run_id}; its vocabulary has "
                f"the ids 0 to {self.vocab_size - 1}."
            )


def load_planted(seed: int = 0) -> PlantedDecomposition:
    """The planted decomposition of a seed; seeds differ in which words play which role and in the components' order.

    Raises:
        SpdToolsError: when the seed is not in 0..2^63-1.
    """
    if not 0 <= seed < 1 << 63:
        raise SpdToolsError(f"{seed} is no seed of the planted decomposition; choose a number from 0 to 2^63 - 1.")
    return PlantedDecomposition(seed)


def _require_shape(what: str, tensor: Tensor, shape: tuple[int, ...], *, allow_number: bool = False) -> None:
    if tuple(tensor.shape) != shape and not (allow_number and tensor.ndim == 0):
        raise SpdToolsError(f"The {what} has the shape {list(tensor.shape)}; it must be {list(shape)}.")


def _fingerprint(model: PlantedModel, words: tuple[str, ...]) -> str:
    """sha256 of the words and of all weights."""
    sha = hashlib.sha256(f"planted, causal importance from {FIRING_LEVEL}\n{' '.join(words)}\n".encode())
    for name, weight in sorted(model.state_dict().items()):
        sha.update(f"{name} {list(weight.shape)}\n".encode())
        sha.update(weight.numpy().tobytes())
    return sha.hexdigest()
