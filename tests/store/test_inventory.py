import json
import os

import pytest
from reference_store import random_input, write_reference_store

from spd_tools.errors import SpdToolsError
from spd_tools.settings import Settings
from spd_tools.store.inventory import find_run, harvests_of, remove_harvests, stored_harvests, unfinished_harvest


def settings() -> Settings:
    return Settings.from_environment()


def add(run_id="run-a", harvest_id="h1", changed=1000):
    folder = settings().harvest(run_id, harvest_id)
    write_reference_store(folder, random_input(rows=2), run_id=run_id, harvest_id=harvest_id)
    os.utime(folder / "manifest.json", (changed, changed))
    return folder


def add_unfinished(run_id="run-a", harvest_id="u1", reference=None):
    folder = settings().harvest(run_id, harvest_id)
    (folder / "shards").mkdir(parents=True)
    if reference is not None:
        described = {"run_id": run_id, "reference": reference, "fingerprint": "f", "layers": [], "vocab_size": 1}
        kinds = {"gating_kind": "activation", "ranking_kind": "activation", "kinds": ["activation"]}
        (folder / "plan.json").write_text(json.dumps({"decomposition": described | kinds}))
    (folder / "shards" / "state").write_bytes(bytes(100))
    return folder


def test_nothing_is_an_empty_list():
    assert stored_harvests(settings()) == []


def test_harvests_come_by_run_newest_first():
    add("run-b", "old", 10)
    add("run-b", "new", 20)
    add("run-a", "only", 5)
    found = [(harvest.run_id, harvest.harvest_id) for harvest in stored_harvests(settings())]
    assert found == [("run-a", "only"), ("run-b", "new"), ("run-b", "old")]


def test_an_unfinished_harvest_is_listed_with_its_size():
    add_unfinished()
    [harvest] = stored_harvests(settings())
    assert (harvest.state, harvest.bytes, harvest.manifest) == ("unfinished", 100, None)


def test_a_damaged_manifest_is_listed_with_its_problem():
    (add() / "manifest.json").write_text("{")
    [harvest] = stored_harvests(settings())
    assert harvest.state == "unreadable"
    assert harvest.problem is not None
    assert "torn" in harvest.problem


def test_the_only_run_needs_no_name():
    add()
    assert find_run(settings(), None) == "run-a"


def test_several_runs_are_named():
    add("run-a")
    add("run-b")
    with pytest.raises(SpdToolsError, match="run-a, run-b"):
        find_run(settings(), None)


def test_no_harvest_at_all():
    with pytest.raises(SpdToolsError, match="There is no harvest"):
        find_run(settings(), None)


def test_an_unknown_run_names_the_known():
    add()
    with pytest.raises(SpdToolsError, match=r"'nope' has been harvested; the harvested runs are run-a\."):
        find_run(settings(), "nope")


def test_a_run_goes_by_its_reference(tmp_path, monkeypatch):
    run = tmp_path / "some" / "run"
    run.mkdir(parents=True)
    rename_reference(add(), str(run))
    monkeypatch.chdir(tmp_path)
    assert find_run(settings(), "some/run") == "run-a"


def test_a_reference_of_two_runs_is_refused():
    rename_reference(add("run-a"), "wandb:e/p/r")
    rename_reference(add("run-b"), "wandb:e/p/r")
    with pytest.raises(SpdToolsError, match="several runs; name one of run-a, run-b"):
        find_run(settings(), "wandb:e/p/r")


def test_a_mistyped_run_is_guessed():
    add("run-a")
    with pytest.raises(SpdToolsError, match=r"did you mean run-a\?"):
        find_run(settings(), "run_a")


def test_an_unfinished_run_goes_by_its_reference_too(tmp_path):
    add("other")
    add_unfinished(reference=str(tmp_path))
    assert find_run(settings(), str(tmp_path)) == "run-a"
    assert [harvest.harvest_id for harvest in harvests_of(settings(), str(tmp_path))] == ["u1"]


@pytest.mark.parametrize("plan", ["{", "[]", '{"decomposition": {"reference": "wandb:e/p/r"}}'])
def test_a_damaged_plan_does_not_hide_the_others(plan):
    (add_unfinished("run-b") / "plan.json").write_text(plan)
    rename_reference(add(), "wandb:e/p/r")
    assert find_run(settings(), "wandb:e/p/r") == "run-a"


def test_the_only_unfinished_harvest_needs_no_id():
    add()
    folder = add_unfinished(reference="wandb:e/p/r")
    assert unfinished_harvest(settings(), "run-a") == folder
    assert unfinished_harvest(settings(), "wandb:e/p/r") == folder


def test_one_of_several_unfinished_harvests_must_be_named():
    add_unfinished(harvest_id="u1")
    folder = add_unfinished(harvest_id="u2")
    with pytest.raises(SpdToolsError, match=r"run-a has 2 unfinished harvests: .*; choose one with --harvest"):
        unfinished_harvest(settings(), "run-a")
    assert unfinished_harvest(settings(), "run-a", "u2") == folder


def test_a_finished_harvest_is_no_unfinished_one():
    add(harvest_id="h1")
    with pytest.raises(SpdToolsError, match="run-a has no unfinished harvest; "):
        unfinished_harvest(settings(), "run-a")
    add_unfinished(harvest_id="u1")
    with pytest.raises(SpdToolsError, match=r"no unfinished harvest 'h1' \(unfinished ones: u1\)"):
        unfinished_harvest(settings(), "run-a", "h1")


def rename_reference(folder, reference):
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace(f'"reference": "{folder.parent.name}"', f'"reference": "{reference}"'))


def test_one_harvest_of_a_run():
    add(harvest_id="h1")
    add(harvest_id="h2")
    assert [harvest.harvest_id for harvest in harvests_of(settings(), "run-a", "h2")] == ["h2"]


def test_an_unknown_harvest_names_the_known():
    add(harvest_id="h1")
    with pytest.raises(SpdToolsError, match="does not have harvest 'zzz'; its harvests: h1"):
        harvests_of(settings(), "run-a", "zzz")


def test_removing_one_harvest_keeps_the_others():
    add(harvest_id="h1")
    kept = add(harvest_id="h2")
    remove_harvests(harvests_of(settings(), "run-a", "h1"), settings())
    assert [harvest.folder for harvest in stored_harvests(settings())] == [kept]


def test_removing_the_last_one_removes_the_run():
    add()
    add_unfinished()
    remove_harvests(harvests_of(settings(), "run-a"), settings())
    assert list(settings().harvests_dir.iterdir()) == []
    assert [path for path in settings().out_dir.iterdir() if path != settings().harvests_dir] == []
