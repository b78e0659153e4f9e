"""What clients read of this repository before anything runs."""

import json
import os
import re
import subprocess
import tomllib

import pytest
import yaml
from installations import ROOT

from spd_tools.install_claude import skills

NAMES = ["harvest", "investigate", "label", "overview"]
PREFIXES = ("mcp__spd-tools__", "mcp__plugin_spd-tools_spd-tools__")


def manifest(path):
    return json.loads((ROOT / path).read_text())


def front_matter(path):
    """(fields, body) of a Markdown file that begins with YAML between lines of three dashes."""
    _, fields, body = re.split(r"^---$\n", path.read_text(), maxsplit=2, flags=re.MULTILINE)
    return yaml.safe_load(fields), body


def skill(name):
    return front_matter(ROOT / "skills" / name / "SKILL.md")


def command(name):
    return front_matter(ROOT / ".claude" / "commands" / f"{name}.md")


def test_there_is_one_version():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    registry = manifest("server.json")
    plugin = manifest(".claude-plugin/plugin.json")
    found = [plugin["version"], registry["version"], *(package["version"] for package in registry["packages"])]
    assert found == [version] * 3


def test_the_marketplace_offers_this_plugin_from_here():
    [offer] = manifest(".claude-plugin/marketplace.json")["plugins"]
    plugin = manifest(".claude-plugin/plugin.json")
    assert (offer["name"], offer["source"], offer["description"]) == (plugin["name"], "./", plugin["description"])


def test_the_registry_entry_is_one_that_the_registry_takes():
    entry = manifest("server.json")
    [package] = entry["packages"]
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", entry["name"])
    assert 1 <= len(entry["description"]) <= 100
    assert (package["registryType"], package["identifier"], package["runtimeHint"]) == ("pypi", "spd-tools", "uvx")
    assert package["transport"] == {"type": "stdio"}
    assert [argument["value"] for argument in package["packageArguments"]] == ["mcp"]


def test_the_readme_claims_the_name_in_the_registry():
    assert f"mcp-name: {manifest('server.json')['name']}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("path", [".mcp.json", ".claude-plugin/plugin.json"])
def test_tools_are_offered_at_once_and_the_launcher_exists(path):
    [(name, server)] = manifest(path)["mcpServers"].items()
    launcher = ROOT / server["command"].removeprefix("${CLAUDE_PLUGIN_ROOT}/")
    assert name == "spd-tools"
    assert server["alwaysLoad"] is True
    assert os.access(launcher, os.X_OK)


def test_there_is_a_skill_and_a_command_for_each():
    assert sorted(path.parent.name for path in ROOT.glob("skills/*/SKILL.md")) == NAMES
    assert sorted(path.stem for path in ROOT.glob(".claude/commands/*.md")) == NAMES


def test_the_package_has_the_same_skills():
    assert skills() == {f"{name}/SKILL.md": (ROOT / "skills" / name / "SKILL.md").read_bytes() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_a_skill_says_what_it_is_and_when_to_use_it(name):
    fields, body = skill(name)
    assert set(fields) == {"name", "description", "argument-hint", "allowed-tools"}
    assert fields["name"] == name
    assert isinstance(fields["argument-hint"], str)
    assert 50 < len(fields["description"]) <= 1024
    assert "$ARGUMENTS" not in body  # commands show the body as a file, in which nothing is filled in


@pytest.mark.parametrize("name", NAMES)
def test_tools_are_allowed_under_both_their_names(name):
    fields, _ = skill(name)
    allowed = [tool.strip() for tool in fields["allowed-tools"].split(",")]
    here, plugin = ([tool.removeprefix(p) for tool in allowed if tool.startswith(p)] for p in PREFIXES)
    assert here == plugin
    assert here
    others = [tool for tool in allowed if not tool.startswith("mcp__")]
    assert others in ([], ["Skill(investigate)", "Skill(spd-tools:investigate)"])


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_server_is_one_sentence(name):
    _, body = skill(name)
    assert "The spd-tools server is not running: install the package" in " ".join(body.split())


@pytest.mark.parametrize("name", NAMES)
def test_a_command_passes_its_arguments_to_the_skill_and_allows_the_same(name):
    fields, body = command(name)
    of_skill, _ = skill(name)
    assert "$ARGUMENTS" in body
    assert f"@skills/{name}/SKILL.md" in body
    assert fields["allowed-tools"] == of_skill["allowed-tools"]
    assert fields["argument-hint"] == of_skill["argument-hint"]


# --- the launcher -----------------------------------------------------------------------------------------------------


@pytest.fixture
def launcher(tmp_path):
    """Runs the launcher of a checkout with nothing but the system's commands on the PATH."""
    start = tmp_path / "checkout" / ".claude-plugin" / "start-server"
    start.parent.mkdir(parents=True)
    start.write_bytes((ROOT / ".claude-plugin" / "start-server").read_bytes())
    start.chmod(0o755)

    def run(path="", **environment):
        env = {"PATH": f"{path}:/usr/bin:/bin", **environment}
        return subprocess.run([start, "--more"], cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


def pretend(folder):
    """A command spd-tools that says who it is and what it is given."""
    folder.mkdir(parents=True)
    command = folder / "spd-tools"
    command.write_text('#!/bin/sh\necho "$0 $*"\n')
    command.chmod(0o755)
    return command


def test_the_launcher_prefers_the_checkout_to_the_path(tmp_path, launcher):
    on_path = pretend(tmp_path / "on path")
    assert launcher(path=str(on_path.parent)).stdout == f"{on_path} mcp --more\n"
    of_checkout = pretend(tmp_path / "checkout" / ".venv" / "bin")
    assert launcher(path=str(on_path.parent)).stdout == f"{of_checkout} mcp --more\n"


def test_the_launcher_runs_nothing_that_lies_in_the_project(tmp_path, launcher):
    pretend(tmp_path / ".venv" / "bin")
    assert launcher(CLAUDE_PROJECT_DIR=str(tmp_path)).returncode == 1


def test_without_an_installation_the_launcher_says_in_one_sentence_what_to_do(launcher):
    failed = launcher()
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert len(failed.stderr.splitlines()) == 1
    assert "pip install spd-tools" in failed.stderr
    assert "make demo" in failed.stderr
