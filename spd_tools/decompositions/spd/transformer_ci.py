"""Global causal-importance functions with attention: global_shared_transformer and global_reverse_residual."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.decompositions.spd.ci_functions import CiLinear, gelu_mlp, input_width
from spd_tools.decompositions.spd.components import Components
from spd_tools.decompositions.spd.config import AttentionConfig, BlockGroup, CiConfig, TransformerCiConfig
from spd_tools.decompositions.spd.state_dict import dashed
from spd_tools.errors import SpdToolsError
from spd_tools.targets.attention import Rotary, attend


def _rms(x: Tensor) -> Tensor:
    """RMS normalisation without weight, with PyTorch's default eps."""
    return F.rms_norm(x, (x.shape[-1],))


class _BidirectionalAttention(nn.Module):
    """Self-attention over the row with half-split rotary embeddings; no biases."""

    def __init__(self, d_model: int, config: AttentionConfig) -> None:
        super().__init__()
        if d_model % (2 * config.n_heads):
            raise SpdToolsError(
                f"The causal-importance function is {d_model} wide, which {config.n_heads} rotary heads cannot share; "
                "correct ci_config in final_config.yaml."
            )
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, d_model, bias=False)
        self.v_proj = nn.Linear(d_model, d_model, bias=False)
        self.out_proj = nn.Linear(d_model, d_model, bias=False)
        self._n_heads = config.n_heads
        self._rotary = Rotary(d_model // config.n_heads, config.rope_base)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, seq, d_model] or, without a sequence axis, [batch, d_model]; as the result."""
        row = x if x.ndim > 2 else x.unsqueeze(-2)
        mixed = attend(
            self.q_proj(row),
            self.k_proj(row),
            self.v_proj(row),
            n_head=self._n_heads,
            n_kv_head=self._n_heads,
            rotary=self._rotary,
            causal=False,
        )
        return self.out_proj(mixed).view(x.shape)


class _Block(nn.Module):
    """x + attn(rms(x)), then x + mlp(rms(x))."""

    def __init__(self, config: TransformerCiConfig) -> None:
        super().__init__()
        hidden_dims = [4 * config.d_model] if config.mlp_hidden_dim is None else config.mlp_hidden_dim
        self.attn = _BidirectionalAttention(config.d_model, config.attn_config)
        self.mlp = gelu_mlp(config.d_model, hidden_dims, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(_rms(x))
        return x + self.mlp(_rms(x))


class SharedGlobalTransformer(nn.Module):
    """fn_type global_shared_transformer."""

    def __init__(self, layers: Mapping[str, Components], config: TransformerCiConfig) -> None:
        super().__init__()
        self._names = sorted(layers)
        self._sizes = [layers[name].n_components for name in self._names]
        width = sum(input_width(layers[name]) for name in self._names)
        self._input_projector = CiLinear(width, config.d_model)
        self._blocks = nn.ModuleList(_Block(config) for _ in range(config.n_blocks))
        self._output_head = CiLinear(config.d_model, sum(self._sizes))

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layer -> [batch, seq, width] -> layer -> [batch, seq, C]."""
        x = self._input_projector(torch.cat([_rms(inputs[name]) for name in self._names], dim=-1))
        for block in self._blocks:
            x = block(x)
        return dict(zip(self._names, self._output_head(x).split(self._sizes, dim=-1), strict=True))


class ReverseResidual(nn.Module):
    """fn_type global_reverse_residual: a residual stream visits groups of modules one after the other."""

    def __init__(self, layers: Mapping[str, Components], config: CiConfig) -> None:
        super().__init__()
        # CiConfig has checked that they are there.
        assert config.block_groups is not None
        assert config.d_resid_ci_fn is not None
        assert config.reader_hidden_dims is not None
        width = config.d_resid_ci_fn
        self._members = group_members(config.block_groups, list(layers))
        self._keys = {name: dashed(name) for name in self._members}
        self._sizes = {
            name: [layers[layer].n_components for layer in members] for name, members in self._members.items()
        }
        keys = list(self._keys.values())
        widths = [sum(input_width(layers[layer]) for layer in members) for members in self._members.values()]
        self._inp_projectors = nn.ModuleDict(
            {key: CiLinear(d_in, width) for key, d_in in zip(keys, widths, strict=True)}
        )
        self._reader_norms = nn.ModuleDict({key: nn.RMSNorm(width) for key in keys})
        self._readers = nn.ModuleDict(
            {
                key: gelu_mlp(width, config.reader_hidden_dims, sum(sizes))
                for key, sizes in zip(keys, self._sizes.values(), strict=True)
            }
        )
        # Nothing follows the last block.
        moving = keys[:-1]
        hidden = config.transition_hidden_dim
        self._transition_norms = nn.ModuleDict({key: nn.RMSNorm(width) for key in moving})
        self._transitions = nn.ModuleDict(
            {key: CiLinear(width, width) if hidden is None else gelu_mlp(width, [hidden], width) for key in moving}
        )
        attention = config.transition_attn_config
        self._attends = attention is not None
        if attention is not None:
            self._attn_norms = nn.ModuleDict({key: nn.RMSNorm(width) for key in moving})
            self._attn_transitions = nn.ModuleDict({key: _BidirectionalAttention(width, attention) for key in moving})

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Layer -> [batch, seq, width] -> layer -> [batch, seq, C]."""
        values: dict[str, Tensor] = {}
        stream: Tensor | None = None
        for name, members in self._members.items():
            key = self._keys[name]
            read = self._inp_projectors[key](torch.cat([inputs[layer] for layer in members], dim=-1))
            stream = read if stream is None else stream + read
            if key in self._transitions:
                if self._attends:
                    stream = stream + self._attn_transitions[key](self._attn_norms[key](stream))
                stream = stream + self._transitions[key](self._transition_norms[key](stream))
            block = self._readers[key](self._reader_norms[key](stream))
            values.update(zip(members, block.split(self._sizes[name], dim=-1), strict=True))
        return values


def group_members(groups: Sequence[BlockGroup], layers: Sequence[str]) -> dict[str, list[str]]:
    """Block -> its layers, pattern by pattern, within a pattern in layer order.

    Raises:
        SpdToolsError: when a layer is in no block or in two, or a block has none.
    """
    members: dict[str, list[str]] = {}
    block_of: dict[str, str] = {}
    for group in groups:
        if group.name in members:
            raise SpdToolsError(f"ci_config has two block groups named {group.name}; give them different names.")
        matched = [layer for pattern in group.patterns for layer in layers if fnmatchcase(layer, pattern)]
        members[group.name] = list(dict.fromkeys(matched))
        if not matched:
            raise SpdToolsError(f"Block group {group.name} of ci_config matches no decomposed module; correct it.")
        for layer in members[group.name]:
            if layer in block_of:
                raise SpdToolsError(
                    f"Layer {layer} is in the block groups {block_of[layer]} and {group.name} of ci_config; "
                    "let one of them match it."
                )
            block_of[layer] = group.name
    for layer in layers:
        if layer not in block_of:
            raise SpdToolsError(f"Layer {layer} is in no block group of ci_config; add it to one.")
    return members
