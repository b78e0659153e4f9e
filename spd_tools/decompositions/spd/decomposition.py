"""An SPD run as a Decomposition."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from spd_tools.decompositions.base import Decomposition, DecompositionOutput, LayerParts, TrainingData
from spd_tools.decompositions.spd.changes import change, forwards_replaced, per_position, picked_output
from spd_tools.decompositions.spd.ci_functions import CiFunction
from spd_tools.decompositions.spd.components import Components
from spd_tools.decompositions.spd.sigmoids import CLAMPING, Bound, causal_importance, squashing
from spd_tools.decompositions.spd.tokenizer import TokenizerSource
from spd_tools.errors import SpdToolsError
from spd_tools.keys import ComponentKey, KeySpace
from spd_tools.targets.build import Target

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class ForwardParts:
    """One forward pass of the target, with what activations are computed from. No gradients."""

    logits: Tensor
    """[batch, seq, vocab]"""
    inputs: dict[str, Tensor]
    """Layer -> what the decomposed module reads: [batch, seq, d_in], for embeddings token ids [batch, seq]."""
    pre_ci: dict[str, Tensor]
    """Layer -> output of the causal-importance function before squashing [batch, seq, C]."""
    inner: dict[str, Tensor] = field(default_factory=dict)
    """Layer -> x V [batch, seq, C], for the layers whose causal-importance function needed it anyway."""


class SpdDecomposition(Decomposition):
    """A target model, the components of its modules and the causal-importance function that gates them."""

    gating_kind = "causal_importance"
    ranking_kind = "component_activation"

    def __init__(
        self,
        *,
        run_id: str,
        fingerprint: str,
        reference: str,
        target: Target,
        output_attr: str | None,
        components: Mapping[str, Components],
        ci_function: CiFunction,
        sigmoid_type: str,
        max_seq_len: int | None,
        training_data: TrainingData | None,
        tokenizer_source: TokenizerSource,
    ) -> None:
        """``max_seq_len`` is None for toys, which have no rows of tokens."""
        squashing(sigmoid_type, "lower")  # an unknown type is refused now, not after the first forward pass
        self.run_id = run_id
        self.fingerprint = fingerprint
        self.reference = reference
        self.layers = {name: layer.n_components for name, layer in components.items()}
        self.vocab_size = target.vocab_size
        if max_seq_len is not None:
            self.max_seq_len = max_seq_len
            self.training_data = training_data
        self.target = target
        self.sigmoid_type = sigmoid_type
        self._output_attr = output_attr
        self._components = dict(components)
        self._ci_function = ci_function
        self._tokenizer_source = tokenizer_source
        self._tokenizer: Tokenizer | None = None
        self._keys = KeySpace(self.layers)
        for module in self._modules():
            module.requires_grad_(False).eval()
        self._observing = threading.local()
        self._observe_modules()

    def _modules(self) -> list[nn.Module]:
        return [self.target.module, *self._components.values(), self._ci_function]

    @property
    def tokenizer(self) -> Tokenizer:
        """Read on first use."""
        if self._tokenizer is None:
            self._tokenizer = self._tokenizer_source.read()
        return self._tokenizer

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(iter(self._components.values())).V.device

    def to(self, device: torch.device | str) -> Self:
        """Move in place."""
        for module in self._modules():
            module.to(device)
        for layer in self._components.values():
            layer.refresh()
        return self

    def forward_parts(self, tokens: Tensor) -> ForwardParts:
        """Run the target as it is, and the causal-importance function on what its modules read.

        Works under torch.autocast, with outputs in its dtype.

        Args:
            tokens: [batch, seq] int64.

        Raises:
            SpdToolsError: for tokens of another form, outside the vocabulary, or longer than the target's context.
        """
        tokens = self._checked(tokens)
        # Not inference_mode: its tensors could not be passed on to a differentiable run().
        with torch.no_grad():
            with self._observed(tokens) as inputs:
                logits = self._logits(tokens)
            inputs = self._complete(inputs)
            inner: dict[str, Tensor] = {}
            pre_ci = self._pre_ci(inputs, inner)
        return ForwardParts(logits=logits, inputs=inputs, pre_ci=pre_ci, inner=inner)

    def parts(self, tokens: Tensor) -> tuple[Tensor, Iterator[LayerParts]]:
        """The same as a call, layer by layer; component activations only where they are needed.

        Under squashing functions that clamp, causal importances come unclamped, with the limits to clamp to.
        """
        tokens = self._checked(tokens)
        with torch.no_grad(), self._observed(tokens) as inputs:
            logits = self._logits(tokens)
        return logits, self._layer_parts(self._complete(inputs))

    def _layer_parts(self, inputs: Mapping[str, Tensor]) -> Iterator[LayerParts]:
        inner: dict[str, Tensor] = {}
        clamps = self.sigmoid_type in CLAMPING
        low, high = (0.0, 1.0) if clamps else (-math.inf, math.inf)
        importances = self._ci_function.by_layer(inputs, self._inner_of(inputs, inner))
        while True:
            # Not around the yield: the caller would be left without gradients.
            with torch.no_grad():
                name, pre_ci = next(importances, (None, None))
                if name is None or pre_ci is None:
                    return
                layer = self._components[name]
                part = LayerParts(
                    layer=name,
                    gating=pre_ci if clamps else self.causal_importance(pre_ci),
                    low=low,
                    high=high,
                    ranking=layer.inner(inputs[name]) * layer.U_norm if layer.is_embedding else None,
                    inputs=None if layer.is_embedding else inputs[name],
                    weights=layer.scaled_read_vectors,
                )
                inner.pop(name, None)
            yield part

    def causal_importance(self, pre_ci: Tensor, bound: Bound = "lower") -> Tensor:
        """Squash as the run does; any shape. Harvesting reads the lower bound."""
        return causal_importance(pre_ci, bound, self.sigmoid_type)

    def component_vectors(self, layer: str) -> tuple[Tensor, Tensor]:
        """V [d_in, C] and U [C, d_out] of a layer; the scale is shared arbitrarily between them."""
        components = self._layer(layer)
        return components.V, components.U

    def weight_delta(self, layer: str) -> Tensor:
        """W - sum_c W_c: [d_out, d_in], for an embedding [vocab, d_out]."""
        return self._layer(layer).weight_delta()

    @torch.no_grad()
    def __call__(self, tokens: Tensor) -> DecompositionOutput:
        """Run the target as it is and read off causal importances and component activations."""
        parts = self.forward_parts(tokens)
        return self._output(parts.logits, parts.inputs, parts.pre_ci, parts.inner)

    def run(
        self,
        tokens: Tensor,
        masks: Mapping[str, Tensor] | None = None,
        clamp: Mapping[str | ComponentKey, float | Tensor] | None = None,
        delta: float = 1.0,
    ) -> DecompositionOutput:
        """Run with component activations changed; differentiable in masks and clamped values.

        The named layers compute ((x V) * mask) U + bias + delta * x (W - sum_c W_c)^T. Their reported component
        activations are those that flowed: after mask and clamp.

        Raises:
            SpdToolsError: for an unknown layer or component, a mask of another shape, or unfit tokens.
        """
        tokens = self._checked(tokens)
        logits, inputs, inner, changed = self._changed(tokens, masks or {}, clamp or {}, delta)
        inputs = self._complete(inputs)
        pre_ci = self._pre_ci(inputs, inner)
        return self._output(logits, inputs, pre_ci, inner | changed)

    def run_logits(self, tokens: Tensor, masks: Mapping[str, Tensor] | None = None, delta: float = 1.0) -> Tensor:
        """Logits of ``run``, without the causal importances and activations of the other layers."""
        return self._changed(self._checked(tokens), masks or {}, {}, delta)[0]

    def _changed(
        self,
        tokens: Tensor,
        masks: Mapping[str, Tensor],
        clamp: Mapping[str | ComponentKey, float | Tensor],
        delta: float,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Logits; what each module read; x V of the changed layers, before and after mask and clamp."""
        masks = self._checked_masks(masks, tokens)
        clamped = self._checked_clamps(clamp, tokens)
        changed: dict[str, Tensor] = {}
        inner: dict[str, Tensor] = {}

        def forward_of(name: str, layer: Components) -> Callable[[Tensor], Tensor]:
            def forward(x: Tensor) -> Tensor:
                x = per_position(x, self._positions(tokens), name)
                inner[name] = layer.inner(x)
                changed[name] = change(inner[name], masks.get(name), clamped.get(name, {}), layer.U_norm)
                return layer.changed_output(x, inner[name], changed[name], delta)

            return forward

        named = {name: layer for name, layer in self._components.items() if name in masks or name in clamped}
        replaced = {layer.module: forward_of(name, layer) for name, layer in named.items()}
        with self._observed(tokens) as inputs, forwards_replaced(replaced):
            logits = self._logits(tokens)
        return logits, inputs, inner, changed

    @torch.no_grad()
    def read_vectors(self, layer: str) -> Tensor:
        """[C, d_in]: V_c, the directions that the layer's components read (for embeddings d_in is the vocabulary)."""
        return self._layer(layer).V.T

    @torch.no_grad()
    def write_vectors(self, layer: str) -> Tensor:
        """[C, d_out]: U_c, the directions that the layer's components write."""
        return self._layer(layer).U.detach()

    @property
    def unembedding(self) -> Tensor | None:
        """[d_model, vocab], or None where the target ends in no linear map."""
        head = self.target.unembedding
        return None if head is None else head.weight.detach().T

    def _layer(self, name: str) -> Components:
        self._keys.start(name)  # raises for unknown layers
        return self._components[name]

    def _positions(self, tokens: Tensor) -> torch.Size:
        """Shape of what has one vector each: (batch, seq)."""
        return tokens.shape

    def _checked(self, tokens: Tensor) -> Tensor:
        if tokens.ndim != 2 or tokens.dtype not in (torch.int64, torch.int32):
            raise SpdToolsError(
                f"Tokens are integers [batch, seq]; these are {tokens.dtype} of shape {list(tokens.shape)}."
            )
        context = self.target.context
        if context is not None and tokens.shape[1] > context:
            raise SpdToolsError(
                f"Rows of {tokens.shape[1]} tokens are longer than the target's context of {context}; cut them."
            )
        # On the CPU only: elsewhere it would stall the device, and what is harvested arrives on the CPU.
        if tokens.device.type == "cpu" and tokens.numel() and not 0 <= tokens.min() <= tokens.max() < self.vocab_size:
            bad = int(tokens.max()) if int(tokens.max()) >= self.vocab_size else int(tokens.min())
            raise SpdToolsError(
                f"There is no token {bad}: {self.run_id} has a vocabulary of {self.vocab_size}; "
                "use the tokenizer it was trained with."
            )
        return tokens.to(self.device, torch.int64)

    def _checked_masks(self, masks: Mapping[str, Tensor], tokens: Tensor) -> dict[str, Tensor]:
        checked: dict[str, Tensor] = {}
        for name, mask in masks.items():
            layer = self._layer(name)
            shape = (*self._positions(tokens), layer.n_components)
            if tuple(mask.shape) != shape:
                raise SpdToolsError(f"The mask of layer {name} has shape {list(mask.shape)}; it must be {list(shape)}.")
            checked[name] = mask.to(self.device)
        return checked

    def _checked_clamps(
        self, clamp: Mapping[str | ComponentKey, float | Tensor], tokens: Tensor
    ) -> dict[str, dict[int, float | Tensor]]:
        checked: dict[str, dict[int, float | Tensor]] = {}
        for text, value in clamp.items():
            key = self._keys.key(self._keys.flat(text))
            if isinstance(value, Tensor):
                positions = self._positions(tokens)
                if value.ndim and value.shape != positions:
                    raise SpdToolsError(
                        f"The value clamped onto {key} has shape {list(value.shape)}; "
                        f"it must be a number or {list(positions)}."
                    )
                value = value.to(self.device)
            checked.setdefault(key.layer, {})[key.index] = value
        return checked

    def _observe_modules(self) -> None:
        """Hook the decomposed modules once; what they read goes to the forward pass of the same thread, if it asked."""

        def hook_of(name: str) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                asked: tuple[torch.Size, dict[str, Tensor]] | None = getattr(self._observing, "now", None)
                if asked is None:
                    return
                positions, inputs = asked
                if name in inputs:
                    raise SpdToolsError(
                        f"The target runs module {name} more than once per forward pass, which cannot be read yet."
                    )
                inputs[name] = per_position(args[0] if args else next(iter(kwargs.values())), positions, name)

            return hook

        for name, layer in self._components.items():
            layer.module.register_forward_pre_hook(hook_of(name), with_kwargs=True)

    @contextmanager
    def _observed(self, tokens: Tensor) -> Iterator[dict[str, Tensor]]:
        """Within the block, the dict takes in what every decomposed module reads in this thread."""
        inputs: dict[str, Tensor] = {}
        self._observing.now = (self._positions(tokens), inputs)
        try:
            yield inputs
        finally:
            self._observing.now = None

    def _complete(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What every layer read, in layer order."""
        for name in self.layers:
            if name not in inputs:
                raise SpdToolsError(f"The target's forward pass never runs the decomposed module {name}.")
        return {name: inputs[name] for name in self.layers}

    def _logits(self, tokens: Tensor) -> Tensor:
        return picked_output(self.target.module(tokens), self._output_attr, self._positions(tokens))

    def _pre_ci(self, inputs: Mapping[str, Tensor], inner: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run the causal-importance function; ``inner`` takes in every x V that it asks for."""
        return self._ci_function(inputs, self._inner_of(inputs, inner))

    def _inner_of(self, inputs: Mapping[str, Tensor], inner: dict[str, Tensor]) -> Callable[[str], Tensor]:
        """x V of a layer, remembered in ``inner``."""

        def inner_of(name: str) -> Tensor:
            if name not in inner:
                inner[name] = self._components[name].inner(inputs[name])
            return inner[name]

        return inner_of

    def _output(
        self,
        logits: Tensor,
        inputs: Mapping[str, Tensor],
        pre_ci: Mapping[str, Tensor],
        inner: Mapping[str, Tensor],
    ) -> DecompositionOutput:
        activations = {
            name: (inner[name] if name in inner else layer.inner(inputs[name])) * layer.U_norm
            for name, layer in self._components.items()
        }
        importances = {name: self.causal_importance(pre_ci[name]) for name in self.layers}
        return DecompositionOutput(
            logits=logits, activations={self.gating_kind: importances, self.ranking_kind: activations}
        )
