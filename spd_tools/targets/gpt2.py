"""GPT2Simple and GPT2: learned positions, LayerNorm, biases, tied unembedding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spd_tools.targets.attention import FusedAttention, SplitAttention
from spd_tools.targets.config import TransformerConfig
from spd_tools.targets.llama_simple import GeluMlp


class _Block(nn.Module):
    def __init__(self, width: int, attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-5)
        self.attn = attn
        self.ln_2 = nn.LayerNorm(width, eps=1e-5)
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT2Simple(nn.Module):
    """Separate q_proj, k_proj, v_proj, o_proj; MLP {c_fc, down_proj}."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.wte = nn.Embedding(config.vocab_size, width)
        self.wpe = nn.Embedding(config.block_size, width)
        self.h = nn.ModuleList(
            _Block(
                width,
                SplitAttention(width, config.n_head, config.n_head, rotary=None, bias=True),
                GeluMlp(width, 4 * width, bias=True),
            )
            for _ in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(width, eps=1e-5)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        """tokens: [batch, seq] -> (logits [batch, seq, vocab], no loss)."""
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x)), None


class _Gpt2Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class _Trunk(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width = config.n_embd
        self.wte = nn.Embedding(config.vocab_size, width)
        self.wpe = nn.Embedding(config.block_size, width)
        self.h = nn.ModuleList(
            _Block(
                width,
                FusedAttention(width, config.n_head, rotary=None, bias=True, output_name="c_proj"),
                _Gpt2Mlp(width),
            )
            for _ in range(config.n_layer)
        )
        self.ln_f = nn.LayerNorm(width, eps=1e-5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.h:
            x = block(x)
        return self.ln_f(x)


class GPT2(nn.Module):
    """Fused c_attn and the module names of Hugging Face's GPT2LMHeadModel, with nn.Linear in place of Conv1D."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transformer = _Trunk(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        """tokens: [batch, seq] -> (logits [batch, seq, vocab], no loss)."""
        return self.lm_head(self.transformer(tokens)), None
