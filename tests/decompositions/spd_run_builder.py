"""Small SPD runs written from the format's description, without the reader's classes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

VOCAB, D_MODEL, D_MLP, N_LAYER, CONTEXT = 24, 16, 24, 2, 10

MODEL_CONFIG = {
    "model_type": "LlamaSimpleMLP",
    "vocab_size": VOCAB,
    "n_layer": N_LAYER,
    "n_head": 4,
    "n_embd": D_MODEL,
    "n_intermediate": D_MLP,
    "n_key_value_heads": 2,
    "use_grouped_query_attention": True,
    "block_size": CONTEXT,
    "n_ctx": CONTEXT,
}

LINEAR_SHAPES = {
    "attn.q_proj": (D_MODEL, D_MODEL),
    "attn.k_proj": (D_MODEL // 2, D_MODEL),
    "attn.v_proj": (D_MODEL // 2, D_MODEL),
    "attn.o_proj": (D_MODEL, D_MODEL),
    "mlp.c_fc": (D_MLP, D_MODEL),
    "mlp.down_proj": (D_MODEL, D_MLP),
}


@dataclass
class SpdRun:
    """What goes into a run's files; change it, then ``write`` it."""

    layers: dict[str, tuple[int, int, int]]
    """Layer -> (d_in, d_out, C), in layer order."""
    config: dict[str, Any]
    state: dict[str, Tensor]
    model_config: dict[str, Any] = field(default_factory=lambda: dict(MODEL_CONFIG))

    def write(self, folder: Path, checkpoint: str = "model_10.pth") -> Path:
        (folder / "target").mkdir(parents=True, exist_ok=True)
        (folder / "final_config.yaml").write_text(yaml.safe_dump(self.config))
        (folder / "target" / "model_config.yaml").write_text(yaml.safe_dump(self.model_config))
        if checkpoint.endswith(".safetensors"):
            from safetensors.torch import save_file

            save_file({key: tensor.clone().contiguous() for key, tensor in self.state.items()}, folder / checkpoint)
        else:
            torch.save(self.state, folder / checkpoint)
        return folder

    def component(self, layer: str, name: str) -> Tensor:
        return self.state[f"_components.{layer.replace('.', '-')}.{name}"]

    def ci(self, name: str) -> Tensor:
        return self.state[f"ci_fn.{name}"]


