"""What can be wrong with a run on disk, and what may differ without mattering."""

import pickle

import pytest
import torch
import yaml
from spd_run_builder import SMALL_INFO, SMALL_LAYERS, small_run, some_tokens

from spd_tools.decompositions.spd.loader import load_spd_run
from spd_tools.errors import SpdToolsError

TOKENS = some_tokens()


def load(run, folder):
    return load_spd_run(run.write(folder))


def refuses(complaint):
    return pytest.raises(SpdToolsError, match=complaint)


def one_sentence(error) -> bool:
    return "\n" not in str(error.value) and str(error.value).endswith(".")


def test_folder_and_checkpoint_are_the_same_run(tmp_path):
    folder = small_run().write(tmp_path / "run")
    by_folder, by_file = load_spd_run(folder), load_spd_run(folder / "model_10.pth")
    assert by_folder.run_id == by_file.run_id == f"run-{by_folder.fingerprint[:8]}"
    assert by_folder.reference == str(folder)
    assert by_file.reference == str(folder / "model_10.pth")


def test_the_largest_step_is_taken(tmp_path):
    old, new = small_run(seed=1), small_run(seed=2)
    old.write(tmp_path / "run", "model_9.pth")
    new.write(tmp_path / "run", "model_10.pth")
    assert load_spd_run(tmp_path / "run").fingerprint == load(new, tmp_path / "other").fingerprint


def test_safetensors_is_preferred_and_the_same_run(tmp_path):
    run = small_run()
    pth = load(run, tmp_path / "pth")
    run.write(tmp_path / "both", "model_10.safetensors")
    (tmp_path / "both" / "model_10.pth").write_bytes(b"torn")
    both = load_spd_run(tmp_path / "both")
    assert both.fingerprint == pth.fingerprint
    assert torch.equal(both(TOKENS).logits, pth(TOKENS).logits)


@pytest.mark.parametrize("gone", ["target_model.wte.weight", "target_model.lm_head.weight"])
def test_one_name_of_a_tied_weight_is_enough(tmp_path, gone):
    run = small_run()
    whole = load(run, tmp_path / "whole")
    del run.state[gone]
    assert load(run, tmp_path / "half").fingerprint == whole.fingerprint


def test_tied_weights_that_differ_are_refused(tmp_path):
    run = small_run()
    run.state["target_model.lm_head.weight"] += 1
    with refuses("differ though the target ties them"):
        load(run, tmp_path)


def test_rotary_tables_in_the_checkpoint_are_tolerated(tmp_path):
    run = small_run()
    plain = load(run, tmp_path / "plain")
    run.state["target_model.h.0.attn.rotary_sin"] = torch.ones(10, 4)
    run.state["target_model.h.0.attn.rotary_cos"] = torch.ones(10, 4)
    run.state["target_model.h.0.attn.bias"] = torch.ones(1, 1, 10, 10)
    assert torch.equal(load(run, tmp_path / "tables")(TOKENS).logits, plain(TOKENS).logits)


def test_old_configuration_is_the_same_run(tmp_path):
    ci = {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [7]}
    layers = {name: (d_in, d_out, 6) for name, (d_in, d_out, _) in SMALL_LAYERS.items()}
    run = small_run(ci_config=ci, module_info=[(pattern, 6) for pattern, _ in SMALL_INFO], layers=layers)
    new = load(run, tmp_path / "new")
    config = run.config
    config |= {"C": 6, "target_module_patterns": [info["module_pattern"] for info in config.pop("module_info")]}
    config |= {"ci_fn_type": "shared_mlp", "ci_fn_hidden_dims": [7], "use_global_ci": False}
    del config["ci_config"], config["identity_module_info"]
    config["pretrained_model_class"] = "simple_stories_train.models.llama_simple_mlp.LlamaSimpleMLP"
    config["pretrained_model_path"] = config.pop("pretrained_model_name")
    old = load(run, tmp_path / "old")
    assert old.fingerprint == new.fingerprint
    assert old.layers == new.layers


