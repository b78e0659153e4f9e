"""A server in this process, and harvests for it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

import anyio
import pytest
from mcp import Client
from reference_store import random_input, write_reference_store
from threads import one_thread_each

from mcp_server.server import make_server
from spd_tools.harvest import HarvestRequest, pipeline, run_harvest
from spd_tools.settings import Settings

ROWS = 512


@dataclass(frozen=True)
class Answer:
    """What a tool answered."""

    text: str
    is_error: bool


@pytest.fixture(scope="session")
def planted_harvests(tmp_path_factory):
    """The folder `harvest` of an SPD_OUT_DIR with the planted decomposition in it."""
    folder = tmp_path_factory.mktemp("mcp")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPD_OUT_DIR", str(folder))
        patch.setattr(pipeline, "PLANTED_ROWS", ROWS)
        run_harvest(HarvestRequest(run="planted", n_batches=None, batch_size=64), progress=False)
    return folder / "harvest"


one_thread = pytest.fixture(scope="session", autouse=True)(one_thread_each)


@pytest.fixture
def planted(planted_harvests, out_dir):
    """An SPD_OUT_DIR with the planted decomposition's harvest, which tests leave as it is, and no notes yet."""
    out_dir.mkdir()
    (out_dir / "harvest").symlink_to(planted_harvests)
    return out_dir


@pytest.fixture
def planted_copy(planted_harvests, out_dir):
    """The same, for tests that change it."""
    shutil.copytree(planted_harvests, out_dir / "harvest")
    return out_dir


@pytest.fixture(scope="session")
def server():
    """One for all: it takes a while to make, and what it keeps open goes by folders, of which each test has its own."""
    return make_server()


@pytest.fixture
def ask(server):
    """Call a tool."""

    def ask(name, **arguments):
        async def once():
            async with Client(server) as client:
                return await client.call_tool(name, arguments)

        result = anyio.run(once)
        [content] = result.content
        assert result.structured_content is None  # clients would show it instead of the text
        return Answer(content.text, bool(result.is_error))

    return ask


@pytest.fixture
def call(ask):
    """Call a tool that must succeed; returns its text."""

    def call(name, **arguments):
        answer = ask(name, **arguments)
        assert not answer.is_error, answer.text
        return answer.text

    return call


@pytest.fixture
def refusal(ask):
    """Call a tool that must refuse; returns why."""

    def refusal(name, **arguments):
        answer = ask(name, **arguments)
        assert answer.is_error, answer.text
        assert not answer.text.endswith(f"Error executing tool {name}"), "a crash, not a refusal"
        return answer.text

    return refusal


class MadeUp:
    """Writes made-up harvests, without a model behind them."""

    key = "h.0.mlp.c_fc:2"

    def __call__(self, run_id, harvest_id, tokenizer=None):
        folder = Settings.from_environment().harvest(run_id, harvest_id)
        given = random_input(0, rows=30)
        write_reference_store(folder, given, run_id=run_id, harvest_id=harvest_id, tokenizer_json=tokenizer)
        return folder


@pytest.fixture
def made_up():
    return MadeUp()
