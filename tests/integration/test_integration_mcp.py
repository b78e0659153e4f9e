"""The MCP server as its clients run it: a process that may be killed, jobs that outlive it, HTTP."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sqlite3
import subprocess

import anyio
import httpx2
import pytest
from integration.mcp_wire import served
from integration.processes import COMMAND, DEADLINE, Place, ended, wait_until
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from spd_tools.annotations import Annotations
from spd_tools.launch.status import Job, job_status
from spd_tools.store.reader import open_harvest

KEY = "h.0.mlp.down_proj:13"
TOKEN = "a long random token"
N_TOOLS = 20


@pytest.fixture(scope="module")
def harvests(tmp_path_factory):
    place = Place(tmp_path_factory.mktemp("mcp"))
    place.run_well("harvest", "planted", "--n-batches", 8, "--batch-size", 32)
    return place.folder / "harvest"


@pytest.fixture
def planted(harvests, out_dir):
    """An SPD_OUT_DIR with a harvest and no notes; this process looks into it too."""
    out_dir.mkdir()
    (out_dir / "harvest").symlink_to(harvests)
    return out_dir


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_clients_of_both_protocols_are_served(planted, mode):
    server = StdioServerParameters(command=str(COMMAND), args=["mcp"], env={"SPD_OUT_DIR": str(planted)})

    async def main():
        async with Client(server, mode=mode) as client:
            tools = (await client.list_tools()).tools
            overview = await client.call_tool("overview", {"key": KEY})
            probe = await client.call_tool("probe", {"key": KEY, "texts": ["a blue saw rests"]})
            component = await client.read_resource(f"spd://planted/component/{KEY}")
            prompt = await client.get_prompt("investigate", {"key": KEY})
            return tools, overview, probe, component, prompt

    tools, overview, probe, component, prompt = anyio.run(main)
    assert len(tools) == N_TOOLS
    assert "⟦needle⟧" in overview.content[0].text
    assert probe.content[0].text.startswith("Evidence probe-")
    assert KEY in component.contents[0].text
    assert KEY in prompt.messages[0].content.text


def test_a_client_that_leaves_ends_the_server(planted):
    with served(planted) as wire:
        wire.text("probe", key=KEY, texts=["a blue saw rests"])
        wire.process.stdin.close()
        assert wire.process.wait(DEADLINE) == 0
        assert wire.process.stdout.read() == ""
        assert "Traceback" not in wire.process.stderr.read()


WRITES = {
    "hypothesis": {"action": "add", "key": KEY, "confidence": 0.5, "text": "hypothesis {n}"},
    "label": {"action": "set", "key": KEY, "input_view": "label {n}"},
    "research_log": {"action": "write", "text": "log {n}"},
    "probe": {"key": KEY, "texts": ["a blue saw rests", "row:{n}"]},
    "sweep": {"key": KEY, "tokens": ["saw"], "n_contexts": 4, "n_controls": 19, "seed": "{n}"},
    "direct_effect": {"key": KEY},
    "token_stats": {"key": KEY, "metric": "enrichment"},
    "minimal_context": {"key": KEY, "n_contexts": 2, "n_draws": 2, "seed": "{n}"},
    "interact": {"key": KEY, "first_tokens": ["blue"], "second_tokens": ["saw"], "n_contexts": 2, "seed": "{n}"},
    "generate_and_test": {"key": KEY, "label": "tools", "positives": ["this saw rests"]},
    "correlations": {"key": KEY, "given_token": True, "limit": 1},
    "overview": {"key": KEY},
}


def filled(arguments, n):
    """Arguments of the n-th call: no two write the same."""
    return json.loads(json.dumps(arguments).replace('"{n}"', str(n)).replace("{n}", str(n)))


@pytest.mark.parametrize("n_answers", [0, 3, 25])
def test_a_killed_server_leaves_a_readable_database_with_all_that_it_acknowledged(planted, n_answers):
    calls = [(name, filled(arguments, n)) for n in range(6) for name, arguments in WRITES.items()]
    with served(planted) as wire:
        asked = {wire.call(name, **arguments): (name, arguments) for name, arguments in calls}
        answers = [wire.receive() for _ in range(n_answers)]
        wire.process.send_signal(signal.SIGKILL)
        wire.process.wait(DEADLINE)
    path = planted / "annotations" / "planted.sqlite"
    if path.exists():
        with sqlite3.connect(path) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    notes = Annotations.of(open_harvest("planted"))
    evidence = {item.id for item in notes.list_evidence(limit=None)}
    written = {item.text for item in (*notes.hypotheses(), *notes.research_log(limit=None))}
    written |= {label.input_view for label in notes.label_history(KEY)}
    for answer in answers:
        name, arguments = asked[answer["id"]]
        text = answer["result"]["content"][0]["text"]
        assert not answer["result"].get("isError"), text
        if name in ("hypothesis", "label", "research_log"):
            assert arguments.get("text", arguments.get("input_view")) in written
        elif found := re.match(r"Evidence ([a-z_]+-[0-9a-f]{12})", text):
            assert found[1] in evidence
    with served(planted) as wire:  # and the next server goes on with it
        wire.text("research_log", action="write", text="afterwards")
        assert "afterwards" in wire.text("research_log", action="read")


def job_started_by(wire, **arguments):
    """Id of a job that a server has started."""
    return re.search(r"harvest-[0-9a-f]{12}", wire.text("harvest_start", **arguments))[0]


def ended_job(job_id) -> Job:
    """The job, once its process is gone: until then it keeps its lock."""
    with (job_status(job_id).folder / "lock").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
    return job_status(job_id)


def test_a_harvest_survives_the_server_that_started_it(out_dir):
    with served(out_dir) as wire:
        job_id = job_started_by(wire, reference="planted", n_batches=8, batch_size=32)
    job = ended_job(job_id)
    assert job.status == "finished", job
    assert open_harvest("planted").harvest_id == job.result["harvest_id"]
    with served(out_dir) as wire:
        assert f"{job_id}: finished" in wire.text("job_status", job_id=job_id)
        assert "planted" in wire.text("runs")


def test_a_killed_worker_is_lost_and_the_same_request_goes_on(out_dir):
    asked = {"reference": "planted", "n_batches": 64, "batch_size": 32}
    with served(out_dir) as wire:
        job_id = job_started_by(wire, **asked)

        def worker():
            [task] = job_status(job_id).step("workers").tasks
            return task.pid

        wait_until(lambda: worker() is not None, wire.process)
        os.kill(worker(), signal.SIGKILL)
        ended = ended_job(job_id)
        assert (ended.status, ended.step("merge").status) == ("lost", "skipped")
        assert f"{job_id}: lost" in wire.text("job_status", job_id=job_id)
        again = job_started_by(wire, **asked)
        assert again != job_id
        assert ended_job(again).status == "finished"


class Http:
    """A server that listens at a port of its own."""

    def __init__(self, out_dir, **environment):
        self.process = subprocess.Popen(
            [COMMAND, "mcp", "--http", "0"],
            env=os.environ | {"SPD_OUT_DIR": str(out_dir)} | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.url = re.search(r"http://\S+", self.process.stderr.readline())[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGINT)
        self.code, self.out, self.err = ended(self.process)

    def n_tools(self, **headers):
        """As a client with these headers sees it."""

        async def main():
            async with (
                httpx2.AsyncClient(headers=headers) as http,
                Client(streamable_http_client(self.url, http_client=http)) as client,
            ):
                return len((await client.list_tools()).tools)

        return anyio.run(main)

    def status(self, **headers):
        """Of a request with these headers."""
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        accepts = {"Accept": "application/json, text/event-stream"}
        return httpx2.post(self.url, json=body, headers=accepts | headers).status_code


def test_http_serves_this_machine_and_no_page_in_a_browser(planted):
    with Http(planted) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.n_tools() == N_TOOLS
        assert server.status(Host="evil.example") == 421
        assert server.status(Origin="http://evil.example") == 403
    assert server.out == ""
    assert "Traceback" not in server.err


def test_with_a_token_nobody_comes_in_without_it(planted):
    with Http(planted, SPD_TOOLS_MCP_TOKEN=TOKEN) as server:
        assert server.status() == 401
        assert server.status(Authorization="Bearer wrong token") == 401
        assert server.status(Authorization=f"Basic {TOKEN}") == 401
        assert server.n_tools(Authorization=f"Bearer {TOKEN}") == N_TOOLS
    assert TOKEN not in server.err


def test_another_address_without_a_token_is_refused_in_one_sentence(planted):
    environment = {name: value for name, value in os.environ.items() if name != "SPD_TOOLS_MCP_TOKEN"}
    done = subprocess.run(
        [COMMAND, "mcp", "--http", "0", "--host", "0.0.0.0"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "SPD_TOOLS_MCP_TOKEN" in done.stderr