@pytest.mark.parametrize("fn_type", ["shared_mlp", "global_shared_mlp"])
def test_old_global_configuration(tmp_path, fn_type):
    run = small_run(ci_config={"mode": "global", "fn_type": "global_shared_mlp", "hidden_dims": [9]})
    new = load(run, tmp_path / "new")
    del run.config["ci_config"]
    run.config |= {"ci_fn_type": fn_type, "ci_fn_hidden_dims": [9], "use_global_ci": True}
    assert load(run, tmp_path / "old").fingerprint == new.fingerprint


def test_old_keys_outside_any_module(tmp_path):
    run = small_run()
    new = load(run, tmp_path / "new")
    run.state = {key.replace("ci_fn._ci_fns.", "_ci_fns."): tensor for key, tensor in run.state.items()}
    assert load(run, tmp_path / "old").fingerprint == new.fingerprint


def change_weight(run):
    run.state["_components.h-0-mlp-c_fc.V"][0, 0] += 1


def change_target(run):
    run.state["target_model.ln_f.weight"][0] += 1


def change_ci(run):
    run.ci("_ci_fns.h-0-mlp-c_fc.layers.0.b")[0] += 1


def change_sigmoid(run):
    run.config["sigmoid_type"] = "normal"


def change_rotary(run):
    run.model_config["rotary_base"] = 500.0


def change_order(run):
    run.config["module_info"].reverse()


@pytest.mark.parametrize(
    "change", [change_weight, change_target, change_ci, change_sigmoid, change_rotary, change_order]
)
def test_fingerprint_covers_what_determines_activations(tmp_path, change):
    run = small_run()
    before = load(run, tmp_path / "before").fingerprint
    change(run)
    assert load(run, tmp_path / "after").fingerprint != before


def test_fingerprint_leaves_out_what_does_not(tmp_path):
    run = small_run()
    before = load(run, tmp_path / "before").fingerprint
    run.config |= {"tokenizer_name": "another/one", "seed": 7, "sampling": "binomial"}
    run.config["task_config"]["dataset_name"] = "another/set"
    assert load(run, tmp_path / "after").fingerprint == before


def test_training_data(tmp_path):
    data = load(small_run(), tmp_path).training_data
    assert (data.dataset, data.split, data.column, data.seq_len) == ("somebody/stories", "train", "story", 10)
    assert (data.tokenizer, data.is_tokenized, data.streaming) == ("somebody/some-tokenizer", False, True)


def test_tokenised_data_needs_no_tokenizer(tmp_path):
    run = small_run()
    run.config["task_config"]["is_tokenized"] = True
    assert load(run, tmp_path).training_data.tokenizer is None


def test_loading_leaves_the_random_numbers_alone(tmp_path):
    folder = small_run().write(tmp_path)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_spd_run(folder)
    assert torch.equal(torch.rand(3), expected)


def test_missing_folder(tmp_path):
    with refuses("There is no .*nowhere"):
        load_spd_run(tmp_path / "nowhere")


def test_folder_without_checkpoint(tmp_path):
    with refuses(r"holds no model_<step>.pth") as error:
        load_spd_run(tmp_path)
    assert one_sentence(error)


def test_checkpoint_without_configuration(tmp_path):
    torch.save({}, tmp_path / "model_1.pth")
    with refuses("holds no final_config.yaml"):
        load_spd_run(tmp_path)


