import pytest
from spd_run_builder import small_run
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from spd_tools.decompositions.spd.loader import load_spd_run
from spd_tools.decompositions.spd.tokenizer import find_tokenizer
from spd_tools.errors import SpdToolsError


def save_tokenizer(path, word):
    path.parent.mkdir(parents=True, exist_ok=True)
    Tokenizer(WordLevel({word: 0}, unk_token=word)).save(str(path))


def load(tmp_path, name):
    run = small_run()
    run.config["tokenizer_name"] = name
    return load_spd_run(run.write(tmp_path / "run"))


def test_it_is_read_on_first_use(tmp_path):
    decomposition = load(tmp_path, str(tmp_path / "late.json"))
    with pytest.raises(SpdToolsError, match=r"late\.json of run run-.* cannot be read"):
        _ = decomposition.tokenizer
    save_tokenizer(tmp_path / "late.json", "late")
    assert decomposition.tokenizer.get_vocab() == {"late": 0}


def test_a_file_beside_the_run_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tmp_path / "tok.json", "here")
    save_tokenizer(tmp_path / "run" / "tok.json", "run")
    assert load(tmp_path, "tok.json").tokenizer.get_vocab() == {"run": 0}


def test_a_file_below_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_tokenizer(tmp_path / "tok.json", "here")
    decomposition = load(tmp_path, "tok.json")
    assert decomposition.tokenizer.get_vocab() == {"here": 0}
    assert decomposition.training_data.tokenizer == str(tmp_path / "tok.json")


def test_a_folder_means_its_tokenizer_json(tmp_path):
    save_tokenizer(tmp_path / "run" / "target" / "tokenizer.json", "target")
    assert load(tmp_path, "target").tokenizer.get_vocab() == {"target": 0}


@pytest.mark.parametrize("name", [None, "/nowhere/of/the/trainer/tokenizer.json"])
def test_the_targets_tokenizer_stands_in(tmp_path, name):
    save_tokenizer(tmp_path / "run" / "target" / "tokenizer.json", "target")
    assert load(tmp_path, name).tokenizer.get_vocab() == {"target": 0}


def test_a_hub_name_stays_a_hub_name(tmp_path):
    save_tokenizer(tmp_path / "target" / "tokenizer.json", "target")
    assert find_tokenizer("somebody/tokenizer", tmp_path, tmp_path / "target") == "somebody/tokenizer"


def test_a_run_without_tokenizer(tmp_path):
    with pytest.raises(SpdToolsError, match="names no tokenizer"):
        _ = load(tmp_path, None).tokenizer


def test_a_torn_tokenizer(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "tok.json").write_text("{")
    with pytest.raises(SpdToolsError, match=r"tok\.json of run run-.* cannot be read"):
        _ = load(tmp_path, "tok.json").tokenizer
