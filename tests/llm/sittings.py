"""Runs sittings that can be killed: a process that has imported everything forks one per line of its standard input.

Says the process id when it has begun, and how it ended when it has.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

FAULT = "between answer and commit"
BATCH_FAULT = "between a batch and its id"


class Sittings:
    """The other end of it."""

    def __enter__(self) -> Sittings:
        tests = str(Path(__file__).parent.parent)
        self._process = subprocess.Popen(
            [sys.executable, __file__, tests], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert self._read() == "ready"
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def begin(self, **settings: Any) -> int:
        """Start a sitting; its process."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(settings) + "\n")
        self._process.stdin.flush()
        return int(self._read())

    def end(self) -> int:
        """Wait for it; the signal that killed it, or 0."""
        return int(self._read())

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def main() -> None:
    sys.path.insert(0, sys.argv[1])
    import anthropic
    import httpx2  # noqa: F401
    from llm.asking import ask  # noqa: F401

    assert anthropic.AsyncAnthropic.messages
    print("ready", flush=True)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            asyncio.run(sit(**json.loads(line)))
            os._exit(0)
        print(child, flush=True)
        _, status = os.waitpid(child, 0)
        print(os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status), flush=True)


async def sit(n_calls: int, max_concurrent: int, fault: str | None, after: int = 0) -> None:
    from llm.asking import ask, calls

    from spd_tools.llm import Ledger

    how = "one by one"
    if fault == FAULT:
        fail_at_settle(after)
    elif fault == BATCH_FAULT:
        fail_at_batch_id()
        how = "batches"
    await ask(Ledger.open("run", "f" * 64), calls(n_calls), how, max_concurrent=max_concurrent)


def fail_at_settle(after: int) -> None:
    """Die when an answer is here, and about to be stored."""
    from spd_tools.llm import requests

    settle = requests.settle
    n_settled = 0

    def dying(connection: Any, seq: int, outcome: Any) -> str:
        nonlocal n_settled
        n_settled += outcome.state == "answered"
        if n_settled > after:
            os.kill(os.getpid(), signal.SIGKILL)
        return settle(connection, seq, outcome)

    requests.settle = dying


def fail_at_batch_id() -> None:
    """Die when a batch has been created, and its id is about to be stored."""
    from spd_tools.llm import batch_rows

    batch_rows.created = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main()
