"""Llama with the module names of Hugging Face's LlamaForCausalLM."""

from __future__ import annotations

from torch import Tensor, nn

from spd_tools.targets.attention import Rotary, SplitAttention
from spd_tools.targets.config import LlamaConfig
from spd_tools.targets.llama_simple import SwigluMlp


class _DecoderLayer(nn.Module):
    def __init__(self, config: LlamaConfig, rotary: Rotary) -> None:
        super().__init__()
        width = config.n_embd
        self.self_attn = SplitAttention(width, config.n_head, config.n_kv_head, rotary=rotary, bias=config.attn_bias)
        self.mlp = SwigluMlp(width, config.n_intermediate, bias=config.mlp_bias)
        self.input_layernorm = nn.RMSNorm(width, eps=1e-6)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class _Trunk(nn.Module):
    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        rotary = Rotary(config.n_embd // config.n_head, config.rotary_base, config.rotary_adjacent_pairs)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(_DecoderLayer(config, rotary) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.n_embd, eps=1e-6)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class Llama(nn.Module):
    """SwiGLU, rotary attention, tied unembedding; sizes under the in-repo names (n_embd, n_head, ...)."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.model = _Trunk(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.model.embed_tokens.weight

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        """tokens: [batch, seq] -> (logits [batch, seq, vocab], no loss)."""
        return self.lm_head(self.model(tokens)), None
