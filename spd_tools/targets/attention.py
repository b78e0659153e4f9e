"""Causal self-attention and rotary position embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rotary:
    """Rotary position embedding over a whole head (Su et al. 2021, arXiv:2104.09864).

    Pairs are (i, i + d/2) ("half-split", as in GPT-NeoX and Llama) or, as in the paper, (2i, 2i + 1)
    (``adjacent_pairs``).
    Tables are made once per length and device. No nn.Module: it has no state and must not appear in named_modules().
    """

    def __init__(self, d_head: int, base: float = 10000.0, adjacent_pairs: bool = False) -> None:
        self.d_head = d_head
        self.base = base
        self.adjacent_pairs = adjacent_pairs
        self._tables: dict[tuple[int, torch.device], tuple[Tensor, Tensor]] = {}

    def inverse_frequencies(self, device: torch.device | None = None) -> Tensor:
        """[d_head / 2], base^(-2i / d_head)."""
        exponents = torch.arange(0, self.d_head, 2, dtype=torch.float32, device=device) / self.d_head
        return 1.0 / (self.base**exponents)

    def _table(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        key = (length, device)
        if key not in self._tables:
            # The tables outlive this call: made inside somebody's inference_mode they could never meet a gradient.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device.type, enabled=False):
                positions = torch.arange(length, dtype=torch.float32, device=device)
                angles = torch.outer(positions, self.inverse_frequencies(device))
                self._tables[key] = (angles.cos(), angles.sin())
        return self._tables[key]

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x [..., seq, d_head] by position."""
        cos, sin = self._table(x.shape[-2], x.device)
        if self.adjacent_pairs:
            first, second = x[..., 0::2], x[..., 1::2]
        else:
            first, second = x.chunk(2, dim=-1)
        rotated = (first * cos - second * sin, second * cos + first * sin)
        joined = torch.stack(rotated, dim=-1).flatten(-2) if self.adjacent_pairs else torch.cat(rotated, dim=-1)
        return joined.to(x.dtype)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, n_head: int, n_kv_head: int, rotary: Rotary | None, causal: bool
) -> Tensor:
    """Multi-head scaled dot-product attention, grouped-query when n_kv_head < n_head.

    Args:
        q: [batch, seq, n_head * d_head].
        k: [batch, seq, n_kv_head * d_head].
        v: As k.
        n_head: Query heads.
        n_kv_head: Key and value heads; consecutive query heads share one.
        rotary: Rotates q and k.
        causal: Positions see themselves and those before them only.

    Returns:
        [batch, seq, n_head * d_head], heads side by side.
    """
    batch, seq, width = q.shape
    d_head = width // n_head
    q = q.reshape(batch, seq, n_head, d_head).transpose(1, 2)
    k = k.reshape(batch, seq, n_kv_head, d_head).transpose(1, 2)
    v = v.reshape(batch, seq, n_kv_head, d_head).transpose(1, 2)
    if rotary is not None:
        q, k = rotary(q), rotary(k)
    if n_kv_head != n_head:
        # Not enable_gqa: in f32 on CUDA it falls back to the slow path.
        k = k.repeat_interleave(n_head // n_kv_head, dim=1)
        v = v.repeat_interleave(n_head // n_kv_head, dim=1)
    mixed = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
    return mixed.transpose(1, 2).reshape(batch, seq, width)


class SplitAttention(nn.Module):
    """Causal attention with projections q_proj, k_proj, v_proj, o_proj."""

    def __init__(self, d_model: int, n_head: int, n_kv_head: int, *, rotary: Rotary | None, bias: bool) -> None:
        super().__init__()
        d_kv = d_model // n_head * n_kv_head
        self.q_proj = nn.Linear(d_model, d_model, bias=bias)
        self.k_proj = nn.Linear(d_model, d_kv, bias=bias)
        self.v_proj = nn.Linear(d_model, d_kv, bias=bias)
        self.o_proj = nn.Linear(d_model, d_model, bias=bias)
        self._n_head, self._n_kv_head, self._rotary = n_head, n_kv_head, rotary

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, seq, d_model], as the result."""
        mixed = attend(
            self.q_proj(x),
            self.k_proj(x),
            self.v_proj(x),
            n_head=self._n_head,
            n_kv_head=self._n_kv_head,
            rotary=self._rotary,
            causal=True,
        )
        return self.o_proj(mixed)


class FusedAttention(nn.Module):
    """Causal attention whose q, k and v come from one projection c_attn."""

    def __init__(self, d_model: int, n_head: int, *, rotary: Rotary | None, bias: bool, output_name: str) -> None:
        super().__init__()
        self.c_attn = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.add_module(output_name, nn.Linear(d_model, d_model, bias=bias))
        self._n_head, self._rotary, self._output_name = n_head, rotary, output_name

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, seq, d_model], as the result."""
        q, k, v = self.c_attn(x).chunk(3, dim=-1)
        mixed = attend(q, k, v, n_head=self._n_head, n_kv_head=self._n_head, rotary=self._rotary, causal=True)
        return self.get_submodule(self._output_name)(mixed)
