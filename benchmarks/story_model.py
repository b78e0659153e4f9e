"""`make story-model`: train the model that comes with spd-tools, and measure it. See benchmarks/README.md.

``train`` makes every file of ``spd_tools/demo_model`` again, below .bench/story: the target is pretrained and rounded
to float16, decomposed, and the decomposition is rounded, too. What is finished there is not done again, and what was
interrupted goes on. ``measure`` says how good the decomposition is that is shipped. ``losses`` takes the first 200
steps of its training again and compares the losses with those that are recorded; ``--record`` records them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from benchmarks.reporting import fail, report, versions
from spd_tools.decompositions.resolve import DEMO_RUN
from spd_tools.decompositions.spd.files import find_run
from spd_tools.decompositions.spd.state_dict import read_checkpoint
from spd_tools.files import write_bytes
from spd_tools.harvest import HarvestRequest, run_harvest
from spd_tools.store.harvest import Harvest
from spd_tools.stories import story_vocabulary
from spd_tools.targets.build import read_yaml_mapping
from spd_tools.training.config import parse_training_config
from spd_tools.training.data_sources import DataChoice, open_batches
from spd_tools.training.decompose import DecomposeRequest, build_model, decompose
from spd_tools.training.distributed import World
from spd_tools.training.evaluation import Evaluator
from spd_tools.training.experiments import experiment
from spd_tools.training.metric_configs import parse_eval_metrics
from spd_tools.training.pretrain_config import read_pretrain_config
from spd_tools.training.pretrain_run import PretrainRequest, pretrain
from spd_tools.training.target import load_target
from spd_tools.training.trainer import Trainer

WORK = Path(".bench/story")
LOSSES = Path(__file__).parent / "results" / "story_losses.json"
N_LOSSES = 200
TARGET_FILES = ("model_config.yaml", "tokenizer.json")
MOST_BYTES = 8_000_000
N_EVAL_ROWS = 512
HARVEST = HarvestRequest(run="demo", split="test", n_batches=256, batch_size=32)
"""About a million tokens that the decomposition was not trained on."""
SELECTIVE, MOST_BASE, LEAST_TOKENS, LEAST_SHARE, LEAST_FIRINGS = 0.8, 0.1, 3, 0.05, 100
"""A component is of a category when so much of its input mass lies in it, the category has at most so much of all
tokens, at least so many of the category's tokens have at least so much of the mass each, and it fires that often."""
N_PERMUTATIONS = 20
_PGD = {"classname": "PGDReconLoss", "init": "random", "step_size": 0.1, "n_steps": 20, "coeff": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("train", "measure", "losses"))
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)  # as the shipped one was trained
    if args.what == "train":
        train(WORK)
        return
    if args.what == "losses":
        compare_losses(N_LOSSES, record=args.record)
        return
    figures = measure()
    rows = [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in figures.items()]
    report("The story model", rows, figures)


def train(work: Path) -> None:
    """Make the files again, and compare them with the shipped ones."""
    pretrained = pretrain(
        PretrainRequest(config=read_pretrain_config("story"), out=str(work / "run"), device="cpu", threads=1)
    )
    if not pretrained.finished:
        fail("stopped; the same command goes on")
    round_target(pretrained.folder, work / "target")
    outcome = decompose(
        DecomposeRequest(
            source="story",
            target=str(work / "target"),
            out=str(work / "decomposition"),
            device="cpu",
            threads=1,
            resume=True,
        )
    )
    if outcome.state == "stopped":
        fail("stopped; the same command goes on")
    made = work / "demo_model"
    pack(outcome.folder, made)
    if (size := sum(path.stat().st_size for path in made.rglob("*") if path.is_file())) > MOST_BYTES:
        fail(f"the model has {size:,} bytes")
    ours, shipped = digests(made), digests(DEMO_RUN)
    for name in sorted(ours | shipped):
        verdict = "as shipped" if ours.get(name) == shipped.get(name) else "OTHER"
        print(f"{ours.get(name, 'none'):64}  {verdict:10}  {name}")


def compare_losses(n: int, *, record: bool) -> None:
    losses = first_losses(n)
    if record:
        LOSSES.write_text(json.dumps({"loss/total": losses, "versions": versions()}) + "\n")
        return
    known = json.loads(LOSSES.read_text())["loss/total"]
    difference = max(abs(a - b) / b for a, b in zip(losses, known, strict=True))
    figures = {"losses": n, "identical": losses == known, "largest_relative_difference": difference}
    report("The first losses", [(name, str(value)) for name, value in figures.items()], figures)


def first_losses(n: int) -> list[float]:
    """Total losses of the first n steps of the story model's training."""
    config = parse_training_config(experiment("story").config(), "the experiment")
    loaded = load_target(config, DEMO_RUN)
    batches, _ = open_batches(config, DataChoice(), loaded, base=DEMO_RUN, world=World())
    trainer = Trainer(build_model(config, loaded), config, batches, device=torch.device("cpu"))
    trainer.warm_up()
    losses = []
    for step in range(n):
        for group in trainer.optimizer.param_groups:
            group["lr"] = config.lr_schedule.at(step, config.steps)
        losses.append(trainer.take_step(step, with_record=True)["loss/total"])
    return losses


