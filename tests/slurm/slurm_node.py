"""A SLURM of one node, and `spd-tools` as it is used there: from a checkout of its own, on the command line."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from spd_tools.launch.status import job_status

REPOSITORY = Path(__file__).resolve().parents[2]
SCRIPT = REPOSITORY / "slurm" / "one-node.sh"
HOOKS = Path(__file__).resolve().with_name("hooks")
DEADLINE = 150.0
"""Seconds after which something is broken; a requeued job has to wait, and machines are shared."""
POLL_SECONDS = 0.2
COMMITTED = 1_750_000_000
"""Time of the commit and of every file in the checkout: archived, kernels that were compiled there are still valid."""
HARVEST = ("planted", "--n-batches", "240", "--batch-size", "1")
"""60 batches for each of four ranks."""

Value = TypeVar("Value")


def wait_for(what: str, condition: Callable[[], Value | None]) -> Value:
    """Ask until the answer is true, and return it."""
    deadline = time.monotonic() + DEADLINE
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about"
        time.sleep(POLL_SECONDS)
    return answer


@dataclass(frozen=True)
class Node:
    """A running one-node SLURM."""

    folder: Path
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "etc/slurm.conf"), "SLURM_NODE_DIR": str(self.folder), **self.settings}

    def script(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(SCRIPT), command],
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def ask(self, *argv: str) -> str:
        """stdout of a SLURM command that must succeed."""
        done = subprocess.run(argv, env=os.environ | self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout


@contextmanager
def running_node(folder: Path, **settings: str) -> Iterator[Node]:
    """A node with ports of its own, gone afterwards.

    Raises:
        RuntimeError: saying why it cannot run here.
    """
    node = Node(folder, {"SLURM_NODE_PORT": str(_free_ports(3)), **settings})
    try:
        up = node.script("up")
        if up.returncode != 0:
            raise RuntimeError(f"no SLURM can be brought up here: {up.stderr.strip().splitlines()[-1]}")
        yield node
    finally:
        node.script("purge")


def _free_ports(n: int) -> int:
    """First of ``n`` consecutive ports that nobody listens on."""
    for first in range(17_000 + os.getpid() % 1000 * 10, 60_000, 10):
        sockets = [socket.socket() for _ in range(n)]
        try:
            for offset, one in enumerate(sockets):
                one.bind(("127.0.0.1", first + offset))
            return first
        except OSError:
            continue
        finally:
            for one in sockets:
                one.close()
    raise RuntimeError("no free ports")


def make_checkout(folder: Path) -> Path:
    """A repository with the files that this one has now, untracked ones included, all committed."""
    listed = _git(REPOSITORY, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        source, target = REPOSITORY / name, folder / name
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)
            os.utime(target, (COMMITTED, COMMITTED), follow_symlinks=False)
    return folder


def commit_all(checkout: Path) -> None:
    """Commit the files and the compiled kernels, without which every worker would compile for ten seconds."""
    _git(checkout, "init", "-q")
    _git(checkout, "add", "--all")
    kernels = [str(path.relative_to(checkout)) for path in checkout.rglob("__pycache__/*.nb[ci]")]
    assert kernels, "the harvest before this compiles them"
    _git(checkout, "add", "--force", *kernels)
    date = f"@{COMMITTED} +0000"
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org", "-c", "commit.gpgsign=false"]
    _git(
        checkout,
        *identity,
        "commit",
        "-q",
        "-m",
        "all",
        variables={"GIT_COMMITTER_DATE": date, "GIT_AUTHOR_DATE": date},
    )


def _git(folder: Path, *arguments: str, variables: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=folder, env=os.environ | (variables or {}), capture_output=True, text=True, check=True
    )
    return done.stdout


@dataclass(frozen=True)
class Desk:
    """Somebody at work: a checkout, a cluster, an SPD_OUT_DIR."""

    checkout: Path
    folder: Path
    node: Node | None = None

    @property
    def out_dir(self) -> Path:
        return self.folder / "spd_out"

    def environment(self) -> dict[str, str]:
        gates = self.folder / "gates"
        gates.mkdir(parents=True, exist_ok=True)
        own = {
            "PYTHONPATH": os.pathsep.join([str(self.checkout), str(HOOKS)]),
            "SPD_OUT_DIR": str(self.out_dir),
            "SPD_TEST_GATES": str(gates),
            "OMP_NUM_THREADS": "1",
            "NO_COLOR": "1",
        }
        return os.environ | own | (self.node.environment if self.node else {})

    def gate(self, name: str) -> Path:
        """A file that the jobs' hooks look at."""
        return self.folder / "gates" / name

    @contextmanager
    def begin(self, *argv: object) -> Iterator[subprocess.Popen[str]]:
        """A command that goes on; killed at the end, if it still does."""
        process = subprocess.Popen(
            [sys.executable, "-m", "spd_tools.cli", *map(str, argv)],
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def try_run(self, *argv: object) -> subprocess.CompletedProcess[str]:
        with self.begin(*argv) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def run(self, *argv: object) -> str:
        """stdout of a command that must succeed."""
        done = self.try_run(*argv)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def close_gate(self, name: str, text: str) -> None:
        """Make the jobs' hooks do something."""
        self.gate(name).parent.mkdir(exist_ok=True)
        self.gate(name).write_text(text)

    def submit(self, *options: object, workers: int = 4) -> str:
        """Queue the harvest; its job's id."""
        argv = ("harvest", *HARVEST, "--n-gpus", workers, "--slurm", "--profile", "one-node", *options, "--json")
        return json.loads(self.run(*argv))["id"]

    def job(self, job_id: str) -> dict[str, Any]:
        return json.loads(self.run("jobs", "show", job_id, "--json"))

    def peek(self, job_id: str) -> dict[str, Any]:
        """The same without a process for each look, which would take the CPU from the jobs."""
        with self.at_work():
            return job_status(job_id).model_dump(mode="json")

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """This process sees the desk's cluster and folder."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in self.environment().items():
                patch.setenv(name, value)
            yield

    def jobs(self) -> list[dict[str, Any]]:
        return json.loads(self.run("jobs", "--json"))

    def queued(self, job_id: str) -> list[str]:
        """What SLURM still has of a job."""
        assert self.node is not None
        lines = self.node.ask("squeue", "--noheader", "--format=%i|%j").splitlines()
        return [line for line in lines if job_id in line]

    @contextmanager
    def all_cpus_taken(self) -> Iterator[None]:
        """Meanwhile nothing that is submitted starts."""
        assert self.node is not None
        blocker = self.node.ask("sbatch", "--parsable", "--exclusive", "--output=/dev/null", "--wrap=exec sleep 600")
        wait_for(
            "the blocker runs",
            lambda: self.node and "RUNNING" in self.node.ask("squeue", "-j", blocker.strip(), "-ho%T"),
        )
        try:
            yield
        finally:
            self.node.ask("scancel", blocker.strip())

    def attempts(self, job_id: str, step: str, rank: int) -> list[dict[str, Any]]:
        """What every attempt at a task said about itself, oldest first."""
        found = sorted((self.out_dir / "jobs" / job_id / "tasks" / step).glob(f"{rank:05d}-*.json"))
        return [json.loads(path.read_text()) for path in found]

    def tasks(self, job_id: str, step: str) -> list[dict[str, Any]]:
        return tasks_of(self.peek(job_id), step)

    def wait(self, job_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until the job is in one of these states; it may not end in any other."""

        def ended() -> dict[str, Any] | None:
            job = self.peek(job_id)
            return job if job["status"] not in ("pending", "running") or job["status"] in statuses else None

        job = wait_for(f"{job_id}: {' or '.join(statuses)}", ended)
        assert job["status"] in statuses, f"{job['status']}: {job['error']}\n{self.run('jobs', 'logs', job_id)}"
        return job

    def store(self, job: dict[str, Any]) -> dict[str, Any]:
        """File -> size and sha256, of the harvest that a finished job made."""
        return json.loads((Path(job["result"]["folder"]) / "manifest.json").read_text())["files"]


def tasks_of(job: dict[str, Any], step: str) -> list[dict[str, Any]]:
    """A step's tasks, by rank."""
    [found] = [one for one in job["steps"] if one["name"] == step]
    return found["tasks"]
