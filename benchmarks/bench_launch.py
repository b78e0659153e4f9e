"""`make bench-launch`: what spreading a harvest over processes costs. See benchmarks/README.md.

``workers``: CPU seconds (user + system, of every process that had to do with it) of `spd-tools harvest --n-gpus 4`
against those of one process that does it all, one thread each. ``merge``: time and memory of the merge of eight shards
of the size of a real harvest, against reading them once, both with a cold page cache.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.bench_model import SEQ as MODEL_SEQ
from benchmarks.bench_model import build, random_tokens
from benchmarks.bench_scale import MEMORY, check_first_batch, rows_for
from benchmarks.memory import PeakMemory
from benchmarks.reporting import fail, report
from benchmarks.synthetic import BATCH, SEQ, SyntheticFirings, synthetic_plan
from spd_tools.harvest.merge import merge_shards
from spd_tools.harvest.plan import HarvestPlan
from spd_tools.harvest.shards import open_segments
from spd_tools.harvest.worker import work
from spd_tools.store.manifest import read_manifest

N_WORKERS, N_SHARDS = 4, 8
VOCAB = 4096
MOST_OVERHEAD, MOST_MERGE, MOST_GB = 1.15, 3.0, 4.0
"""Targets: CPU of workers and merge / CPU of one process; merge / reading; memory of the merge."""
_ENOUGH_SECONDS = 180.0
_ENOUGH_READ = 0.9
"""Share of the shards that must have come from the disk; less, and the page cache was not cold."""
_PR_SET_CHILD_SUBREAPER = 36
_CHUNK = 8 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("workers", "merge"))
    parser.add_argument("--batches", type=int, default=256, help="of 4,096 tokens, of the harvest of `workers`")
    parser.add_argument("--tokens", type=int, default=2_000_000, help="in the eight shards of `merge`")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    parser.add_argument("--step", choices=_STEPS, help=argparse.SUPPRESS)  # a process of its own: its own peak
    args = parser.parse_args()
    if args.step:
        print(json.dumps(_STEPS[args.step](args.tokens)))
        return
    figures: dict[str, Any] = {}
    if args.only != "merge":
        figures |= in_scratch(args.folder, lambda scratch: workers(scratch, args.batches))
        show(figures)  # should the rest fail, these are not lost
    if args.only != "workers":
        figures |= in_scratch(args.folder, lambda scratch: merge(scratch, args.tokens))
        show(figures)


def show(figures: dict[str, Any]) -> None:
    rows = [(name, f"{value:,.2f}" if isinstance(value, float) else f"{value:,}") for name, value in figures.items()]
    report("launch: processes and the merge of their shards", rows, figures)


def in_scratch(folder: Path | None, measure: Any) -> dict[str, Any]:
    scratch = Path(tempfile.mkdtemp(dir=folder))
    try:
        return measure(scratch)
    finally:
        shutil.rmtree(scratch)


# --- workers ----------------------------------------------------------------------------------------------------------


def workers(scratch: Path, n_batches: int) -> dict[str, Any]:
    """CPU seconds of both, from the command to the finished store."""
    make_run(scratch / "run")
    rows = random_tokens(n_batches * BATCH, VOCAB)
    pq.write_table(pa.table({"ids": list(rows)}), scratch / "rows.parquet")
    data = ["--data", str(scratch / "rows.parquet"), "--column", "ids", "--seq-len", str(MODEL_SEQ)]
    harvest = [str(scratch / "run"), "--batch-size", str(BATCH), *data]
    run = [*harvest, "--n-batches", str(n_batches), "--device", "cpu"]
    env = os.environ | {"SPD_OUT_DIR": str(scratch / "out"), "OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}
    # Compiled kernels and token files are made once, whoever comes first.
    cpu_of(["harvest", *harvest, "--n-batches", "2", "--device", "cpu"], env)
    cpu_of(["prepare", *harvest, "--n-batches", str(n_batches)], env)
    one, one_wall, store = cpu_of(["harvest", *run], env)
    spread, spread_wall, spread_store = cpu_of(["harvest", *run, "--n-gpus", str(N_WORKERS)], env | _NO_GPU)
    if read_manifest(store).files != read_manifest(spread_store).files:
        fail("the workers' store differs from that of one process")
    return {
        "batches": n_batches,
        "one_process_cpu_s": one,
        "one_process_wall_s": one_wall,
        "one_process_is_long_enough": one >= _ENOUGH_SECONDS,
        f"{N_WORKERS}_workers_cpu_s": spread,
        f"{N_WORKERS}_workers_wall_s": spread_wall,
        "cpu_ratio": spread / one,
        "cpu_ratio_target": MOST_OVERHEAD,
    }


_NO_GPU = {"CUDA_VISIBLE_DEVICES": ""}


def make_run(folder: Path) -> None:
    """The run of `make bench`, with the biases that give its densities in its file."""
    decomposition = build(folder, VOCAB, random_tokens(64, VOCAB, seed=1))
    state = torch.load(folder / "model_1.pth", weights_only=True)
    for name in decomposition.layers:
        path = name.replace(".", "-")
        state[f"ci_fn._ci_fns.{path}.layers.2.b"] = decomposition._ci_function._ci_fns[path].layers[2].b.data
    torch.save(state, folder / "model_1.pth")


def cpu_of(arguments: list[str], env: dict[str, str]) -> tuple[float, float, Path]:
    """CPU seconds of a command and of everything that it started, wall seconds, the folder that it wrote.

    What outlives its parent becomes a child of this process, so that nobody's time is lost.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before, begin = _children_cpu(), time.perf_counter()
    command = [sys.executable, "-m", "spd_tools.cli", *arguments, "--json"]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    while _reap():
        pass
    return _children_cpu() - before, time.perf_counter() - begin, Path(json.loads(output).get("folder", ""))


