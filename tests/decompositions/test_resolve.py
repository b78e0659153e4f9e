import os
import subprocess
import sys
from pathlib import Path

import pytest
from spd_run_builder import small_run

import spd_tools
from spd_tools.decompositions.resolve import foreign_format, load_decomposition
from spd_tools.errors import SpdToolsError
from spd_tools.stories import story_vocabulary

FOREIGN = {
    "SAELens": ["cfg.json", "sae_weights.safetensors"],
    "Gemma Scope": ["params.npz"],
    "sparsify": ["cfg.json", "sae.safetensors"],
    "circuit-tracer": ["config.yaml", "layer_0.safetensors"],
    "dictionary_learning": ["ae.pt", "config.json"],
    "Llama Scope": ["final.safetensors"],
}


def touch(folder: Path, names: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize("as_type", [str, Path])
def test_a_path(tmp_path, as_type):
    folder = small_run().write(tmp_path / "run")
    assert load_decomposition(as_type(folder)).reference == str(folder)


def test_a_relative_path_has_an_absolute_reference(tmp_path, monkeypatch):
    folder = small_run().write(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    assert load_decomposition("./run").reference == str(folder)


def test_the_home_folder_is_expanded(tmp_path, monkeypatch):
    folder = small_run().write(tmp_path / "run")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_decomposition("~/run").reference == str(folder)


def test_planted_is_seed_0():
    planted, again, seventh = map(load_decomposition, ("planted", "planted:0", "planted:7"))
    assert planted.fingerprint == again.fingerprint
    assert seventh.fingerprint != planted.fingerprint


def test_the_demo_is_known_by_its_name():
    demo = load_decomposition("demo")
    assert (demo.run_id, demo.reference) == ("demo", "demo")


def test_the_demo_reads_stories():
    demo = load_decomposition("demo")
    assert demo.training_data is not None
    assert (demo.training_data.dataset, demo.training_data.tokenizer) == ("stories:1", None)
    assert demo.vocab_size == len(story_vocabulary())
    assert demo.tokenizer.get_vocab() == story_vocabulary().ids


@pytest.mark.parametrize("text", ["planted:", "planted:x", "planted:-1", "planted:1.5"])
def test_planted_needs_a_seed(text):
    with pytest.raises(SpdToolsError, match=r"write planted or planted:SEED"):
        load_decomposition(text)


@pytest.mark.parametrize("text", ["nowhere", "team/project/run", ""])
def test_nothing_of_that_name(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpdToolsError, match=r"There is no run|holds no model") as error:
        load_decomposition(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", FOREIGN)
def test_dictionaries_are_recognised(tmp_path, name):
    folder = touch(tmp_path / "x", FOREIGN[name])
    with pytest.raises(SpdToolsError, match=f"in {name} form, which is not supported yet"):
        load_decomposition(folder)


@pytest.mark.parametrize("name", FOREIGN)
def test_folders_of_dictionaries_are_recognised(tmp_path, name):
    touch(tmp_path / "x" / "layers.3", FOREIGN[name])
    assert foreign_format(tmp_path / "x") == name


@pytest.mark.parametrize("name", FOREIGN)
def test_a_dictionarys_weights_are_recognised(tmp_path, name):
    folder = touch(tmp_path / "x", FOREIGN[name])
    assert foreign_format(folder / FOREIGN[name][-1]) == name


def test_an_spd_run_is_no_dictionary(tmp_path):
    folder = small_run().write(tmp_path / "run")
    touch(folder, ["config.yaml", "layer_0.safetensors"])
    assert foreign_format(folder) is None


def test_public_names_are_imported_on_first_use():
    assert spd_tools.load_decomposition is load_decomposition
    with pytest.raises(AttributeError, match="nothing"):
        _ = spd_tools.nothing
    code = "import sys, spd_tools; print([m for m in ('torch', 'numpy', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"
