import json
import math

import pytest
import torch
import yaml
from torch.nn import functional as F

from spd_tools.cli import main
from spd_tools.decompositions.spd.config import SpdConfig
from spd_tools.errors import SpdToolsError
from spd_tools.stories import Stories, story_vocabulary
from spd_tools.targets.build import build_in_repo_target
from spd_tools.training.pretrain import initialise, next_token_losses
from spd_tools.training.pretrain_config import PretrainConfig, pretrain_names, read_pretrain_config
from spd_tools.training.pretrain_run import PretrainRequest, pretrain
from spd_tools.training.target import load_target

LLAMA = {
    "model_type": "LlamaSimpleMLP",
    "n_layer": 1,
    "n_head": 2,
    "n_key_value_heads": 2,
    "n_embd": 8,
    "n_intermediate": 16,
    "block_size": 24,
}
GPT2 = {"model_type": "GPT2Simple", "n_layer": 1, "n_head": 2, "n_embd": 8, "block_size": 24}
DATA = {"stories": {"seed": 0, "n_rows": 60}, "seq_len": 24}


def config(**changes):
    document = {
        "name": "tiny",
        "model": LLAMA | {"vocab_size": len(story_vocabulary())},
        "data": DATA,
        "steps": 12,
        "batch_size": 8,
        "lr_schedule": {"start_val": 3e-2, "warmup_pct": 0.1, "final_val_frac": 0.1, "fn_type": "cosine"},
        "eval_batch_size": 8,
        "n_eval_steps": 2,
        "log_freq": 2,
        "eval_freq": 5,
    }
    return PretrainConfig.model_validate(document | changes)


class KilledError(Exception):
    pass


def request(folder, settings, **changes):
    return PretrainRequest(
        config=settings, out=str(folder), device="cpu", checkpoint_seconds=0.0, progress=False, **changes
    )


def run(folder, settings, *, killed_at=None):
    """Run with a checkpoint after every step; die after a step, before its checkpoint, if asked to."""

    def on_step(done, total):
        if done == killed_at:
            raise KilledError

    return pretrain(request(folder, settings), on_step=on_step)


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder.parent / "out"))
        return run(folder, config())


def test_the_loss_falls(finished):
    losses = [record["loss"] for record in records(finished.folder) if record["split"] == "train"]
    assert losses[0] == pytest.approx(math.log(len(story_vocabulary())), rel=0.05)
    assert losses[-1] < losses[0] - 1


def test_a_finished_run_leaves_weights_and_no_state(finished):
    assert finished.finished
    assert [path.name for path in (finished.folder / "checkpoints").iterdir()] == ["model_step_12.pt"]
    assert not (finished.folder / "training.pt").exists()


def test_the_perplexity_stands_beside_the_generators_own(finished):
    stories = Stories(0)
    held_out = torch.tensor(list(map(list, stories.rows(60, 16, 24))))
    entropy = stories.bits(held_out.numpy())[:, 1:].mean() * math.log(2)
    state = torch.load(finished.folder / "checkpoints" / "model_step_12.pt", weights_only=True)
    target = build_in_repo_target("LlamaSimpleMLP", finished.folder / "model_config.yaml")
    target.module.load_state_dict(state)
    with torch.no_grad():
        loss = float(next_token_losses(target.module, held_out).mean())
    assert finished.held_out == {
        "held_out_loss": pytest.approx(loss, rel=1e-5),
        "held_out_perplexity": pytest.approx(math.exp(loss), rel=1e-5),
        "generator_loss": pytest.approx(entropy),
        "generator_perplexity": pytest.approx(math.exp(entropy)),
    }


def test_an_spd_run_finds_it_as_its_target(finished, tmp_path):
    spd = SpdConfig.model_validate(
        {
            "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
            "pretrained_model_name": str(finished.folder),
            "module_info": [{"module_pattern": "h.*.mlp.c_fc", "C": 4}],
            "ci_config": {"mode": "layerwise", "fn_type": "mlp", "hidden_dims": [4]},
        }
    )
    loaded = load_target(spd, tmp_path)
    state = torch.load(finished.folder / "checkpoints" / "model_step_12.pt", weights_only=True)
    for name, tensor in loaded.target.module.state_dict().items():
        assert torch.equal(tensor, state[name])
    assert (finished.folder / "tokenizer.json").is_file()


@pytest.mark.parametrize("killed_at", [[2], [5, 8], [10]])
def test_a_killed_training_goes_on_to_the_bit(finished, out_dir, tmp_path, killed_at):
    for step in killed_at:
        with pytest.raises(KilledError):
            run(tmp_path / "run", config(), killed_at=step)
    outcome = run(tmp_path / "run", config())
    name = "checkpoints/model_step_12.pt"
    ours, theirs = (torch.load(folder / name, weights_only=True) for folder in (outcome.folder, finished.folder))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert (outcome.folder / "metrics.jsonl").read_bytes() == (finished.folder / "metrics.jsonl").read_bytes()