def round_target(run: Path, folder: Path) -> None:
    """The target's run with its weights in float16."""
    [checkpoint] = (run / "checkpoints").glob("model_step_*.pt")
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for name in TARGET_FILES:
        shutil.copyfile(run / name, folder / name)
    write_rounded(checkpoint, folder / "checkpoints" / f"{checkpoint.stem}.safetensors")


def pack(run: Path, folder: Path) -> None:
    """The decomposition's run with its weights in float16, and nothing that is not needed to use it."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(run / "target", folder / "target")
    files = find_run(run)
    shutil.copyfile(files.config, folder / files.config.name)
    write_rounded(files.checkpoint, folder / files.checkpoint.name)


def write_rounded(source: Path, destination: Path) -> None:
    write_bytes(destination, save({name: tensor.half() for name, tensor in read_checkpoint(source).items()}))


def digests(folder: Path) -> dict[str, str]:
    """File below the folder -> sha256."""
    files = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def measure() -> dict[str, Any]:
    """How well the shipped decomposition does on rows that it was not trained on."""
    harvest = Harvest.open(run_harvest(HARVEST, resume=True).folder)
    alive = int((harvest.firing_counts >= 1e-5 * harvest.n_tokens).sum())
    l0 = float(harvest.firing_counts.sum() / harvest.n_tokens)
    selective = components_of_categories(harvest, category_table())
    rng = np.random.default_rng(0)
    permuted = [len(components_of_categories(harvest, permuted_table(rng))) for _ in range(N_PERMUTATIONS)]
    return (
        {"bytes": sum(path.stat().st_size for path in DEMO_RUN.rglob("*") if path.is_file())}
        | evaluate(DEMO_RUN)
        | {
            "tokens": harvest.n_tokens,
            "components": len(harvest.firing_counts),
            "alive": alive,
            "l0": l0,
            "l0_share_of_alive": l0 / alive,
            "components_of_a_category": len(selective),
            "categories_with_components": len({category for category, _ in selective.values()}),
            "components_of_permuted_categories": permuted,
        }
    )


def evaluate(run: Path) -> dict[str, float]:
    """KL under the five kinds of masks and under 20 steps of ascent, in nats, and what the components leave over."""
    raw = read_yaml_mapping(run / "final_config.yaml")
    checkpoint = str(find_run(run).checkpoint)
    raw |= {"n_eval_steps": N_EVAL_ROWS // raw["eval_batch_size"], "init_spd_checkpoint": checkpoint}
    config = parse_training_config(raw, str(run))
    loaded = load_target(config, run)
    model = build_model(config, loaded)
    batches, _ = open_batches(config, DataChoice(), loaded, base=run, world=World())
    metrics, _ = parse_eval_metrics([{"classname": "CEandKLLosses"}, _PGD], str(run), toy=False)
    found, _ = Evaluator(model, config, metrics, [], batches.evaluation, torch.device("cpu")).measure(config.steps)
    left_over = {name: value for name, value in found.items() if name.startswith("faithfulness/")}
    kl = {name.replace("/", "_"): value for name, value in found.items() if name.startswith(("kl/", "ce/"))}
    return kl | {"kl_pgd_20": found["metric/PGDReconLoss"], "most_left_over": max(left_over.values())}


def category_table() -> np.ndarray:
    """[categories, tokens] bool"""
    vocabulary = story_vocabulary()
    table = np.zeros((len(vocabulary.categories), len(vocabulary)), dtype=bool)
    for row, ids in zip(table, vocabulary.categories.values(), strict=True):
        row[list(ids)] = True
    return table


def permuted_table(rng: np.random.Generator) -> np.ndarray:
    """The same with the tokens in a random order."""
    return category_table()[:, rng.permutation(len(story_vocabulary()))]


def components_of_categories(harvest: Harvest, table: np.ndarray) -> dict[str, tuple[int, float]]:
    """Key -> (category, share of the input mass in it), of components that have one."""
    base = table @ harvest.vocabulary("input") / harvest.n_tokens
    table = table & (base <= MOST_BASE)[:, None]
    found: dict[str, tuple[int, float]] = {}
    for key, n_firings in zip(harvest.keys, harvest.firing_counts, strict=True):
        if n_firings < LEAST_FIRINGS:
            continue
        tokens, counts = harvest.token_counts(key)
        of_category = table[:, tokens]
        mass = of_category @ counts / n_firings
        mass[(of_category & (counts >= LEAST_SHARE * n_firings)).sum(1) < LEAST_TOKENS] = 0.0
        best = int(mass.argmax())
        if mass[best] >= SELECTIVE:
            found[str(key)] = (best, float(mass[best]))
    return found


if __name__ == "__main__":
    main()
