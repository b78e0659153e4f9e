"""`make bench-llm`: many calls, and the memory of many components.

2,000 calls to a stand-in that takes a second each and allows 100 at once; 100,000 known ones; `interpret` and
`evaluate` as wholes, see ``many_components``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from benchmarks.many_components import FEW, measured
from benchmarks.reporting import fail, report

TESTS = Path(__file__).parent.parent / "tests"
SECONDS = 1.0
AT_ONCE = 100
PROMPT_CHARACTERS = 8_000
"""Of every prompt; a hundred thousand of them at once would be 800 MB."""
ALLOWED = 1.25
ALLOWED_GROWTH_MB = 50


class Label(BaseModel):
    label: str
    confidence: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--lazy-calls", type=int, default=100_000)
    parser.add_argument("--components", type=int, default=100_000, help="that are planned and estimated")
    parser.add_argument("--done", type=int, default=10_000, help="that are labelled and judged")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SPD_OUT_DIR"] = folder
        figures = timed(args.calls)
        figures |= lazily(args.lazy_calls)
        figures |= {"components": measured(Path(folder) / "many", args.components, args.done)}
    ideal = args.calls * SECONDS / AT_ONCE
    figures |= {"ideal_s": ideal, "times_ideal": figures["seconds"] / ideal}
    rows = [
        ("calls", f"{args.calls:,} of {SECONDS:g} s each, {AT_ONCE} at once"),
        ("wall", f"{figures['seconds']:.2f} s = {figures['times_ideal']:.3f} x ideal (target {ALLOWED})"),
        ("client CPU per call", f"{figures['cpu_ms_per_call']:.2f} ms"),
        ("refused (429)", f"{figures['refused']:,}"),
        ("lazy calls", f"{args.lazy_calls:,} of {PROMPT_CHARACTERS:,} characters each"),
        ("peak growth", f"{figures['peak_growth_mb']:.1f} MB (target {ALLOWED_GROWTH_MB})"),
    ]
    for what, n in (("estimate", args.components), ("interpret", args.done), ("evaluate", args.done)):
        found = figures["components"]
        growth = f"{found[f'{what}_growth_mb']:.1f} MB over {n:,} components, against {FEW:,}"
        rows.append(
            (what, f"peak growth {growth} (peak {found[f'{what}_peak_mb']:.0f} MB, {found[f'{what}_s']:.0f} s)")
        )
    report("calls to a language model", rows, figures)


def timed(n_calls: int) -> dict[str, Any]:
    """Answer calls; every answer must be in the ledger, and the server must have been asked once for each."""
    from spd_tools.llm import Answer, LanguageModel, Ledger

    server = serve(SECONDS)
    try:
        ledger = Ledger.open("bench", "0" * 64)
        asyncio.run(answers(LanguageModel(ledger, max_concurrent=AT_ONCE), calls("warm up", 1)))
        cpu, start = time.process_time(), time.perf_counter()
        outcomes = asyncio.run(answers(LanguageModel(ledger, max_concurrent=AT_ONCE), calls("timed", n_calls)))
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    finally:
        seen = stop(server)
    if outcomes != {Answer: n_calls} or sum(call.status == "answered" for call in ledger.calls()) != n_calls + 1:
        fail(f"not every call was answered and stored: {outcomes}")
    if seen["most_under_way"] > AT_ONCE:
        fail(f"{seen['most_under_way']} requests were under way at once")
    refused = seen["asked"] - n_calls - 1
    return {"seconds": seconds, "cpu_ms_per_call": 1000 * cpu / n_calls, "refused": refused, "calls": n_calls}


def lazily(n_calls: int) -> dict[str, Any]:
    """Growth of the peak while very many calls are built: a thousand are sent, and found again from then on."""
    from spd_tools.llm import LanguageModel, Ledger

    server = serve(0.0)
    try:
        ledger = Ledger.open("lazy", "0" * 64)
        asyncio.run(answers(LanguageModel(ledger, max_concurrent=AT_ONCE), calls("lazy", 10)))
        before, start = reset_peak_mb(), time.perf_counter()
        supply = (call for _ in range(n_calls // 1_000) for call in calls("lazy", 1_000))
        outcomes = asyncio.run(answers(LanguageModel(ledger, max_concurrent=AT_ONCE), supply))
        seconds = time.perf_counter() - start
    finally:
        stop(server)
    if sum(outcomes.values()) != n_calls:
        fail(f"{n_calls:,} calls gave {outcomes}")
    return {"peak_growth_mb": memory_mb("VmHWM") - before, "lazy_calls": n_calls, "lazy_seconds": seconds}


def reset_peak_mb() -> float:
    """Forget the peak of this process so far (importing torch has one of its own); what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def memory_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def calls(what: str, n_calls: int) -> Iterator[Any]:
    from spd_tools.llm import Call

    for i in range(n_calls):
        text = f"{what} {i}: " + "a b c d " * (PROMPT_CHARACTERS // 8)
        yield Call(
            purpose="bench", model="claude-haiku-5-5", system="Label.", prompt=text, schema=Label, max_tokens=500
        )


async def answers(model: Any, supply: Iterator[Any]) -> dict[type, int]:
    """How many outcomes of which kind."""
    found: dict[type, int] = {}
    async for outcome in model.answer(supply):
        found[type(outcome)] = found.get(type(outcome), 0) + 1
    return found


def serve(seconds: float) -> subprocess.Popen[str]:
    """A stand-in in a process of its own."""
    sys.path.insert(0, str(TESTS))
    from llm.stand_in import KEY

    said = json.dumps({"label": "commas", "confidence": 0.5})
    command = [sys.executable, str(TESTS / "llm" / "stand_in.py"), "--seconds", str(seconds), "--say", said]
    server = subprocess.Popen(
        [*command, "--at-once", str(AT_ONCE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    os.environ |= {"ANTHROPIC_BASE_URL": server.stdout.readline().strip(), "ANTHROPIC_API_KEY": KEY}
    return server


def stop(server: subprocess.Popen[str]) -> dict[str, int]:
    """What it has seen."""
    output, _ = server.communicate(timeout=30)
    return json.loads(output)


if __name__ == "__main__":
    main()
