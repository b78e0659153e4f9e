"""Every causal-importance function against its formula, written out with einsum and loops."""

import math
from fnmatch import fnmatchcase

import pytest
import torch
from spd_run_builder import (
    D_MLP,
    D_MODEL,
    N_LAYER,
    SMALL_INFO,
    SMALL_LAYERS,
    VOCAB,
    SpdRun,
    build_run,
    small_run,
    some_tokens,
)

from spd_tools.decompositions.spd import ci_functions
from spd_tools.decompositions.spd.ci_functions import ScalarMlps, VectorMlps
from spd_tools.decompositions.spd.loader import load_spd_run
from spd_tools.decompositions.spd.transformer_ci import SharedGlobalTransformer
from spd_tools.errors import SpdToolsError

WITH_EMBEDDING = {"wte": (VOCAB, D_MODEL, 4), **SMALL_LAYERS}
WITH_EMBEDDING_INFO = [("wte", 4), *SMALL_INFO]
RESIDUAL_GROUPS = [
    # The second pattern comes first in name order: members are ordered as matched.
    {
        "name": "block.0",
        "patterns": ["h.0.mlp.*", "h.0.attn.*"],
        "members": ["h.0.mlp.c_fc", "h.0.attn.q_proj"],
    },
    {"name": "wte", "patterns": ["wte"], "members": ["wte"]},
    {"name": "block.1", "patterns": ["h.1.*"], "members": ["h.1.mlp.c_fc", "h.1.attn.q_proj"]},
]


def gelu(x):
    return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))


def rms(x, weight=1.0):
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + torch.finfo(torch.float32).eps) * weight


def mlp(run: SpdRun, prefix: str, x):
    i = 0
    while f"ci_fn.{prefix}.{i}.W" in run.state:
        x = gelu(x) if i else x
        x = torch.einsum("...i,io->...o", x, run.ci(f"{prefix}.{i}.W")) + run.ci(f"{prefix}.{i}.b")
        i += 2
    return x


