"""An MCP server as a process, and its messages line by line."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from integration.processes import COMMAND, DEADLINE


class Wire:
    """A server over its stdin and stdout."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._sent = 0
        self.send(
            "initialize",
            protocolVersion="2025-11-25",
            capabilities={},
            clientInfo={"name": "test", "version": "0"},
        )
        self.receive()
        self._write({"method": "notifications/initialized"})

    def send(self, method: str, **params: Any) -> int:
        """Send a request without waiting for what becomes of it; returns its id."""
        self._sent += 1
        self._write({"id": self._sent, "method": method, "params": params})
        return self._sent

    def call(self, name: str, **arguments: Any) -> int:
        """Call a tool, without waiting."""
        return self.send("tools/call", name=name, arguments=arguments)

    def receive(self) -> dict[str, Any]:
        """The next answer, whatever it answers."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the server ended"
        message = json.loads(line)
        assert message["jsonrpc"] == "2.0"
        return message

    def text(self, name: str, **arguments: Any) -> str:
        """Call a tool and wait for its text."""
        asked = self.call(name, **arguments)
        message = self.receive()
        assert message["id"] == asked
        assert not message["result"].get("isError"), message
        return message["result"]["content"][0]["text"]

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"jsonrpc": "2.0"} | message) + "\n")
        self.process.stdin.flush()


@contextmanager
def served(out_dir: Path) -> Iterator[Wire]:
    """A server that is killed in the end."""
    process = subprocess.Popen(
        [COMMAND, "mcp"],
        env=os.environ | {"SPD_OUT_DIR": str(out_dir), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield Wire(process)
        finally:
            process.kill()
            process.wait(DEADLINE)
