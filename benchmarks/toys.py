"""Do the features of toys end in components of their own? Experiments over seeds, curves to JSON.

``python -m benchmarks.toys tms_5-2 --seeds 3`` trains the named experiments as `spd-tools decompose NAME --seed S` does
and prints, as its last line of stdout, one JSON object: per experiment and seed the share of features recovered in each
layer and the mean greatest cosine, and the curves over training of both, of the losses and of L0. The criteria are in
``spd_tools/training/recovery.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.reporting import versions
from spd_tools.training.decompose import DecomposeRequest, decompose
from spd_tools.training.experiments import EXPERIMENTS
from spd_tools.training.reporting import METRICS_NAME, read_metrics

CURVES = ("recovery/", "loss/", "l0/")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", choices=[name for name, found in EXPERIMENTS.items() if found.toy])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the JSON object, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = {name: [run(name, seed, args.threads) for seed in range(args.seeds)] for name in args.names}
    document = {"benchmark": "toys", "versions": versions(), "threads": args.threads, "experiments": results}
    text = json.dumps(document)
    if args.out is not None:
        args.out.write_text(text + "\n")
    print(text)


def run(name: str, seed: int, threads: int) -> dict[str, Any]:
    start = time.process_time()
    outcome = decompose(
        DecomposeRequest(source=name, seed=seed, threads=threads, device="cpu", progress=False, resume=True)
    )
    records = read_metrics(outcome.folder / METRICS_NAME, "eval")
    last = {key: value for key, value in records[-1].items() if key.startswith("recovery/")}
    shown = "  ".join(f"{key.removeprefix('recovery/')} {value:.3f}" for key, value in last.items())
    print(f"{name} seed {seed} ({outcome.state}): {shown}", file=sys.stderr)
    return {
        "seed": seed,
        "state": outcome.state,
        # Of a run that was there already, nobody knows.
        "cpu_seconds": round(time.process_time() - start, 1) if outcome.state == "finished" else None,
        "steps": outcome.steps_done,
        "final": last,
        "curves": {
            key: [[record["step"], record[key]] for record in records if key in record]
            for key in records[-1]
            if key.startswith(CURVES)
        },
    }


if __name__ == "__main__":
    main()