def attention(run: SpdRun, prefix: str, x, n_heads: int, base: float):
    batch, seq, width = x.shape
    d = width // n_heads
    q, k, v = (
        torch.einsum("bsi,oi->bso", x, run.ci(f"{prefix}.{name}_proj.weight")).view(batch, seq, n_heads, d)
        for name in "qkv"
    )

    def rotate(y):
        out = torch.empty_like(y)
        for position in range(seq):
            for i in range(d // 2):
                angle = position * base ** (-2 * i / d)
                a, b = y[:, position, :, i], y[:, position, :, i + d // 2]
                out[:, position, :, i] = a * math.cos(angle) - b * math.sin(angle)
                out[:, position, :, i + d // 2] = b * math.cos(angle) + a * math.sin(angle)
        return out

    weights = torch.einsum("bqhd,bkhd->bhqk", rotate(q), rotate(k)).div(math.sqrt(d)).softmax(-1)
    mixed = torch.einsum("bhqk,bkhd->bqhd", weights, v).reshape(batch, seq, width)
    return torch.einsum("bsi,oi->bso", mixed, run.ci(f"{prefix}.out_proj.weight"))


def load(run: SpdRun, tmp_path):
    decomposition = load_spd_run(run.write(tmp_path / "run"))
    tokens = some_tokens()
    parts = decomposition.forward_parts(tokens)
    assert list(parts.pre_ci) == list(run.layers)
    return decomposition, parts


def vectors(run: SpdRun, inputs):
    """What a global function reads: for embeddings the component activation."""
    return {name: run.component(name, "V")[x] if name == "wte" else x for name, x in inputs.items()}


def check(actual, expected):
    assert set(actual) == set(expected)
    for layer, values in expected.items():
        torch.testing.assert_close(actual[layer], values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hidden_dims", [[3], [3, 4]])
def test_layerwise_mlp_also_on_embeddings(tmp_path, hidden_dims):
    ci = {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": hidden_dims}
    run = build_run(ci, WITH_EMBEDDING_INFO, WITH_EMBEDDING)
    _, parts = load(run, tmp_path)
    expected = {}
    for layer, x in parts.inputs.items():
        v = run.component(layer, "V")
        inner = v[x] if layer == "wte" else torch.einsum("bsi,ic->bsc", x, v)
        hidden = inner[..., None]
        for i in range(len(hidden_dims) + 1):
            hidden = gelu(hidden) if i else hidden
            prefix = f"_ci_fns.{layer.replace('.', '-')}.layers.{2 * i}"
            hidden = torch.einsum("bsci,cio->bsco", hidden, run.ci(f"{prefix}.W")) + run.ci(f"{prefix}.b")
        expected[layer] = hidden[..., 0]
    check(parts.pre_ci, expected)


@pytest.mark.parametrize("hidden_dims", [[3], [3, 4]])
def test_layerwise_vector_mlp(tmp_path, hidden_dims):
    run = small_run(ci_config={"mode": "layerwise", "fn_type": "vector_mlp", "hidden_dims": hidden_dims})
    _, parts = load(run, tmp_path)
    expected = {}
    for layer, x in parts.inputs.items():
        c = run.layers[layer][2]
        hidden = x[:, :, None, :].expand(-1, -1, c, -1)
        for i in range(len(hidden_dims) + 1):
            hidden = gelu(hidden) if i else hidden
            prefix = f"_ci_fns.{layer.replace('.', '-')}.layers.{2 * i}"
            hidden = torch.einsum("bsci,cio->bsco", hidden, run.ci(f"{prefix}.W")) + run.ci(f"{prefix}.b")
        expected[layer] = hidden[..., 0]
    check(parts.pre_ci, expected)


@pytest.mark.parametrize("hidden_dims", [[7], [7, 5]])
def test_layerwise_shared_mlp(tmp_path, hidden_dims):
    run = small_run(ci_config={"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": hidden_dims})
    _, parts = load(run, tmp_path)
    check(
        parts.pre_ci,
        {layer: mlp(run, f"_ci_fns.{layer.replace('.', '-')}.layers", x) for layer, x in parts.inputs.items()},
    )


def split(run: SpdRun, names, values):
    sizes = [run.layers[name][2] for name in names]
    return dict(zip(names, values.split(sizes, dim=-1), strict=True))


def test_global_shared_mlp(tmp_path):
    ci = {"mode": "global", "fn_type": "global_shared_mlp", "hidden_dims": [9]}
    run = build_run(ci, WITH_EMBEDDING_INFO, WITH_EMBEDDING)
    _, parts = load(run, tmp_path)
    names = sorted(run.layers)
    assert names != list(run.layers)
    read = vectors(run, parts.inputs)
    values = mlp(run, "_global_ci_fn.layers", torch.cat([read[name] for name in names], -1))
    check(parts.pre_ci, split(run, names, values))


@pytest.mark.parametrize("mlp_hidden_dim", [[6], None])
def test_global_shared_transformer(tmp_path, mlp_hidden_dim):
    cfg = {
        "d_model": 8,
        "n_blocks": 2,
        "mlp_hidden_dim": mlp_hidden_dim,
        "attn_config": {"n_heads": 2, "max_len": 10, "rope_base": 50.0},
    }
    ci = {"mode": "global", "fn_type": "global_shared_transformer", "simple_transformer_ci_cfg": cfg}
    run = build_run(ci, WITH_EMBEDDING_INFO, WITH_EMBEDDING)
    _, parts = load(run, tmp_path)
    names = sorted(run.layers)
    read = vectors(run, parts.inputs)
    prefix = "_global_ci_fn"
    joined = torch.cat([rms(read[name]) for name in names], -1)
    x = joined @ run.ci(f"{prefix}._input_projector.W") + run.ci(f"{prefix}._input_projector.b")
    for i in range(2):
        x = x + attention(run, f"{prefix}._blocks.{i}.attn", rms(x), 2, 50.0)
        x = x + mlp(run, f"{prefix}._blocks.{i}.mlp", rms(x))
    values = x @ run.ci(f"{prefix}._output_head.W") + run.ci(f"{prefix}._output_head.b")
    check(parts.pre_ci, split(run, names, values))


def residual_config(**changes):
    config = {
        "mode": "global",
        "fn_type": "global_reverse_residual",
        "block_groups": RESIDUAL_GROUPS,
        "d_resid_ci_fn": 8,
        "reader_hidden_dims": [5],
        "transition_hidden_dim": 6,
        "transition_attn_config": {"n_heads": 2, "max_len": 10, "rope_base": 50.0},
    }
    return config | changes


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"transition_hidden_dim": None},
        {"transition_attn_config": None},
        {"reader_hidden_dims": [5, 4], "transition_hidden_dim": None, "transition_attn_config": None},
        {"reader_hidden_dims": []},
    ],
)
def test_global_reverse_residual(tmp_path, changes):
    ci = residual_config(**changes)
    run = build_run(ci, WITH_EMBEDDING_INFO, WITH_EMBEDDING)
    _, parts = load(run, tmp_path)
    read = vectors(run, parts.inputs)
    prefix, expected = "_global_ci_fn", {}
    stream = torch.zeros(3, 7, 8)
    for group in RESIDUAL_GROUPS:
        key = group["name"].replace(".", "-")
        joined = torch.cat([read[name] for name in group["members"]], -1)
        stream = stream + joined @ run.ci(f"{prefix}._inp_projectors.{key}.W")
        stream = stream + run.ci(f"{prefix}._inp_projectors.{key}.b")
        if group is not RESIDUAL_GROUPS[-1]:
            if ci["transition_attn_config"]:
                normed = rms(stream, run.ci(f"{prefix}._attn_norms.{key}.weight"))
                stream = stream + attention(run, f"{prefix}._attn_transitions.{key}", normed, 2, 50.0)
            normed = rms(stream, run.ci(f"{prefix}._transition_norms.{key}.weight"))
            if ci["transition_hidden_dim"]:
                stream = stream + mlp(run, f"{prefix}._transitions.{key}", normed)
            else:
                stream = stream + normed @ run.ci(f"{prefix}._transitions.{key}.W")
                stream = stream + run.ci(f"{prefix}._transitions.{key}.b")
        values = mlp(run, f"{prefix}._readers.{key}", rms(stream, run.ci(f"{prefix}._reader_norms.{key}.weight")))
        expected |= split(run, group["members"], values)
    check(parts.pre_ci, expected)


@pytest.mark.parametrize(
    ("patterns", "complaint"),
    [
        ({"block.0": ["h.0.*"], "wte": ["wte"]}, "h.1.mlp.c_fc is in no block group"),
        ({"block.0": ["h.*"], "wte": ["wte", "h.1.mlp.*"]}, "h.1.mlp.c_fc is in the block groups block.0 and wte"),
        ({"block.0": ["h.*"], "wte": ["wte"], "head": ["lm_head"]}, "head of ci_config matches no decomposed module"),
    ],
)
def test_reverse_residual_blocks_partition_the_layers(tmp_path, patterns, complaint):
    run = build_run(residual_config(), WITH_EMBEDDING_INFO, WITH_EMBEDDING)
    run.config["ci_config"]["block_groups"] = [{"name": n, "patterns": p} for n, p in patterns.items()]
    with pytest.raises(SpdToolsError, match=complaint):
        load_spd_run(run.write(tmp_path))


@pytest.mark.parametrize("fn_type", ["vector_mlp", "shared_mlp"])
def test_embeddings_refuse_layerwise_functions_that_read_vectors(tmp_path, fn_type):
    run = build_run({"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [3]}, WITH_EMBEDDING_INFO, WITH_EMBEDDING)
    run.config["ci_config"]["fn_type"] = fn_type
    with pytest.raises(SpdToolsError, match="wte is an embedding"):
        load_spd_run(run.write(tmp_path))


@pytest.mark.parametrize("per_component", [ScalarMlps(11, [3]), VectorMlps(11, 5, [3, 2])])
def test_working_in_blocks_of_components_changes_nothing(monkeypatch, per_component):
    generator = torch.Generator().manual_seed(0)
    for parameter in per_component.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    x = torch.randn(2, 4, 11 if isinstance(per_component, ScalarMlps) else 5, generator=generator)
    whole = per_component(x)
    monkeypatch.setattr(ci_functions, "_BLOCK_ELEMENTS", 8 * 3 * 4)
    assert len(per_component._blocks(8)) == 3
    torch.testing.assert_close(per_component(x), whole)


def test_inputs_without_a_sequence_axis_get_one(tmp_path):
    cfg = {"d_model": 8, "n_blocks": 1, "mlp_hidden_dim": [6], "attn_config": {"n_heads": 2}}
    ci = {
        "mode": "global",
        "fn_type": "global_shared_transformer",
        "simple_transformer_ci_cfg": cfg,
    }
    decomposition, _ = load(small_run(ci_config=ci), tmp_path)
    function = decomposition._ci_function._global_ci_fn
    assert isinstance(function, SharedGlobalTransformer)
    inputs = {name: torch.randn(3, d_in) for name, (d_in, _, _) in SMALL_LAYERS.items()}
    flat = function(inputs)
    rows = function({name: x[:, None] for name, x in inputs.items()})
    for name in SMALL_LAYERS:
        torch.testing.assert_close(flat[name], rows[name][:, 0])


def test_sizes_of_the_test_runs_differ():
    # Mixed-up axes must not fit by chance.
    assert len({D_MODEL, D_MLP, VOCAB, *(c for *_, c in WITH_EMBEDDING.values())}) >= 5
    assert N_LAYER == 2
    assert all(any(fnmatchcase(layer, pattern) for pattern, _ in SMALL_INFO) for layer in SMALL_LAYERS)