def test_a_finished_run_is_not_done_again(finished, out_dir):
    before = (finished.folder / "metrics.jsonl").stat().st_mtime_ns
    assert run(finished.folder, config()).finished
    assert (finished.folder / "metrics.jsonl").stat().st_mtime_ns == before


def test_the_folder_of_another_configuration_is_refused(finished):
    with pytest.raises(SpdToolsError, match="another configuration"):
        run(finished.folder, config(seed=1))


def test_how_often_something_is_written_is_no_other_configuration():
    assert config(log_freq=7, eval_freq=3, name="other").identity() == config().identity()
    assert config(weight_decay=0.2).identity() != config().identity()


def test_losses_are_those_of_the_next_token():
    target = torch.nn.Embedding(5, 5)
    rows = torch.tensor([[1, 4, 2], [0, 3, 3]])
    losses = next_token_losses(lambda x: (target(x), None), rows).tolist()
    for row in range(2):
        for position in range(2):
            expected = F.cross_entropy(target.weight[rows[row, position]], rows[row, position + 1])
            assert losses[row][position] == pytest.approx(expected.item())


@pytest.mark.parametrize("sizes", [LLAMA, GPT2])
def test_initial_weights_depend_on_the_seed_only(tmp_path, sizes):
    file = tmp_path / "model_config.yaml"
    file.write_text(yaml.safe_dump(sizes | {"vocab_size": 400, "n_layer": 2}))
    modules = []
    for seed in (3, 3, 4):
        modules.append(build_in_repo_target(sizes["model_type"], file).module)
        initialise(modules[-1], 2, seed)
    first, again, other = (module.state_dict() for module in modules)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["wte.weight"], other["wte.weight"])
    assert first["lm_head.weight"].data_ptr() == first["wte.weight"].data_ptr()
    assert first["wte.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert first["h.0.mlp.down_proj.weight"].std() == pytest.approx(0.01, rel=0.3)


def test_gpt2_learns_texts_of_a_file(out_dir, tmp_path):
    stories = Stories(1)
    texts = [{"text": stories.story(number).text} for number in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(text) + "\n" for text in texts))
    story_vocabulary().tokenizer().save(str(tmp_path / "tokenizer.json"))
    data = {"source": str(tmp_path / "texts.jsonl"), "tokenizer": str(tmp_path / "tokenizer.json"), "seq_len": 24}
    settings = config(model=GPT2 | {"vocab_size": 949}, data=data, steps=6)
    outcome = run(tmp_path / "run", settings)
    found = records(outcome.folder)
    assert found[-1].keys() == {"split", "step", "held_out_loss", "held_out_perplexity"}
    assert found[-1]["held_out_loss"] < found[0]["loss"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": LLAMA | {"vocab_size": 900}}, "vocab_size is 900; make it 9"),
        ({"model": LLAMA | {"vocab_size": 949, "block_size": 16}}, "longer than the model's block_size 16"),
        ({"data": DATA | {"source": "x"}}, "either stories or a source"),
        ({"data": {"seq_len": 8}}, "either stories or a source"),
        ({"model": {"model_type": "LlamaSimpleMPL"}}, "did you mean LlamaSimpleMLP"),
        ({"stepz": 3}, "stepz"),
        ({"name": "../away"}, "name"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_a_sentence(out_dir, tmp_path, changes, said):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config().model_dump(mode="json") | changes))
    with pytest.raises(SpdToolsError, match=said):
        run(tmp_path / "run", read_pretrain_config(str(file)))


def test_a_loss_that_is_not_finite_stops_training(out_dir, tmp_path):
    with pytest.raises(SpdToolsError, match="diverged"):
        run(tmp_path / "run", config(lr_schedule={"start_val": 1e30}, grad_clip_norm=None))


def test_an_unknown_name_is_refused():
    with pytest.raises(SpdToolsError, match="did you mean story"):
        read_pretrain_config("storys")


def test_configurations_of_the_package_fit_their_data():
    for name in pretrain_names():
        settings = read_pretrain_config(name)
        assert settings.name == name
        if settings.data.stories is not None:
            assert settings.model["vocab_size"] == len(story_vocabulary())


def test_the_command_trains_and_says_where(out_dir, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config(steps=2).model_dump(mode="json")))
    assert main(["pretrain", str(file), "--cpu", "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["finished"] is True
    assert outcome["folder"].startswith(str(out_dir / "runs" / "pretrain-tiny-"))


def test_the_command_lists_names(capsys):
    assert main(["pretrain", "--list"]) == 0
    assert "story" in capsys.readouterr().out.splitlines()
    assert main(["pretrain"]) == 1
