"""In-repo targets against independent implementations: Hugging Face's, with the same weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
import yaml

from spd_tools.errors import SpdToolsError
from spd_tools.targets.attention import Rotary
from spd_tools.targets.build import IN_REPO, build_in_repo_target, read_yaml_mapping
from spd_tools.targets.config import TransformerConfig
from spd_tools.targets.transformers_targets import build_transformers_target, is_conv1d

transformers = pytest.importorskip("transformers")

VOCAB, WIDTH, MLP, LAYERS, HEADS, CONTEXT = 30, 16, 24, 2, 4, 12
SIZES = {"vocab_size": VOCAB, "n_layer": LAYERS, "n_head": HEADS, "n_embd": WIDTH, "block_size": CONTEXT}
LLAMA_SIZES = SIZES | {"n_intermediate": MLP, "n_key_value_heads": 2, "rotary_base": 100.0}
TOKENS = torch.randint(VOCAB, (3, CONTEXT), generator=torch.Generator().manual_seed(0))


def build(tmp_path, name, sizes):
    config = tmp_path / "model_config.yaml"
    config.write_text(yaml.safe_dump(sizes))
    target = build_in_repo_target(name, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in target.module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
            if parameter.ndim == 1:
                parameter.add_(0.5)
    return target


def logits_of(target):
    logits, loss = target.module(TOKENS)
    assert loss is None
    return logits.detach()


def hf_llama(**changes):
    config = transformers.LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=WIDTH,
        intermediate_size=MLP,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=changes.pop("n_kv", 2),
        max_position_embeddings=CONTEXT,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
        rope_theta=100.0,
        pad_token_id=None,
        bos_token_id=1,
        eos_token_id=2,
        **changes,
    )
    return transformers.LlamaForCausalLM(config).eval()


def hf_gpt2():
    config = transformers.GPT2Config(
        vocab_size=VOCAB,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        bos_token_id=0,
        eos_token_id=0,
    )
    return transformers.GPT2LMHeadModel(config).eval()


def compare(ours, reference, state):
    reference.load_state_dict(state)
    with torch.no_grad():
        expected = reference(TOKENS).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)


def llama_simple_names(state):
    names = {"wte.weight": "model.embed_tokens.weight", "ln_f.weight": "model.norm.weight"}
    renamed = {}
    for key, tensor in state.items():
        new = names.get(key, key)
        if key.startswith("h."):
            new = f"model.layers.{key[2:]}".replace(".attn.", ".self_attn.")
            new = new.replace(".rms_1.", ".input_layernorm.").replace(".rms_2.", ".post_attention_layernorm.")
        renamed[new] = tensor
    return renamed


@pytest.mark.parametrize("biases", [False, True])
def test_llama_simple(tmp_path, biases):
    target = build(tmp_path, "LlamaSimple", LLAMA_SIZES | {"mlp_bias": biases, "attn_bias": biases})
    reference = hf_llama(mlp_bias=biases, attention_bias=biases)
    compare(logits_of(target), reference, llama_simple_names(target.module.state_dict()))


def test_llama_simple_without_grouped_queries_has_one_projection(tmp_path):
    target = build(tmp_path, "LlamaSimple", LLAMA_SIZES | {"use_grouped_query_attention": False})
    state = target.module.state_dict()
    split = {}
    for key, tensor in state.items():
        if "c_attn" in key:
            for name, piece in zip("qkv", tensor.chunk(3), strict=True):
                split[key.replace("c_attn", f"{name}_proj")] = piece
        else:
            split[key] = tensor
    assert "h.0.attn.c_attn.weight" in state
    compare(logits_of(target), hf_llama(n_kv=HEADS), llama_simple_names(split))


def test_llama(tmp_path):
    target = build(tmp_path, "Llama", LLAMA_SIZES)
    compare(logits_of(target), hf_llama(), target.module.state_dict())


def test_gpt2(tmp_path):
    target = build(tmp_path, "GPT2", SIZES)
    state = {}
    for key, tensor in target.module.state_dict().items():
        transposed = key.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))  # Conv1D keeps [d_in, d_out]
        state[key] = tensor.T if transposed else tensor
    compare(logits_of(target), hf_gpt2(), state)


def test_gpt2_simple(tmp_path):
    target = build(tmp_path, "GPT2Simple", SIZES)
    ours = target.module.state_dict()
    state = {}
    for key, tensor in ours.items():
        new = key if key == "lm_head.weight" else f"transformer.{key}"
        new = new.replace("down_proj", "c_proj").replace("o_proj", "c_proj")
        state[new] = tensor.T if new.endswith(("c_proj.weight", "c_fc.weight")) else tensor
    for i in range(LAYERS):
        for leaf in ("weight", "bias"):
            fused = torch.cat([state.pop(f"transformer.h.{i}.attn.{name}_proj.{leaf}") for name in "qkv"])
            state[f"transformer.h.{i}.attn.c_attn.{leaf}"] = fused.T if leaf == "weight" else fused
    compare(logits_of(target), hf_gpt2(), state)


@pytest.mark.parametrize("adjacent", [False, True])
def test_llama_simple_mlp_written_out(tmp_path, adjacent):
    sizes = LLAMA_SIZES | {"rotary_adjacent_pairs": adjacent, "mlp_bias": True}
    target = build(tmp_path, "LlamaSimpleMLP", sizes)
    state = target.module.state_dict()
    d = WIDTH // HEADS

    def rotate(x):  # [batch, seq, heads, d]
        out = torch.empty_like(x)
        for position in range(x.shape[1]):
            for i in range(d // 2):
                first, second = (2 * i, 2 * i + 1) if adjacent else (i, i + d // 2)
                angle = torch.tensor(position * 100.0 ** (-2 * i / d))
                a, b = x[:, position, :, first], x[:, position, :, second]
                out[:, position, :, first] = a * angle.cos() - b * angle.sin()
                out[:, position, :, second] = a * angle.sin() + b * angle.cos()
        return out

    def norm(x, weight):
        return x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * weight

    x = state["wte.weight"][TOKENS]
    causal = torch.full((CONTEXT, CONTEXT), -torch.inf).triu(1)
    for i in range(LAYERS):
        block = {key.removeprefix(f"h.{i}."): value for key, value in state.items() if key.startswith(f"h.{i}.")}
        read = norm(x, block["rms_1.weight"])
        q, k, v = ((read @ block[f"attn.{n}_proj.weight"].T).view(3, CONTEXT, -1, d) for n in "qkv")
        k, v = (y[:, :, [0, 0, 1, 1]] for y in (rotate(k), v))
        scores = torch.einsum("bqhd,bkhd->bhqk", rotate(q), k) / d**0.5
        mixed = torch.einsum("bhqk,bkhd->bqhd", (scores + causal).softmax(-1), v).reshape(3, CONTEXT, WIDTH)
        x = x + mixed @ block["attn.o_proj.weight"].T
        hidden = norm(x, block["rms_2.weight"]) @ block["mlp.c_fc.weight"].T + block["mlp.c_fc.bias"]
        hidden = 0.5 * hidden * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (hidden + 0.044715 * hidden**3)))
        x = x + hidden @ block["mlp.down_proj.weight"].T + block["mlp.down_proj.bias"]
    expected = norm(x, state["ln_f.weight"]) @ state["wte.weight"].T
    torch.testing.assert_close(logits_of(target), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", IN_REPO)
def test_unembedding_is_tied(tmp_path, name):
    target = build(tmp_path, name, LLAMA_SIZES)
    embedding = next(m for m in target.module.modules() if isinstance(m, torch.nn.Embedding))
    assert target.unembedding.weight is embedding.weight
    assert (target.vocab_size, target.context) == (VOCAB, CONTEXT)
    assert not target.module.training


@pytest.mark.parametrize("name", IN_REPO)
def test_later_tokens_do_not_matter(tmp_path, name):
    target = build(tmp_path, name, LLAMA_SIZES)
    changed = TOKENS.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % VOCAB
    torch.testing.assert_close(target.module(changed)[0][:, :6], target.module(TOKENS)[0][:, :6])


@pytest.mark.parametrize("adjacent", [False, True])
def test_rotary_scores_depend_on_distance_only(adjacent):
    rotary = Rotary(8, 100.0, adjacent)
    q, k = torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    rows = torch.stack([q, k])[:, None].expand(2, 9, 8)
    q_rows, k_rows = rotary(rows)
    scores = q_rows @ k_rows.T
    for distance in range(1, 8):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5, rtol=1e-4)


def test_rotary_tables_are_made_once():
    rotary = Rotary(8)
    x = torch.randn(5, 8)
    with torch.inference_mode():
        rotary(x)
    first = rotary._table(5, x.device)
    assert rotary._table(5, x.device) is first
    assert not first[0].is_inference()


def test_the_shorter_of_two_context_lengths_binds():
    assert TransformerConfig.model_validate(SIZES | {"n_ctx": 7}).block_size == 7
    only_n_ctx = {key: value for key, value in SIZES.items() if key != "block_size"} | {"n_ctx": 9}
    assert TransformerConfig.model_validate(only_n_ctx).block_size == 9


def test_a_missing_file(tmp_path):
    with pytest.raises(SpdToolsError, match=r"model_config\.yaml cannot be read"):
        read_yaml_mapping(tmp_path / "model_config.yaml")


def test_transformers_target_has_the_configurations_architecture(tmp_path):
    reference = hf_gpt2()
    reference.config.save_pretrained(tmp_path)
    target = build_transformers_target("GPT2LMHeadModel", tmp_path)
    assert target.architecture == "transformers.GPT2LMHeadModel"
    assert (target.vocab_size, target.context) == (VOCAB, CONTEXT)
    target.module.load_state_dict(copy.deepcopy(reference.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(target.module(TOKENS).logits, reference(TOKENS).logits)
    assert is_conv1d(target.module.transformer.h[0].mlp.c_fc)
    assert not is_conv1d(target.module.lm_head)


def test_transformers_auto_class(tmp_path):
    hf_llama().config.save_pretrained(tmp_path)
    assert build_transformers_target("AutoModelForCausalLM", tmp_path).architecture == "transformers.LlamaForCausalLM"


def test_version_of_transformers_is_no_part_of_the_architecture(tmp_path):
    hf_gpt2().config.save_pretrained(tmp_path)
    before = build_transformers_target("GPT2LMHeadModel", tmp_path).config
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace(transformers.__version__, "0.0.1"))
    assert build_transformers_target("GPT2LMHeadModel", tmp_path).config == before
    assert before["n_head"] == HEADS


@pytest.mark.parametrize("name", ["NoSuchModel", "GPT2Config", "pipeline", "logging"])
def test_no_such_transformers_class(tmp_path, name):
    hf_gpt2().config.save_pretrained(tmp_path)
    with pytest.raises(SpdToolsError, match=f"no model class {name}"):
        build_transformers_target(name, tmp_path)


def test_transformers_folder_without_configuration(tmp_path):
    with pytest.raises(SpdToolsError, match=r"configuration .* cannot be used") as error:
        build_transformers_target("GPT2LMHeadModel", tmp_path)
    assert "\n" not in str(error.value)


def test_missing_transformers_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(SpdToolsError, match="transformers package is not installed"):
        build_transformers_target("GPT2LMHeadModel", tmp_path)


def test_gelu_of_the_targets_is_the_tanh_approximation():
    x = torch.linspace(-3, 3, 50)
    assert not torch.allclose(F.gelu(x, approximate="tanh"), F.gelu(x), atol=1e-5)
