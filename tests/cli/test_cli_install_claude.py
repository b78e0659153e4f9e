import io
import json

import pytest


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / ".mcp.json").write_text('{"mcpServers": {"other": {"command": "x"}}}')
    return folder


def servers(project):
    return sorted(json.loads((project / ".mcp.json").read_text())["mcpServers"])


def test_dry_run_shows_the_change_and_makes_none(run, project):
    code, out, _ = run("install-claude", "--project", project, "--dry-run")
    assert code == 0
    assert any(line.startswith("+") and '"spd-tools"' in line for line in out.splitlines())
    assert "investigate/SKILL.md" in out
    assert servers(project) == ["other"]
    assert not (project / ".claude").exists()


def test_without_a_terminal_or_yes_nothing_is_changed(run, project, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, _, err = run("install-claude", "--project", project)
    assert code == 1
    assert "--yes" in err
    assert servers(project) == ["other"]


@pytest.mark.parametrize(("answer", "expected"), [("y\n", ["other", "spd-tools"]), ("\n", ["other"])])
def test_on_a_terminal_the_changes_are_shown_before_the_question(run, project, monkeypatch, answer, expected):
    monkeypatch.setattr("sys.stdin", Terminal(answer))
    _, _, err = run("install-claude", "--project", project)
    assert err.index('"spd-tools"') < err.index("[y/N]")
    assert servers(project) == expected


def test_yes_installs_and_remove_takes_it_out_again(run, project):
    assert run("install-claude", "--project", project, "--yes")[0] == 0
    assert servers(project) == ["other", "spd-tools"]
    code, _, err = run("install-claude", "--project", project, "--yes")
    assert code == 0
    assert "nothing to change" in err
    assert run("install-claude", "--project", project, "--remove", "--yes")[0] == 0
    assert servers(project) == ["other"]
    assert not (project / ".claude").exists()


def test_the_current_directory_is_the_default_project(run, project, monkeypatch):
    monkeypatch.chdir(project)
    assert run("install-claude", "--yes")[0] == 0
    assert servers(project) == ["other", "spd-tools"]


def test_user_settings(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)
    assert run("install-claude", "--user", "--yes")[0] == 0
    assert "spd-tools" in json.loads((tmp_path / ".claude.json").read_text())["mcpServers"]
    assert (tmp_path / ".claude" / "skills" / "investigate" / "SKILL.md").exists()


def test_as_json(run_json, project):
    document = run_json("install-claude", "--project", project, "--yes")
    assert document["done"] is True
    assert {change["action"] for change in document["changes"]} == {"add", "change"}


def test_broken_settings_are_one_sentence(run, project):
    (project / ".mcp.json").write_text("{")
    code, _, err = run("install-claude", "--project", project, "--yes")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "not valid JSON" in err


def test_settings_cannot_steer_the_terminal(run, project):
    (project / ".mcp.json").write_text('{"a": "\u009b31m\u202e", "mcpServers": {}}', encoding="utf-8")
    _, out, _ = run("install-claude", "--project", project, "--dry-run")
    assert "\u009b" not in out
    assert "\u202e" not in out
