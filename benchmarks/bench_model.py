"""The model of `make bench`: a four-layer LlamaSimpleMLP with 8,704 components whose densities are set, not trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from spd_tools.decompositions.resolve import load_decomposition
from spd_tools.decompositions.spd.decomposition import SpdDecomposition

N_LAYER, D, HIDDEN, HEADS, SEQ, CI_HIDDEN = 4, 128, 512, 4, 128, 512
C_PER_MATRIX = {
    "attn.q_proj": 192,
    "attn.k_proj": 192,
    "attn.v_proj": 320,
    "attn.o_proj": 320,
    "mlp.c_fc": 640,
    "mlp.down_proj": 512,
}
LOGIT_SCALE = 4.0  # logits of this standard deviation: some 60 next tokens of p >= 1e-3, as trained models have
FIRING_PER_TOKEN, NEARLY_DEAD, ALWAYS_ON = 105, 0.4, 8


def densities(n_components: int, per_token: float, generator: np.random.Generator) -> NDArray[np.float64]:
    """Firing densities: 40 % nearly dead, eight nearly always on, the rest log-uniform, ``per_token`` in all."""
    n_dead = int(NEARLY_DEAD * n_components)
    exponents = generator.uniform(0, 1, n_components - n_dead - ALWAYS_ON)
    wanted = per_token - ALWAYS_ON * 0.98 - n_dead * 1e-5
    low, high = 1e-4, 1.0
    for _ in range(60):  # bisection for the largest density
        middle = (low * high) ** 0.5
        low, high = (middle, high) if (1e-4 * (middle / 1e-4) ** exponents).sum() < wanted else (low, middle)
    rest = 1e-4 * (low / 1e-4) ** exponents
    found = np.concatenate([np.full(n_dead, 1e-5), np.full(ALWAYS_ON, 0.98), rest])
    return generator.permutation(found)


def random_tokens(n_rows: int, vocab: int, seed: int = 0) -> NDArray[np.int32]:
    """[n_rows, SEQ] token ids with Zipf-like frequencies."""
    generator = np.random.default_rng(seed)
    weights = 1 / (np.arange(vocab) + 2.7)
    return generator.choice(vocab, (n_rows, SEQ), p=weights / weights.sum()).astype(np.int32)


def build(folder: Path, vocab: int, calibration: NDArray[np.int32]) -> SpdDecomposition:
    """Write the run in the public format, load it, and set the biases that give the densities."""
    torch.manual_seed(0)
    target, state = _target(vocab), {}
    for name, weight in target.items():
        state[f"target_model.{name}"] = weight
    module_info = [{"module_pattern": f"h.*.{name}", "C": c} for name, c in C_PER_MATRIX.items()]
    for name, c in C_PER_MATRIX.items():
        d_in = HIDDEN if name == "mlp.down_proj" else D
        d_out = HIDDEN if name == "mlp.c_fc" else D
        for i in range(N_LAYER):
            path = f"h-{i}-{name.replace('.', '-')}"
            state[f"_components.{path}.V"] = torch.randn(d_in, c) / d_in**0.5
            state[f"_components.{path}.U"] = torch.randn(c, d_out) / c**0.5
            prefix = f"ci_fn._ci_fns.{path}.layers"
            state[f"{prefix}.0.W"] = torch.randn(d_in, CI_HIDDEN) / d_in**0.5
            state[f"{prefix}.0.b"] = torch.zeros(CI_HIDDEN)
            state[f"{prefix}.2.W"] = torch.randn(CI_HIDDEN, c) / CI_HIDDEN**0.5
            state[f"{prefix}.2.b"] = torch.zeros(c)
    _write(folder, vocab, target, state, module_info)
    loaded = load_decomposition(folder)
    assert isinstance(loaded, SpdDecomposition)
    _set_biases(loaded, calibration)
    return loaded


def _target(vocab: int) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {
        "wte.weight": torch.randn(vocab, D) * LOGIT_SCALE / D**0.5,
        "ln_f.weight": torch.ones(D),
    }
    for i in range(N_LAYER):
        weights |= {f"h.{i}.rms_1.weight": torch.ones(D), f"h.{i}.rms_2.weight": torch.ones(D)}
        for name in C_PER_MATRIX:
            d_in = HIDDEN if name == "mlp.down_proj" else D
            d_out = HIDDEN if name == "mlp.c_fc" else D
            weights[f"h.{i}.{name}.weight"] = torch.randn(d_out, d_in) / d_in**0.5
    return weights | {"lm_head.weight": weights["wte.weight"]}


def _write(
    folder: Path,
    vocab: int,
    target: dict[str, torch.Tensor],
    state: dict[str, torch.Tensor],
    module_info: list[dict[str, object]],
) -> None:
    (folder / "target" / "checkpoints").mkdir(parents=True)
    model = {
        "model_type": "LlamaSimpleMLP",
        "block_size": SEQ,
        "n_ctx": SEQ,
        "n_embd": D,
        "n_head": HEADS,
        "n_intermediate": HIDDEN,
        "n_key_value_heads": HEADS,
        "n_layer": N_LAYER,
        "rotary_dim": D // HEADS,
        "use_grouped_query_attention": True,
        "vocab_size": vocab,
    }
    config = {
        "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
        "pretrained_model_name": "target/checkpoints/model_step_1.pt",
        "pretrained_model_output_attr": "idx_0",
        "tokenizer_name": None,
        "sigmoid_type": "leaky_hard",
        "ci_config": {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [CI_HIDDEN]},
        "module_info": module_info,
        "task_config": {"task_name": "lm", "max_seq_len": SEQ, "dataset_name": "none", "column_name": "text"},
    }
    (folder / "target" / "model_config.yaml").write_text(yaml.safe_dump(model))
    (folder / "target" / "final_config.yaml").write_text(yaml.safe_dump({"model": model}))
    (folder / "final_config.yaml").write_text(yaml.safe_dump(config))
    torch.save(target, folder / "target" / "checkpoints" / "model_step_1.pt")
    torch.save(state, folder / "model_1.pth")


def _set_biases(decomposition: SpdDecomposition, tokens: NDArray[np.int32]) -> None:
    generator = np.random.default_rng(0)
    wanted = densities(sum(decomposition.layers.values()), FIRING_PER_TOKEN, generator)
    parts = decomposition.forward_parts(torch.from_numpy(tokens).long())
    start = 0
    for name, n in decomposition.layers.items():
        pre = parts.pre_ci[name].reshape(-1, n)
        share = torch.from_numpy(wanted[start : start + n]).float()
        ordered = pre.sort(0).values
        # A density below one in the calibration's tokens lies above every value seen there.
        at = ((1 - share) * len(ordered)).long().clamp(max=len(ordered) - 1)
        cut = ordered.gather(0, at[None])[0] + torch.where(share < 1 / len(ordered), 0.1, 0.0)
        head = decomposition._ci_function._ci_fns[name.replace(".", "-")].layers[2]
        head.b.data -= cut
        start += n