def test_some_other_file(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    with refuses("is no SPD checkpoint"):
        load_spd_run(tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["model_10.pth", "model_10.safetensors"])
@pytest.mark.parametrize("keep", [0, 100, -500])
def test_torn_checkpoint(tmp_path, name, keep):
    folder = small_run().write(tmp_path, name)
    path = folder / name
    path.write_bytes(path.read_bytes()[:keep])
    with refuses(f"Checkpoint .*{name}.* torn") as error:
        load_spd_run(folder)
    assert one_sentence(error)


class Bomb:
    def __reduce__(self):
        return (print, ("executed",))


def test_code_in_a_checkpoint_is_not_executed(tmp_path, capsys):
    folder = small_run().write(tmp_path)
    torch.save({"target_model.wte.weight": Bomb()}, folder / "model_10.pth", pickle_module=pickle)
    with refuses("never executed"):
        load_spd_run(folder)
    assert capsys.readouterr().out == ""


def test_checkpoint_that_is_no_state_dict(tmp_path):
    folder = small_run().write(tmp_path)
    torch.save([torch.ones(2)], folder / "model_10.pth")
    with refuses("is no state dict"):
        load_spd_run(folder)


def drop(key):
    return lambda run: run.state.pop(key)


def add(key):
    return lambda run: run.state.__setitem__(key, torch.ones(2))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (drop("target_model.ln_f.weight"), "it lacks target_model.ln_f.weight"),
        (drop("_components.h-0-mlp-c_fc.U"), "it lacks _components.h-0-mlp-c_fc.U"),
        (drop("ci_fn._ci_fns.h-0-mlp-c_fc.layers.0.W"), "it lacks ci_fn._ci_fns.h-0-mlp-c_fc.layers.0.W"),
        (add("target_model.h.7.x"), "unexpected key target_model.h.7.x"),
        (add("_components.h-7-x.V"), "components of h-7-x"),
        (add("ci_fn._ci_fns.h-7-x.b"), "unexpected key ci_fn._ci_fns.h-7-x.b"),
        (add("optimizer.step"), "unexpected key optimizer.step"),
        (add("target_model.ln_f.weight"), r"target_model.ln_f.weight has shape \[2\] instead of \[16\]"),
        (add("_components.h-0-mlp-c_fc.V"), r"_components.h-0-mlp-c_fc.V has shape \[2\] instead of \[16, 6\]"),
        (add("_components.h-0-mlp-c_fc.bias"), "unexpected key _components.h-0-mlp-c_fc.bias"),
    ],
)
def test_checkpoint_that_does_not_fit(tmp_path, change, complaint):
    run = small_run()
    change(run)
    with refuses(complaint) as error:
        load(run, tmp_path)
    assert one_sentence(error)
    assert "model_10.pth" in str(error.value)


def with_biases():
    run = small_run()
    run.model_config["mlp_bias"] = True
    for i in range(2):
        run.state[f"target_model.h.{i}.mlp.c_fc.bias"] = torch.linspace(-1, 1, 24)
        run.state[f"target_model.h.{i}.mlp.down_proj.bias"] = torch.linspace(-1, 1, 16)
    return run


def test_components_may_carry_the_targets_bias(tmp_path):
    run = with_biases()
    plain = load(run, tmp_path / "plain")
    run.state["_components.h-0-mlp-c_fc.bias"] = torch.linspace(-1, 1, 24)
    carried = load(run, tmp_path / "carried")
    masks = {"h.0.mlp.c_fc": torch.ones(*TOKENS.shape, 6)}
    assert carried.fingerprint == plain.fingerprint
    torch.testing.assert_close(carried.run(TOKENS, masks=masks).logits, plain(TOKENS).logits, atol=1e-5, rtol=1e-5)


def test_components_with_another_bias(tmp_path):
    run = with_biases()
    run.state["_components.h-0-mlp-c_fc.bias"] = torch.linspace(0, 1, 24)
    with refuses("_components.h-0-mlp-c_fc.bias is not the bias"):
        load(run, tmp_path)


def test_one_tensor_under_two_spellings(tmp_path):
    run = small_run()
    run.state["patched_model.ln_f.weight"] = run.state["target_model.ln_f.weight"] + 1
    with refuses("two different tensors for target_model.ln_f.weight"):
        load(run, tmp_path)


def set_config(**fields):
    return lambda run: run.config.update(fields)


