"""LlamaSimple and LlamaSimpleMLP: RMSNorm, rotary grouped-query attention, tied unembedding."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.targets.attention import FusedAttention, Rotary, SplitAttention
from spd_tools.targets.config import LlamaConfig


class GeluMlp(nn.Module):
    """down_proj(gelu_tanh(c_fc(x)))."""

    def __init__(self, d_model: int, d_mlp: int, *, bias: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(d_model, d_mlp, bias=bias)
        self.down_proj = nn.Linear(d_mlp, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_model], as the result."""
        return self.down_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class SwigluMlp(nn.Module):
    """down_proj(silu(gate_proj(x)) * up_proj(x)) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, d_model: int, d_mlp: int, *, bias: bool) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(d_model, d_mlp, bias=bias)
        self.up_proj = nn.Linear(d_model, d_mlp, bias=bias)
        self.down_proj = nn.Linear(d_mlp, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [..., d_model], as the result."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class _Block(nn.Module):
    def __init__(self, config: LlamaConfig, rotary: Rotary, mlp: nn.Module) -> None:
        super().__init__()
        width = config.n_embd
        self.rms_1 = nn.RMSNorm(width, eps=1e-6)
        self.attn = (
            SplitAttention(width, config.n_head, config.n_kv_head, rotary=rotary, bias=config.attn_bias)
            if config.use_grouped_query_attention
            else FusedAttention(width, config.n_head, rotary=rotary, bias=config.attn_bias, output_name="o_proj")
        )
        self.rms_2 = nn.RMSNorm(width, eps=1e-6)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.rms_1(x))
        return x + self.mlp(self.rms_2(x))


class _LlamaSimpleBase(nn.Module):
    mlp_class: type[GeluMlp | SwigluMlp]

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        rotary = Rotary(config.n_embd // config.n_head, config.rotary_base, config.rotary_adjacent_pairs)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.h = nn.ModuleList(
            _Block(config, rotary, self.mlp_class(config.n_embd, config.n_intermediate, bias=config.mlp_bias))
            for _ in range(config.n_layer)
        )
        self.ln_f = nn.RMSNorm(config.n_embd, eps=1e-6)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        """tokens: [batch, seq] -> (logits [batch, seq, vocab], no loss)."""
        x = self.wte(tokens)
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)), None


class LlamaSimpleMLP(_LlamaSimpleBase):
    """MLP {c_fc, down_proj} with tanh-approximated GELU."""

    mlp_class = GeluMlp


class LlamaSimple(_LlamaSimpleBase):
    """MLP {gate_proj, up_proj, down_proj}, SwiGLU."""

    mlp_class = SwigluMlp
