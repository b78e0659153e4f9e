"""The ways in which spd-tools reaches a client: a checkout, a plugin, a wheel."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from programs import Home, claude_command

ROOT = Path(__file__).parents[2]
COMMAND = Path(sys.executable).with_name("spd-tools")
_READ_BY_CLIENTS = (".claude", ".claude-plugin", ".mcp.json", "skills", "README.md", "LICENSE")
_BUILT_FROM = ("pyproject.toml", "README.md", "LICENSE", "spd_tools", "mcp_server", "skills")


@dataclass(frozen=True)
class Place:
    """A project in which Claude Code is started."""

    cwd: Path
    home: Home
    server: list[str]
    """How its settings say that the server is started."""
    prefix: str
    """Of the names that the server's tools have there."""


def files_for_clients(folder: Path) -> Path:
    """What clients read of the repository, copied; returns the folder."""
    return _copy(_READ_BY_CLIENTS, folder)


def in_a_checkout(folder: Path, out_dir: Path) -> Place:
    """As `git clone` and `make demo` leave it."""
    checkout = files_for_clients(folder / "checkout")
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "spd-tools").symlink_to(COMMAND)
    return Place(checkout, Home(folder / "home", out_dir), _server_of(checkout), "mcp__spd-tools__")


def as_a_plugin(folder: Path, out_dir: Path) -> Place:
    """The repository added as a marketplace and its plugin installed; spd-tools itself is on the PATH."""
    repository = files_for_clients(folder / "repository")
    home = Home(folder / "home", out_dir, path=f"{COMMAND.parent}:/usr/bin:/bin")
    claude_command(home, folder, "plugin", "marketplace", "add", repository)
    claude_command(home, folder, "plugin", "install", "spd-tools@spd-tools")
    project = folder / "project"
    project.mkdir()
    launcher = repository / ".claude-plugin" / "start-server"
    return Place(project, home, [str(launcher)], "mcp__plugin_spd-tools_spd-tools__")


def from_a_wheel(folder: Path, out_dir: Path) -> Place:
    """The built wheel in an environment of its own, and `install-claude`. What it depends on comes from this one."""
    source = _copy(_BUILT_FROM, folder / "source")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder, source])
    [wheel] = folder.glob("*.whl")
    environment = folder / "environment"
    _run([sys.executable, "-m", "venv", "--without-pip", environment])
    python = environment / "bin" / "python"
    _run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel])
    [packages] = environment.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{_dependencies()}\n")
    project = folder / "project"
    project.mkdir()
    _run([environment / "bin" / "spd-tools", "install-claude", "--project", project, "--yes"])
    return Place(project, Home(folder / "home", out_dir), _server_of(project), "mcp__spd-tools__")


INSTALLATIONS: dict[str, Callable[[Path, Path], Place]] = {
    "checkout": in_a_checkout,
    "plugin": as_a_plugin,
    "wheel": from_a_wheel,
}


def _copy(names: tuple[str, ...], folder: Path) -> Path:
    folder.mkdir()
    for name in names:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy2(ROOT / name, folder / name)
    return folder


def _server_of(project: Path) -> list[str]:
    server = json.loads((project / ".mcp.json").read_text())["mcpServers"]["spd-tools"]
    return [server["command"], *server["args"]]


def _dependencies() -> Path:
    """The folder of installed packages; those named in .pth files of it, as this one is, do not come along."""
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parents[1]


def _run(command: list[str | Path]) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