def info(*patterns):
    return [{"module_pattern": pattern, "C": 6} for pattern in patterns]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (set_config(module_info=info("h.*.mlp.c_fc", "h.0.mlp.*")), "h.0.mlp.c_fc matches two patterns"),
        (set_config(module_info=info("h.*.mlp.nothing")), "'h.\\*.mlp.nothing' .*matches no module"),
        (set_config(module_info=info("h.0.mlp")), "h.0.mlp is a GeluMlp"),
        (set_config(module_info=info("ln_f")), "ln_f is a RMSNorm"),
        (set_config(identity_module_info=info("wte")), "wte is a Embedding"),
        (set_config(identity_module_info=info("h.9.*")), "'h.9.\\*' .*matches no module"),
        (set_config(pretrained_model_class="somewhere.Unknown"), "somewhere.Unknown is not known"),
        (
            set_config(pretrained_model_class="spd.experiments.tms.models.TMSModel"),
            "does not describe the target model .n_features",
        ),
        (
            set_config(pretrained_model_class="spd.experiments.resid_mlp.models.ResidMLP"),
            "does not describe the target model .n_features",
        ),
        (
            set_config(pretrained_model_class="spd.experiments.resid_mlp.models.ResidualMLP"),
            "does not describe the target model .n_features",
        ),
        (set_config(pretrained_model_name="elsewhere/model.pt"), "target elsewhere/model.pt .* was not found"),
        (set_config(pretrained_model_name=None), "names no target"),
        (set_config(sigmoid_type="mystery"), "sigmoid_type 'mystery'"),
        (set_config(ci_config={"mode": "layerwise", "fn_type": "mystery"}), "ci_config.fn_type"),
        (set_config(ci_config={"mode": "global", "fn_type": "mlp", "hidden_dims": [3]}), "does not go with mode"),
        (set_config(ci_config={"mode": "layerwise", "fn_type": "mlp"}), "fn_type mlp needs hidden_dims"),
        (set_config(ci_config=None), "final_config.yaml is no SPD configuration .ci_config"),
        (set_config(module_info=None), "module_info"),
        (set_config(module_info=[{"module_pattern": "wte", "C": 0}]), "module_info.0.C"),
    ],
)
def test_unfit_configuration(tmp_path, change, complaint):
    run = small_run()
    change(run)
    with refuses(complaint) as error:
        load(run, tmp_path)
    assert one_sentence(error)


@pytest.mark.parametrize("text", ["a: [", "- 1\n- 2\n", "", "\x00"])
@pytest.mark.parametrize("name", ["final_config.yaml", "target/model_config.yaml"])
def test_torn_yaml(tmp_path, name, text):
    folder = small_run().write(tmp_path)
    (folder / name).write_text(text)
    with refuses(name) as error:
        load_spd_run(folder)
    assert one_sentence(error)


def test_yaml_tags_are_not_executed(tmp_path):
    folder = small_run().write(tmp_path)
    (folder / "final_config.yaml").write_text("x: !!python/object/apply:os.getcwd []\n")
    with refuses("no valid YAML"):
        load_spd_run(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"n_intermediate": None}, "n_intermediate"),
        ({"n_key_value_heads": None}, "n_key_value_heads is missing"),
        ({"n_head": 3}, "no multiple of n_head 3"),
        ({"n_key_value_heads": 3}, "no multiple of n_key_value_heads 3"),
        ({"n_intermediate": 20}, r"c_fc.weight has shape \[24, 16\] instead of \[20, 16\]"),
        ({"n_layer": 1, "n_intermediate": 24}, "h-1-mlp-c_fc"),
    ],
)
def test_unfit_target_configuration(tmp_path, changes, complaint):
    run = small_run()
    run.model_config |= changes
    with refuses(complaint):
        load(run, tmp_path)


def test_target_beside_the_run_wins_over_the_current_folder(tmp_path, monkeypatch):
    folder = small_run().write(tmp_path / "run")
    elsewhere = tmp_path / "cwd"
    (elsewhere / "target").mkdir(parents=True)
    (elsewhere / "target" / "model_config.yaml").write_text(yaml.safe_dump({"vocab_size": 1}))
    monkeypatch.chdir(elsewhere)
    assert load_spd_run(folder).vocab_size == 24


def test_target_by_absolute_path(tmp_path):
    run = small_run()
    folder = run.write(tmp_path / "run")
    (folder / "target").rename(tmp_path / "pretraining")
    run.config["pretrained_model_name"] = str(tmp_path / "pretraining" / "checkpoints" / "model_step_100.pt")
    (folder / "final_config.yaml").write_text(yaml.safe_dump(run.config))
    assert load_spd_run(folder).vocab_size == 24


@pytest.mark.parametrize("attribute", ["idx_7", "logits", None, "idx_1", "idx_x"])
def test_output_without_logits(tmp_path, attribute):
    run = small_run()
    run.config["pretrained_model_output_attr"] = attribute
    with refuses("has no logits"):
        load(run, tmp_path)(TOKENS)
