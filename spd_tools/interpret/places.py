"""Where a layer stands in its model, as far as its name says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_ROLES = {
    "q_proj": "the query projection of attention: it reads the residual stream and decides what a position looks for",
    "k_proj": "the key projection of attention: it reads the residual stream and decides what finds a position",
    "v_proj": "the value projection of attention: it reads the residual stream and decides what is carried elsewhere",
    "o_proj": "the output projection of attention: it writes what heads have gathered into the residual stream",
    "out_proj": "the output projection of attention: it writes what heads have gathered into the residual stream",
    "c_attn": "the joint query, key and value projection of attention, which reads the residual stream",
    "gate_proj": "the gate of an MLP: it reads the residual stream and decides which hidden units pass",
    "up_proj": "the input matrix of an MLP, which reads the residual stream",
    "c_fc": "the input matrix of an MLP, which reads the residual stream",
    "fc_in": "the input matrix of an MLP, which reads the residual stream",
    "down_proj": "the output matrix of an MLP: it writes what hidden units hold into the residual stream",
    "fc_out": "the output matrix of an MLP: it writes what hidden units hold into the residual stream",
    "wte": "the token embedding",
    "embed_tokens": "the token embedding",
    "wpe": "the position embedding",
    "lm_head": "the unembedding, which turns the residual stream into predictions",
    "unembed": "the unembedding, which turns the residual stream into predictions",
}
_C_PROJ = {"attn": _ROLES["o_proj"], "mlp": _ROLES["down_proj"]}
_IDENTITY = "pre_identity"


@dataclass(frozen=True)
class Place:
    """A layer among the decomposed ones."""

    number: int
    """1, 2, ... in the order of the decomposition."""
    n_layers: int
    block: int | None
    """The model's block as numbered in the name, from 0; None where the name has no number."""
    n_blocks: int
    """Different blocks with decomposed layers."""
    role: str | None
    """What kind of matrix it is; None where the name does not say."""


def place_of(layer: str, layers: Mapping[str, int]) -> Place:
    """The place of one of the decomposed layers."""
    names = list(layers)
    blocks = {_block(name) for name in names} - {None}
    return Place(names.index(layer) + 1, len(names), _block(layer), len(blocks), _role(layer))


def _block(layer: str) -> int | None:
    numbers = [int(part) for part in layer.split(".") if part.isascii() and part.isdigit() and len(part) < 6]
    return numbers[0] if numbers else None


def _role(layer: str) -> str | None:
    *outer, last = layer.split(".")
    if last == _IDENTITY and outer:
        inner = _role(".".join(outer))
        return f"an identity map in front of {inner}" if inner else "an identity map in front of another module"
    if last == "c_proj" and outer:
        return _C_PROJ.get(outer[-1])
    return _ROLES.get(last)