def _children_cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _reap() -> bool:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        return False
    return True


# --- merge ------------------------------------------------------------------------------------------------------------


def merge(scratch: Path, tokens: int) -> dict[str, Any]:
    env = os.environ | {"SPD_OUT_DIR": str(scratch)}
    made, read, merged = (_step(name, tokens, env) for name in ("shards", "read", "merge"))
    if merged["n_tokens"] != made["n_tokens"]:
        fail("the number of tokens is wrong")
    return {
        "tokens": made["n_tokens"],
        "segments": made["n_segments"],
        "shards_gb": read["bytes"] / 1e9,
        "read_cold_s": read["seconds"],
        "merge_cold_s": merged["seconds"],
        "merge_ratio": merged["seconds"] / read["seconds"],
        "merge_ratio_target": MOST_MERGE,
        "merge_peak_gb": merged["peak"] / 1e9,
        "merge_peak_gb_target": MOST_GB,
        "store_gb": merged["bytes"] / 1e9,
    }


def _step(name: str, tokens: int, env: dict[str, str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.bench_launch", "--step", name, "--tokens", str(tokens)]
    output = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(output.splitlines()[-1])


def eight_ranks(tokens: int) -> tuple[HarvestPlan, Any]:
    """(plan of eight ranks, rows)"""
    n_batches = max(N_SHARDS, tokens // (SEQ * BATCH))
    rows = rows_for(n_batches)
    plan = synthetic_plan(n_batches, rows.dataset.fingerprint)
    config = plan.config.model_copy(update={"world_size": N_SHARDS})
    return plan.model_copy(update={"config": config}), rows


def make_shards(tokens: int) -> dict[str, Any]:
    check_first_batch()
    plan, rows = eight_ranks(tokens)
    plan.save()
    firings = SyntheticFirings()
    for rank in range(N_SHARDS):
        work(plan, rank, rows, firings, memory_bytes=MEMORY)
    segments = open_segments(plan.folder, plan)
    return {"n_tokens": int(segments.total("scalars")[1]), "n_segments": len(list(plan.folder.rglob("segment*")))}


def read_shards(tokens: int) -> dict[str, Any]:
    """Seconds to read every byte of the shards once, in the order of their names."""
    plan, _ = eight_ranks(tokens)
    files = _files(plan.folder / "shards")
    _forget(files)
    buffer = bytearray(_CHUNK)
    fetched, begin = _fetched(), time.perf_counter()
    for path in files:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    seconds = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in files)
    if _fetched() - fetched < _ENOUGH_READ * size:
        fail("the shards did not come from the disk; run as root, or on a file system that can be told to forget")
    return {"bytes": size, "seconds": seconds}


def merge_cold(tokens: int) -> dict[str, Any]:
    plan, rows = eight_ranks(tokens)
    _forget(_files(plan.folder))
    with PeakMemory() as memory:
        begin = time.perf_counter()
        manifest = merge_shards(plan, rows, memory_bytes=MEMORY)
        seconds = time.perf_counter() - begin
    size = sum(path.stat().st_size for path in _files(plan.folder))
    return {"n_tokens": manifest.counts.n_tokens, "seconds": seconds, "peak": memory.peak, "bytes": size}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _forget(files: list[Path]) -> None:
    """Take files out of the page cache."""
    os.sync()
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def _fetched() -> int:
    """Bytes that this process has had fetched from storage."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))


_STEPS = {"shards": make_shards, "read": read_shards, "merge": merge_cold}


if __name__ == "__main__":
    main()
