"""A small harvest of the planted decomposition, jobs as forks, and a stand-in of the API that knows its rules."""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import ExitStack
from functools import cache

import pytest
from launch.forks import use_forks
from llm.stand_in import KEY, StandIn
from planted_store import ROWS, make_planted
from readme_model import RuleKnower
from threads import one_thread_each

from spd_tools.cli import postprocess
from spd_tools.cli.arguments import Parser
from spd_tools.decompositions import planted as planted_package
from spd_tools.harvest import pipeline as harvesting
from spd_tools.launch import run_task

one_thread = pytest.fixture(scope="session", autouse=True)(one_thread_each)


@pytest.fixture(scope="session")
def planted_folder(tmp_path_factory):
    """An SPD_OUT_DIR with the planted decomposition's harvest."""
    folder = tmp_path_factory.mktemp("pipeline")
    make_planted(folder)
    return folder


@pytest.fixture
def planted(planted_folder, out_dir, monkeypatch):
    """The test's own copy of the planted decomposition's harvest; its id."""
    shutil.copytree(planted_folder, out_dir, copy_function=shutil.copy)
    [harvest] = (out_dir / "harvest/planted").iterdir()
    return harvest.name


@pytest.fixture(autouse=True)
def schedulers(monkeypatch):
    """No program is started: processes are forks of the test's."""
    monkeypatch.setattr(harvesting, "PLANTED_ROWS", ROWS)
    monkeypatch.setattr(planted_package, "load_planted", cache(planted_package.load_planted))
    monkeypatch.setattr(run_task, "REPORT_SECONDS", 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    found = use_forks(monkeypatch)
    yield found
    for process in found.started:
        process.send_signal(signal.SIGKILL)


@pytest.fixture(scope="session")
def knower():
    return RuleKnower()


@pytest.fixture
def serve(monkeypatch, knower):
    """Start a stand-in; ``rule(asked, honest)`` may answer otherwise than honestly."""
    with ExitStack() as stack:

        def start(rule=lambda asked, honest: honest(asked)):
            api = stack.enter_context(StandIn(lambda asked: rule(asked, knower)))
            monkeypatch.setenv("ANTHROPIC_BASE_URL", api.url)
            monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
            return api

        yield start


@pytest.fixture
def run(capsys):
    """Run `postprocess` in this process; returns (stdout, stderr)."""

    def run(*argv):
        parser = Parser()
        parser.set_defaults(json=False)
        postprocess.add_commands(parser.add_subparsers())
        args = parser.parse_args(["postprocess", *map(str, argv)])
        args.handler(args)
        return tuple(capsys.readouterr())

    return run


@pytest.fixture
def run_json(run):
    return lambda *argv: json.loads(run(*argv, "--json")[0])
