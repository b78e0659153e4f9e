"""W&B runs through a local stand-in for the wandb package."""

import os
import shutil
import sys
import types
from pathlib import Path

import pytest
from spd_run_builder import small_run, some_tokens

from spd_tools import load_decomposition
from spd_tools.decompositions.spd.wandb_runs import WandbRun
from spd_tools.errors import SpdToolsError

REFERENCE = "wandb:team/project/abc123"
RUN_NAME = "project-abc123"


class FakeFile:
    def __init__(self, api, root: Path, name: str) -> None:
        self._api, self._path, self.name = api, root / name, name
        self.size = self._path.stat().st_size

    def download(self, root=".", replace=False, exist_ok=False):
        self._api.downloaded.append(self.name)
        goal = Path(root) / self.name
        goal.parent.mkdir(parents=True, exist_ok=True)
        if self.name == self._api.truncates:
            goal.write_bytes(self._path.read_bytes()[: self.size // 2])
        elif self.name == self._api.breaks_at:
            goal.write_bytes(self._path.read_bytes()[: self.size // 2])
            raise ConnectionResetError("connection reset")
        else:
            shutil.copy(self._path, goal)
        return goal.open()


class FakeRun:
    def __init__(self, api, root: Path) -> None:
        self._api, self._root = api, root

    def files(self):
        files = sorted(path for path in self._root.rglob("*") if path.is_file())
        return [FakeFile(self._api, self._root, str(path.relative_to(self._root))) for path in files]


class FakeWandb(types.ModuleType):
    """Serves <cloud>/<entity>/<project>/<id>."""

    def __init__(self, cloud: Path) -> None:
        super().__init__("wandb")
        self.cloud, self.downloaded, self.keys = cloud, [], []
        self.breaks_at = self.truncates = None

    def Api(self):
        self.keys.append(os.environ.get("WANDB_API_KEY"))
        return self

    def run(self, path: str) -> FakeRun:
        if not (self.cloud / path).is_dir():
            raise ValueError(f"Could not find run <Run {path} (not found)>")
        return FakeRun(self, self.cloud / path)


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    fake = FakeWandb(tmp_path / "cloud")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("SPD_OUT_DIR", str(tmp_path / "out"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    run = small_run()
    run.config["pretrained_model_name"] = "wandb:team/pretraining/runs/t1"
    folder = run.write(tmp_path / "cloud" / "team" / "project" / "abc123")
    run.write(folder, "model_5.pth")
    (folder / "wandb-summary.json").write_text("{}")
    target = tmp_path / "cloud" / "team" / "pretraining" / "t1"
    shutil.move(folder / "target", target)
    (target / "final_config.yaml").write_text("{}")
    (target / "checkpoints").mkdir()
    (target / "checkpoints" / "model_step_100.pt").write_bytes(b"weights")
    return fake


@pytest.fixture
def cache(tmp_path, wandb) -> Path:
    return tmp_path / "out" / "runs"


def test_a_run_is_downloaded_and_loaded(wandb, cache):
    decomposition = load_decomposition(REFERENCE)
    assert decomposition.run_id == RUN_NAME
    assert decomposition.reference == REFERENCE
    assert decomposition(some_tokens()).logits.isfinite().all()
    assert sorted(path.name for path in cache.iterdir()) == ["pretraining-t1", RUN_NAME]


def test_only_what_is_needed_is_downloaded(wandb):
    load_decomposition(REFERENCE)
    # Not the older checkpoint, and not the target's weights, which are in the SPD checkpoint as well.
    assert wandb.downloaded == ["final_config.yaml", "model_10.pth", "model_config.yaml", "final_config.yaml"]


def test_both_forms_are_the_same_run(wandb):
    assert load_decomposition("wandb:team/project/runs/abc123").reference == REFERENCE


def test_the_second_time_needs_no_network(wandb, monkeypatch):
    first = load_decomposition(REFERENCE)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert load_decomposition(REFERENCE).fingerprint == first.fingerprint


@pytest.mark.parametrize("how", ["breaks_at", "truncates"])
@pytest.mark.parametrize("name", ["final_config.yaml", "model_10.pth", "model_config.yaml"])
def test_a_broken_download_leaves_nothing_that_is_taken_for_a_run(wandb, cache, how, name):
    setattr(wandb, how, name)
    with pytest.raises(SpdToolsError, match=r"could not be downloaded \(.*\); check") as error:
        load_decomposition(REFERENCE)
    assert "\n" not in str(error.value)
    left = {path.name for path in cache.iterdir()}
    assert left == ({RUN_NAME} if name == "model_config.yaml" else set())
    setattr(wandb, how, None)
    assert load_decomposition(REFERENCE).run_id == RUN_NAME


def torn_checkpoint(folder):
    (folder / "model_10.pth").write_bytes((folder / "model_10.pth").read_bytes()[:-200])


def torn_config(folder):
    (folder / "final_config.yaml").write_text("a: [")


def no_checkpoint(folder):
    (folder / "model_10.pth").unlink()


def torn_safetensors(folder):
    (folder / "model_10.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")


@pytest.mark.parametrize("damage", [torn_checkpoint, torn_config, no_checkpoint, torn_safetensors])
def test_a_broken_folder_of_another_program_is_replaced(wandb, cache, damage):
    fingerprint = load_decomposition(REFERENCE).fingerprint
    damage(cache / RUN_NAME)
    assert load_decomposition(REFERENCE).fingerprint == fingerprint
    assert sorted(path.name for path in (cache / RUN_NAME).iterdir()) == ["final_config.yaml", "model_10.pth"]
    assert sorted(path.name for path in cache.iterdir()) == ["pretraining-t1", RUN_NAME]


def test_a_whole_folder_of_another_program_is_used(wandb, cache, tmp_path):
    shutil.copytree(tmp_path / "cloud" / "team" / "project" / "abc123", cache / RUN_NAME)
    shutil.copytree(tmp_path / "cloud" / "team" / "pretraining" / "t1", cache / "pretraining-t1")
    load_decomposition(REFERENCE)
    assert wandb.downloaded == []


def test_an_unknown_run_is_named(wandb, cache):
    with pytest.raises(SpdToolsError, match=r"wandb:team/project/nothing could not be downloaded .*not found"):
        load_decomposition("wandb:team/project/nothing")
    assert list(cache.iterdir()) == []


def test_a_run_without_checkpoint_is_named(wandb, tmp_path):
    (tmp_path / "cloud" / "team" / "project" / "empty").mkdir()
    with pytest.raises(SpdToolsError, match=r"wandb:team/project/empty holds no final_config\.yaml"):
        load_decomposition("wandb:team/project/empty")


def test_a_target_run_without_configuration_is_named(wandb, tmp_path):
    (tmp_path / "cloud" / "team" / "pretraining" / "t1" / "model_config.yaml").unlink()
    with pytest.raises(SpdToolsError, match=r"wandb:team/pretraining/t1 holds no model_config\.yaml"):
        load_decomposition(REFERENCE)


def test_the_targets_tokenizer_comes_along(wandb, cache, tmp_path):
    target = tmp_path / "cloud" / "team" / "pretraining" / "t1"
    (target / "tokenizer.json").write_text("{}")
    load_decomposition(REFERENCE)
    assert (cache / "pretraining-t1" / "tokenizer.json").is_file()


def test_credentials_come_from_dotenv(wandb, tmp_path):
    (tmp_path / "cwd" / ".env").write_text("WANDB_API_KEY=from-file\n")
    try:
        load_decomposition(REFERENCE)
    finally:
        os.environ.pop("WANDB_API_KEY", None)
    assert set(wandb.keys) == {"from-file"}


def test_the_environment_wins_over_dotenv(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "from-environment")
    (tmp_path / "cwd" / ".env").write_text("WANDB_API_KEY=from-file\n")
    load_decomposition(REFERENCE)
    assert set(wandb.keys) == {"from-environment"}


def test_refused_credentials(wandb, monkeypatch):
    def refuse():
        raise RuntimeError("api_key not configured")

    monkeypatch.setattr(wandb, "Api", refuse)
    with pytest.raises(SpdToolsError, match="WANDB_API_KEY"):
        load_decomposition(REFERENCE)


def test_a_missing_package_is_named(wandb, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(SpdToolsError, match=r"the wandb package is not installed; install it with"):
        load_decomposition(REFERENCE)


@pytest.mark.parametrize(
    "text",
    ["wandb:", "wandb:a/b", "wandb:a/b/c/d", "wandb:a/b/../c", "wandb:a/../c", "wandb:a/b/runs", "wandb:a/b/c d/"],
)
def test_malformed_references(text):
    if text == "wandb:a/b/runs":
        assert str(WandbRun.parse(text)) == text  # a run may be called that
        return
    with pytest.raises(SpdToolsError, match="write wandb:ENTITY/PROJECT/RUN_ID"):
        WandbRun.parse(text)


def test_other_references_are_no_wandb_runs():
    assert WandbRun.parse("runs/abc") is None
