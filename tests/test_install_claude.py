import json
import os
import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spd_tools.errors import SpdToolsError
from spd_tools.install_claude import Target, carry_out, plan_install, plan_removal, server_entry, skills

ENTRY = {"command": "spd-tools-of-this-test", "args": ["mcp"], "alwaysLoad": True}
OTHERS = {"numStartups": 3, "mcpServers": {"other": {"command": "x", "args": ["é"]}}, "z": [1, {"a": None}]}


def tree(folder):
    """Everything below a folder: path -> content, None for folders."""
    return {
        str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def install(target, entry=ENTRY):
    carry_out(plan_install(target, entry))


def remove(target):
    plan = plan_removal(target)
    carry_out(plan)
    return plan


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


@pytest.fixture
def target(project):
    return Target.project(project)


def test_an_empty_project_gets_the_server_and_every_skill(target):
    install(target)
    assert json.loads(target.config.read_text()) == {"mcpServers": {"spd-tools": ENTRY}}
    for path, content in skills().items():
        assert (target.folder / "skills" / path).read_bytes() == content


def test_there_are_four_skills():
    assert list(skills()) == [f"{name}/SKILL.md" for name in ("harvest", "investigate", "label", "overview")]


def test_a_second_time_there_is_nothing_to_change(target):
    install(target)
    assert plan_install(target, ENTRY).changes == []


def test_removal_leaves_an_empty_project_empty(project, target):
    install(target)
    remove(target)
    assert tree(project) == {}


@pytest.mark.parametrize("text", ["", "{}", '{"mcpServers": {}}', json.dumps(OTHERS), json.dumps(OTHERS, indent="\t")])
def test_what_others_have_keeps_its_value_and_order(target, text):
    target.config.write_text(text)
    before = json.loads(text or "{}")
    install(target)
    merged = json.loads(target.config.read_text())
    assert merged["mcpServers"].pop("spd-tools") == ENTRY
    assert merged == before | {"mcpServers": before.get("mcpServers", {})}
    assert list(merged)[: len(before)] == list(before)
    remove(target)
    assert json.loads(target.config.read_text()) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(
    settings_of_others=st.dictionaries(st.text(max_size=5), json_values, max_size=4),
    servers=st.none() | st.dictionaries(st.sampled_from(["a", "b"]), json_values),
    indent=st.sampled_from([None, 1, 2, 4, "\t"]),
    escaped=st.booleans(),
)
def test_removal_after_installation_changes_no_value(target, settings_of_others, servers, indent, escaped):
    document = settings_of_others | ({} if servers is None else {"mcpServers": servers})
    target.config.write_text(json.dumps(document, indent=indent, ensure_ascii=escaped), encoding="utf-8")
    install(target)
    remove(target)
    assert json.loads(target.config.read_text(encoding="utf-8")) == document
    assert not target.folder.exists()


def test_indented_settings_come_back_byte_for_byte(target):
    target.config.write_text(json.dumps(OTHERS, indent=4, ensure_ascii=False) + "\n", encoding="utf-8")
    before = target.config.read_bytes()
    install(target)
    remove(target)
    assert target.config.read_bytes() == before


def test_half_a_surrogate_pair_survives(target):
    target.config.write_text('{"a": "\\ud800"}')
    install(target)
    assert json.loads(target.config.read_text())["a"] == "\ud800"


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", "null", '{"a": 1, "a": 2}', '{"a": NaN}', '{"a": 1e999}', '{"mcpServers": [1]}', "[" * 100_000],
)
def test_settings_that_cannot_be_merged_are_refused_in_one_sentence(target, text):
    target.config.write_text(text)
    with pytest.raises(SpdToolsError, match=r"\.mcp\.json") as refusal:
        plan_install(target, ENTRY)
    assert "\n" not in str(refusal.value)
    assert "run again" in str(refusal.value)


def test_another_server_of_the_same_name_is_not_overwritten(target):
    target.config.write_text('{"mcpServers": {"spd-tools": {"command": "mine"}}}')
    with pytest.raises(SpdToolsError, match="another server called spd-tools"):
        plan_install(target, ENTRY)


def test_another_skill_of_the_same_name_is_not_overwritten(target):
    theirs = target.folder / "skills" / "label" / "SKILL.md"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("theirs")
    with pytest.raises(SpdToolsError, match="not ours to overwrite"):
        plan_install(target, ENTRY)


def test_a_command_that_a_skill_hides_is_mentioned(target):
    command = target.folder / "commands" / "label.md"
    command.parent.mkdir(parents=True)
    command.write_text("theirs")
    [remark] = plan_install(target, ENTRY).remarks
    assert "label.md is hidden" in remark


def test_a_new_version_replaces_what_the_old_one_wrote(project, target, monkeypatch):
    newer = skills()
    monkeypatch.setattr("spd_tools.install_claude.skills", lambda: dict.fromkeys(newer, b"older"))
    install(target, {"command": "older"})
    monkeypatch.undo()
    install(target)
    assert (target.folder / "skills" / "label" / "SKILL.md").read_bytes() == newer["label/SKILL.md"]
    assert json.loads(target.config.read_text())["mcpServers"] == {"spd-tools": ENTRY}
    remove(target)
    assert tree(project) == {}


@pytest.mark.parametrize("done", range(6))
def test_an_interrupted_installation_can_be_finished_and_removed(project, target, done):
    plan = plan_install(target, ENTRY)
    assert len(plan.changes) == 6  # record, settings, four skills
    carry_out(type(plan)(plan.changes[:done], [], []))
    install(target)
    assert plan_install(target, ENTRY).changes == []
    remove(target)
    assert tree(project) == {}


def test_what_was_changed_since_is_kept(target):
    install(target)
    skill = target.folder / "skills" / "label" / "SKILL.md"
    skill.write_text("changed")
    target.config.write_text('{"mcpServers": {"spd-tools": {"command": "changed"}}}')
    plan = remove(target)
    assert skill.read_text() == "changed"
    assert json.loads(target.config.read_text())["mcpServers"] == {"spd-tools": {"command": "changed"}}
    assert len(plan.remarks) == 2


def test_what_was_there_before_is_not_removed(target):
    same = target.folder / "skills" / "label" / "SKILL.md"
    same.parent.mkdir(parents=True)
    same.write_bytes(skills()["label/SKILL.md"])
    install(target)
    remove(target)
    assert same.exists()


def test_other_files_in_our_folders_are_kept(target):
    install(target)
    (target.folder / "skills" / "label" / "notes.txt").write_text("theirs")
    remove(target)
    assert tree(target.folder) == {"skills": None, "skills/label": None, "skills/label/notes.txt": b"theirs"}


def test_removing_what_was_never_installed_is_refused(target):
    with pytest.raises(SpdToolsError, match="has put nothing into"):
        plan_removal(target)


@pytest.mark.parametrize("path", ["../precious", "skills/../../precious/SKILL.md", "/precious"])
def test_a_record_cannot_name_files_elsewhere(target, path):
    target.folder.mkdir()
    target.record.write_text(json.dumps({"files": {path: ["0" * 64]}}))
    with pytest.raises(SpdToolsError, match="not what install-claude writes"):
        plan_removal(target)


def test_a_file_that_changes_after_the_plan_was_shown_is_left_alone(target):
    plan = plan_install(target, ENTRY)
    target.config.write_text('{"new": 1}')
    with pytest.raises(SpdToolsError, match="just been changed"):
        carry_out(plan)
    assert target.config.read_text() == '{"new": 1}'


def test_permissions_and_links_of_the_settings_are_kept(project, target):
    real = project / "dotfiles.json"
    real.write_text('{"secret": 1}')
    real.chmod(0o600)
    target.config.symlink_to(real)
    install(target)
    assert target.config.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600
    assert "spd-tools" in json.loads(real.read_text())["mcpServers"]


def test_a_failed_write_leaves_the_settings_as_they_were(target, monkeypatch):
    target.config.write_text('{"a": 1}')

    def fail(*_):
        raise OSError(28, "No space left on device")

    plan = plan_install(target, ENTRY)
    target.folder.mkdir()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(SpdToolsError, match="No space left"):
        carry_out(plan)
    assert target.config.read_text() == '{"a": 1}'


def test_user_settings_lie_in_the_home_or_where_claude_code_was_told(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Target.user({}) == Target(tmp_path / ".claude.json", tmp_path / ".claude")
    moved = tmp_path / "moved"
    assert Target.user({"CLAUDE_CONFIG_DIR": str(moved)}) == Target(moved / ".claude.json", moved)


def test_a_missing_project_is_refused(tmp_path):
    with pytest.raises(SpdToolsError, match="There is no directory"):
        Target.project(tmp_path / "none")


def test_the_server_is_started_from_this_installation():
    entry = server_entry()
    assert os.access(entry["command"], os.X_OK)
    assert entry["args"] == ["mcp"]
