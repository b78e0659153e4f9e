"""`make bench-mcp`: how long the MCP server's tools take, as a client sees it.

Looking things up: on the store of `make bench-scale`, page cache warm. Cold: every call is about another component.
Load: the MCP Inspector's load mode (ten calls in flight, of one component), where it is installed (`make clients`).
Probe: the planted decomposition, its model loaded, a new text in every call.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import anyio
import numpy as np
from mcp import Client, StdioServerParameters

from benchmarks.bench_read import HEAVY, STORE
from benchmarks.reporting import fail, report
from mcp_server.server import make_server
from spd_tools.store.reader import Harvest, open_harvest

SERVER = [str(Path(sys.executable).with_name("spd-tools")), "mcp"]
INSPECTOR = Path(__file__).parent.parent / "tests" / "clients" / "node_modules" / ".bin" / "mcp-inspector"
TOOLS = ("overview", "examples", "token_stats", "correlations")
DEMO_KEY = "h.0.mlp.down_proj:13"
ANIMALS = ("cat", "dog", "wolf", "mouse", "otter", "horse", "bear")
N_COMPONENTS = 40
N_STARTS = 5
LOAD_SECONDS = 5
TARGETS_MS = {"startup": 2000.0, "probe": 150.0} | dict.fromkeys(TOOLS, 50.0)


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    if not list(STORE.glob("harvest/synthetic/*/manifest.json")):
        subprocess.run([sys.executable, "-m", "benchmarks.bench_scale", "--keep", str(STORE)], check=True)
    keys = components()
    figures = anyio.run(looked_up, keys)
    figures |= loaded()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [SERVER[0], "harvest", "planted", "--n-batches", "64", "--batch-size", "32"],
            env=os.environ | {"SPD_OUT_DIR": folder},
            check=True,
            stderr=subprocess.DEVNULL,
        )
        figures |= anyio.run(probed, folder)
    medians = {name: value for name, value in figures.items() if name.endswith("_ms")}
    rows = [(name, f"{value:.1f} ms   (target {target_of(name):.0f})") for name, value in medians.items()]
    report("MCP server", rows, figures)


def target_of(figure: str) -> float:
    """What its median should stay below, in ms."""
    return next(limit for name, limit in TARGETS_MS.items() if figure.startswith(name))


def components() -> list[str]:
    """The heavy component, and others over the whole range of densities."""
    os.environ["SPD_OUT_DIR"] = str(STORE)
    harvest = open_harvest("synthetic")
    check(harvest)
    alive = np.flatnonzero(harvest.firing_counts)
    order = alive[np.argsort(-harvest.firing_counts[alive], kind="stable")]
    picked = order[np.linspace(0, len(order) - 1, N_COMPONENTS).astype(int)]
    return [HEAVY, *(str(harvest.keys.key(int(flat))) for flat in picked if str(harvest.keys.key(int(flat))) != HEAVY)]


def check(harvest: Harvest) -> None:
    """What the tool shows is what the harvest says."""

    async def main() -> str:
        async with Client(make_server()) as client:
            return (await client.call_tool("overview", {"key": HEAVY})).content[0].text

    if f"{harvest.component(HEAVY).firing_count:,} of {harvest.n_tokens:,} tokens" not in anyio.run(main):
        fail("the overview does not show how often the heavy component fires")


def server(out_dir: str | Path) -> StdioServerParameters:
    return StdioServerParameters(command=SERVER[0], args=SERVER[1:], env={"SPD_OUT_DIR": str(out_dir)})


async def looked_up(keys: list[str]) -> dict[str, float]:
    """Start-up, and each tool on one component after the other."""
    figures: dict[str, float] = {}
    starts = []
    for _ in range(N_STARTS):
        begin = time.perf_counter()
        async with Client(server(STORE)) as client:
            await client.list_tools()
            starts.append(time.perf_counter() - begin)
    figures["startup_ms"] = 1000 * statistics.median(starts)
    async with Client(server(STORE)) as client:
        for tool in TOOLS:
            await asked(client, tool, key=keys[-1])  # what is imported on first use
            seconds = [await asked(client, tool, key=key) for key in keys[:-1]]
            figures[f"{tool}_cold_ms"] = 1000 * statistics.median(seconds)
            figures[f"{tool}_cold_max"] = 1000 * max(seconds)
            figures[f"{tool}_again_ms"] = 1000 * statistics.median(
                [await asked(client, tool, key=HEAVY) for _ in range(N_COMPONENTS)]
            )
    return figures


async def asked(client: Client, tool: str, **arguments: Any) -> float:
    """Seconds until the answer."""
    begin = time.perf_counter()
    result = await client.call_tool(tool, arguments)
    seconds = time.perf_counter() - begin
    # SystemExit would be wrapped by the client's task group.
    assert not result.is_error, f"{tool} refused: {result.content[0].text}"
    return seconds


async def probed(out_dir: str) -> dict[str, float]:
    """Probes with the model loaded; a text that was probed before would be answered from the record."""
    async with Client(server(out_dir)) as client:
        await asked(client, "probe", key=DEMO_KEY, texts=["the cat sees a saw"])
        texts = [[f"{tool} {animal} rests"] for tool in ("saw", "axe", "rope", "knife") for animal in ANIMALS]
        seconds = [await asked(client, "probe", key=DEMO_KEY, texts=text) for text in texts]
    return {"probe_ms": 1000 * statistics.median(seconds), "probe_max": 1000 * max(seconds)}


def loaded() -> dict[str, Any]:
    """Medians under load; nothing where the Inspector is not installed, which is said."""
    if not INSPECTOR.exists() or shutil.which("node") is None:
        print("The MCP Inspector is not installed (make clients): no figures under load.", file=sys.stderr)
        return {}
    figures: dict[str, Any] = {}
    for tool in TOOLS:
        command = [INSPECTOR, "--cli", *SERVER, "-e", f"SPD_OUT_DIR={STORE}", "--method", "tools/call"]
        command += ["--tool-name", tool, "--tool-arg", f"key={HEAVY}", "--load", "--load-duration", str(LOAD_SECONDS)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        if found["ok"] != found["requests"]:
            fail(f"{tool} failed under load: {found}")
        figures[f"{tool}_load_ms"] = found["latencyMs"]["p50"]
        figures[f"{tool}_load_p99"] = found["latencyMs"]["p99"]
        figures[f"{tool}_load_per_second"] = found["throughput"]
    return figures


if __name__ == "__main__":
    main()
