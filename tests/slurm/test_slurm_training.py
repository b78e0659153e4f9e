"""A training on a real SLURM: whatever happens on the way, the model is the one of the foreground."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from slurm_node import wait_for

from spd_tools.files import file_sha256

pytestmark = pytest.mark.slurm

STEPS = 200
TRAINING = ("decompose", "tms_5-2", "--steps", STEPS, "--threads", 1, "--cpu", "--json")
ON_CLUSTER = ("--checkpoint-seconds", 0.5, "--slurm", "--profile", "one-node")


def trained(folder):
    """What must be the same."""
    return {name: file_sha256(Path(folder) / name) for name in (f"model_{STEPS}.safetensors", "metrics.jsonl")}


def test_decompositions_that_are_requeued_in_the_middle(desk):
    """One by a single process, and one by two that train together."""
    ranks = (1, 2)
    local = {n: json.loads(desk.run(*TRAINING, "--n-gpus", n, "--out", desk.folder / f"local-{n}")) for n in ranks}
    desk.close_gate("slow-training", "0.1")
    jobs = {
        n: json.loads(desk.run(*TRAINING, "--n-gpus", n, "--out", desk.folder / f"cluster-{n}", *ON_CLUSTER))["id"]
        for n in ranks
    }

    def begun(job_id):
        [task] = desk.tasks(job_id, "train")
        return task if (task["done"] or 0) > 10 else None

    for job_id in jobs.values():
        task = wait_for("the training has begun", lambda job_id=job_id: begun(job_id))
        assert (task["total"], task["unit"]) == (STEPS, "steps")
        desk.node.ask("scontrol", "requeue", task["slurm_id"])
    for n, job_id in jobs.items():
        job = desk.wait(job_id, "finished")
        first, *_, last = desk.attempts(job_id, "train", 0)
        assert first["attempt"] < last["attempt"]
        assert last["done_before"] > 10, "it went on from a checkpoint"
        assert job["result"]["steps"] == STEPS
        assert trained(job["result"]["run"]) == trained(local[n]["folder"])
        assert f"eval 0/{STEPS}" in desk.run("jobs", "logs", job_id, "--step", "train")