class Weights:
    """Random tensors, one stream."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int, scale: float = 0.4) -> Tensor:
        return torch.randn(*shape, generator=self._generator) * scale


def target_state(weights: Weights) -> dict[str, Tensor]:
    state = {"wte.weight": weights(VOCAB, D_MODEL, scale=1.0)}
    for i in range(N_LAYER):
        state[f"h.{i}.rms_1.weight"] = 1 + weights(D_MODEL)
        state[f"h.{i}.rms_2.weight"] = 1 + weights(D_MODEL)
        for name, shape in LINEAR_SHAPES.items():
            state[f"h.{i}.{name}.weight"] = weights(*shape)
    state["ln_f.weight"] = 1 + weights(D_MODEL)
    state["lm_head.weight"] = state["wte.weight"].clone()
    return state


def build_run(
    ci_config: dict[str, Any],
    module_info: list[tuple[str, int]],
    layers: dict[str, tuple[int, int, int]],
    *,
    identity_module_info: list[tuple[str, int]] | None = None,
    sigmoid_type: str = "leaky_hard",
    seed: int = 0,
) -> SpdRun:
    """A run on a small LlamaSimpleMLP. ``layers`` spells out what ``module_info`` is expected to match."""
    weights = Weights(seed)
    state = {f"target_model.{key}": tensor for key, tensor in target_state(weights).items()}
    for layer, (d_in, d_out, n_components) in layers.items():
        dashed = layer.replace(".", "-")
        state[f"_components.{dashed}.V"] = weights(d_in, n_components)
        state[f"_components.{dashed}.U"] = weights(n_components, d_out)
    state |= {f"ci_fn.{key}": tensor for key, tensor in _ci_state(ci_config, layers, weights).items()}
    config = {
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "pretrained_model_name": "target/checkpoints/model_step_100.pt",
        "pretrained_model_output_attr": "idx_0",
        "module_info": [{"module_pattern": pattern, "C": c} for pattern, c in module_info],
        "identity_module_info": [{"module_pattern": p, "C": c} for p, c in identity_module_info or []] or None,
        "ci_config": ci_config,
        "sigmoid_type": sigmoid_type,
        "sampling": "continuous",
        "tokenizer_name": "somebody/some-tokenizer",
        "task_config": {
            "task_name": "lm",
            "dataset_name": "somebody/stories",
            "column_name": "story",
            "train_data_split": "train",
            "eval_data_split": "test",
            "max_seq_len": CONTEXT,
            "is_tokenized": False,
            "streaming": True,
            "buffer_size": 1000,
        },
        "a_field_of_the_future": {"x": 1},
    }
    return SpdRun(layers, config, state)


def _mlp_state(weights: Weights, prefix: str, widths: list[int]) -> dict[str, Tensor]:
    state = {}
    for i, (d_in, d_out) in enumerate(pairwise(widths)):
        state[f"{prefix}.{2 * i}.W"] = weights(d_in, d_out)
        state[f"{prefix}.{2 * i}.b"] = weights(d_out)
    return state


def _attention_state(weights: Weights, prefix: str, width: int) -> dict[str, Tensor]:
    return {f"{prefix}.{name}_proj.weight": weights(width, width) for name in ("q", "k", "v", "out")}


def read_width(layer: str, layers: dict[str, tuple[int, int, int]]) -> int:
    d_in, _, n_components = layers[layer]
    return n_components if layer == "wte" else d_in


def _ci_state(
    ci_config: dict[str, Any], layers: dict[str, tuple[int, int, int]], weights: Weights
) -> dict[str, Tensor]:
    fn_type, hidden = ci_config["fn_type"], ci_config.get("hidden_dims")
    state: dict[str, Tensor] = {}
    total_c = sum(c for _, _, c in layers.values())
    total_in = sum(read_width(layer, layers) for layer in layers)
    if fn_type in ("mlp", "vector_mlp"):
        for layer, (d_in, _, c) in layers.items():
            widths = [1 if fn_type == "mlp" else d_in, *hidden, 1]
            for i, (a, b) in enumerate(pairwise(widths)):
                prefix = f"_ci_fns.{layer.replace('.', '-')}.layers.{2 * i}"
                state |= {f"{prefix}.W": weights(c, a, b), f"{prefix}.b": weights(c, b)}
    elif fn_type == "shared_mlp":
        for layer, (d_in, _, c) in layers.items():
            state |= _mlp_state(weights, f"_ci_fns.{layer.replace('.', '-')}.layers", [d_in, *hidden, c])
    elif fn_type == "global_shared_mlp":
        state |= _mlp_state(weights, "_global_ci_fn.layers", [total_in, *hidden, total_c])
    elif fn_type == "global_shared_transformer":
        cfg = ci_config["simple_transformer_ci_cfg"]
        width = cfg["d_model"]
        state |= {"_global_ci_fn._input_projector.W": weights(total_in, width, scale=0.2)}
        state |= {"_global_ci_fn._input_projector.b": weights(width)}
        for i in range(cfg["n_blocks"]):
            prefix = f"_global_ci_fn._blocks.{i}"
            state |= _attention_state(weights, f"{prefix}.attn", width)
            hidden_dims = cfg["mlp_hidden_dim"] or [4 * width]
            state |= _mlp_state(weights, f"{prefix}.mlp", [width, *hidden_dims, width])
        state |= {"_global_ci_fn._output_head.W": weights(width, total_c)}
        state |= {"_global_ci_fn._output_head.b": weights(total_c)}
    else:
        state |= _reverse_residual_state(ci_config, layers, weights)
    return state


def _reverse_residual_state(
    ci_config: dict[str, Any], layers: dict[str, tuple[int, int, int]], weights: Weights
) -> dict[str, Tensor]:
    """The members of each block are given beside the patterns, under "members"; the reader ignores that field."""
    width, state = ci_config["d_resid_ci_fn"], {}
    groups = ci_config["block_groups"]
    for i, group in enumerate(groups):
        name = group["name"].replace(".", "-")
        members = group["members"]
        d_in = sum(read_width(layer, layers) for layer in members)
        n_out = sum(layers[layer][2] for layer in members)
        state |= {f"_inp_projectors.{name}.W": weights(d_in, width), f"_inp_projectors.{name}.b": weights(width)}
        state[f"_reader_norms.{name}.weight"] = 1 + weights(width)
        state |= _mlp_state(weights, f"_readers.{name}", [width, *ci_config["reader_hidden_dims"], n_out])
        if i == len(groups) - 1:
            continue
        state[f"_transition_norms.{name}.weight"] = 1 + weights(width)
        hidden = ci_config.get("transition_hidden_dim")
        if hidden is None:
            state |= {f"_transitions.{name}.W": weights(width, width), f"_transitions.{name}.b": weights(width)}
        else:
            state |= _mlp_state(weights, f"_transitions.{name}", [width, hidden, width])
        if ci_config.get("transition_attn_config"):
            state[f"_attn_norms.{name}.weight"] = 1 + weights(width)
            state |= _attention_state(weights, f"_attn_transitions.{name}", width)
            attention = ci_config["transition_attn_config"]
            d_head = width // attention["n_heads"]
            frequencies = [attention["rope_base"] ** (-2 * i / d_head) for i in range(d_head // 2)]
            state[f"_attn_transitions.{name}.rope.inv_freq"] = torch.tensor(frequencies)
    return {f"_global_ci_fn.{key}": tensor for key, tensor in state.items()}


SMALL_LAYERS = {
    "h.0.mlp.c_fc": (D_MODEL, D_MLP, 6),
    "h.1.mlp.c_fc": (D_MODEL, D_MLP, 6),
    "h.0.attn.q_proj": (D_MODEL, D_MODEL, 5),
    "h.1.attn.q_proj": (D_MODEL, D_MODEL, 5),
}
SMALL_INFO = [("h.*.mlp.c_fc", 6), ("h.*.attn.q_proj", 5)]
SHARED_MLP = {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [7]}


def small_run(**changes: Any) -> SpdRun:
    """Four decomposed matrices under layerwise shared MLPs."""
    arguments: dict[str, Any] = {"ci_config": SHARED_MLP, "module_info": SMALL_INFO, "layers": SMALL_LAYERS}
    return build_run(**(arguments | changes))


def some_tokens(batch: int = 3, seq: int = 7, vocab: int = VOCAB, seed: int = 1) -> Tensor:
    return torch.randint(vocab, (batch, seq), generator=torch.Generator().manual_seed(seed))


def write_json_file(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
