"""A training step of `decompose` over the sum of its parts: `make bench-train`.

The parts (target forward, causal importances forward and backward, one masked forward and backward per loss) are those
of ``parts_train.py``, plain torch that does not change with the code. Whole steps and parts take turns in one process:
every measured step of the loop is followed by each part once, on the first batch. There step and parts must agree in
masked logits, losses and all gradients. Drawing numbers, the optimiser and the loop are in the step and in no part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import parts_train
from benchmarks.parts_train import BATCH, CI_HIDDEN, HEADS, HIDDEN, LAYERS, N_LAYER, SEQ, VOCAB, C, D, Numbers, Parts
from benchmarks.reporting import fail, report, versions
from spd_tools.decompositions.spd.components import locate
from spd_tools.decompositions.spd.config import ModuleInfo
from spd_tools.decompositions.spd.loader import build_ci_function
from spd_tools.decompositions.spd.state_dict import dashed
from spd_tools.targets.build import Target
from spd_tools.targets.config import LlamaConfig
from spd_tools.targets.llama_simple import LlamaSimpleMLP
from spd_tools.training.config import TrainingConfig, parse_training_config
from spd_tools.training.distributed import World
from spd_tools.training.initialise import initialise
from spd_tools.training.loop import TrainingLoop
from spd_tools.training.losses import StepPass, build_loss
from spd_tools.training.model import ComponentModel
from spd_tools.training.noise import Noise
from spd_tools.training.outputs import distance_to
from spd_tools.training.reconstruction import StochasticReconstruction, routes
from spd_tools.training.step import WeightedLoss, backward_step, causal_importances
from spd_tools.training.trainer import Trainer, rhythm_of

TARGET_RATIO = 1.25
WARM_UP = 3
LOSSES = (
    {"classname": "FaithfulnessLoss"},
    {"classname": "ImportanceMinimalityLoss", "pnorm": 0.9},
    {"classname": "StochasticReconSubsetLoss"},
    {"classname": "StochasticReconLoss"},
    {"classname": "CIMaskedReconLoss"},
)
RANDOM = ("StochasticReconSubsetLoss", "StochasticReconLoss")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="measured steps")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="file for the JSON object, too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = training_config(WARM_UP + args.rounds)
    model = build_model(config)
    parts = check_first_batch(model, config)
    trainer = Trainer(model, config, RandomTokens(), device=torch.device("cpu"))
    turns = TakingTurns(parts)
    TrainingLoop(trainer, rhythm_of(config), checkpoint=None).run(None, on_step=turns.on_step)
    figures = summary(turns) | {"rounds": args.rounds, "threads": args.threads, "target_ratio": TARGET_RATIO}
    if args.out is not None:
        args.out.write_text(json.dumps(figures | {"versions": versions()}) + "\n")
    table(figures)


def training_config(steps: int) -> TrainingConfig:
    """The story model's sizes; every loss with weight 1, which time does not depend on."""
    return parse_training_config(
        {
            "pretrained_model_class": "spd.pretrain.models.llama_simple_mlp.LlamaSimpleMLP",
            "module_info": [{"module_pattern": f"h.*.{name}", "C": n} for name, n in C.items()],
            "ci_config": {"mode": "layerwise", "fn_type": "shared_mlp", "hidden_dims": [CI_HIDDEN]},
            "lr_schedule": {"start_val": 1e-4},
            "steps": steps,
            "batch_size": BATCH,
            "train_log_freq": 100,
            "eval_freq": steps,
            "loss_metric_configs": [{"coeff": 1.0, **entry} for entry in LOSSES],
        },
        "bench_train",
    )


def build_model(config: TrainingConfig) -> ComponentModel:
    """A target with random weights and components as training starts from them."""
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=VOCAB,
        n_layer=N_LAYER,
        n_head=HEADS,
        n_key_value_heads=HEADS,
        n_embd=D,
        n_intermediate=HIDDEN,
        block_size=SEQ,
    )
    module = LlamaSimpleMLP(shape)
    # Logits of unit size, as trained models have; those of nn.Embedding's unit rows give denormal probabilities.
    torch.nn.init.normal_(module.wte.weight, std=D**-0.5)
    target = Target(
        module=module, architecture="LlamaSimpleMLP", config={}, vocab_size=VOCAB, context=SEQ, unembedding=None
    )
    infos = [ModuleInfo(module_pattern=f"h.*.{name}", C=n) for name, n in C.items()]
    components = locate(module, infos, None)
    model = ComponentModel(
        target=target,
        components=components,
        ci_function=build_ci_function(config.ci_config, components),
        sigmoid_type=config.sigmoid_type,
        output_attr="idx_0",
        is_toy=False,
    )
    initialise(model, 0)
    for parameter in (*model.component_parameters(), *model.ci_parameters()):
        parameter.requires_grad_()
    return model


class RandomTokens:
    """Batches [BATCH, SEQ] of uniform tokens."""

    def train(self, step: int) -> Tensor:
        """A new one at every step."""
        return torch.randint(VOCAB, (BATCH, SEQ), generator=torch.Generator().manual_seed(step))

    def evaluation(self, index: int) -> Tensor:
        """The loop evaluates nothing here."""
        raise AssertionError(index)


class RecordedNoise(Noise):
    """Remembers what was drawn."""

    def __init__(self, *key: int) -> None:
        super().__init__(torch.device("cpu"), *key)
        self.drawn: list[Tensor] = []

    def uniform(self, *shape: int) -> Tensor:
        """As ever."""
        self.drawn.append(super().uniform(*shape))
        return self.drawn[-1].clone()


def check_first_batch(model: ComponentModel, config: TrainingConfig) -> Parts:
    """The parts on the first batch, when what they compute is what a step computes."""
    tokens, key = RandomTokens().train(0), (7,)
    losses = [WeightedLoss(entry.classname, 1.0, build_loss(entry)) for entry in config.loss_metric_configs]
    noise = RecordedNoise(*key)
    values = backward_step(model, losses, config, tokens, noise=noise, step=0, world=World())
    parts = Parts(frozen_weights(model), tokens, numbers_of(model, noise.drawn), p=0.9)
    for part in parts.by_name().values():
        part()
    for name, value in values.items():
        agree(f"the value of {name}", value, parts.losses[name])
    for ours, theirs in zip(our_gradients(model), parts.weights.trained(), strict=True):
        assert theirs.grad is not None
        agree("a gradient", ours, theirs.grad)
    for name, logits in our_logits(model, config, tokens, Noise(torch.device("cpu"), *key)).items():
        agree(f"the logits of {name}", logits.flatten(0, 1), parts.masked_logits(name))
    for parameter in (*model.component_parameters(), *model.ci_parameters()):
        parameter.grad = None
    return parts


def agree(what: str, ours: Tensor, theirs: Tensor) -> None:
    """Within f32 rounding; one importance that is 1 but for rounding moves a gradient by some 1e-4 of its norm."""
    norm, distance = float(theirs.detach().norm()), float((ours - theirs).detach().norm())
    if not distance <= 1e-3 * norm:
        fail(f"{what} differs from the parts' by {distance:.2e} of {norm:.2e}")


def frozen_weights(model: ComponentModel) -> parts_train.Weights:
    """The model's weights, as the parts hold them; what is trained is shared with the model, gradients are not."""

    def leaf(x: Tensor) -> Tensor:
        return x.detach().requires_grad_()

    state = model.target.module.state_dict()
    ci = {}
    for name in LAYERS:
        at = model.ci_function.state_dict(prefix="ci_fn.")
        prefix = f"ci_fn._ci_fns.{dashed(name)}.layers"
        ci[name] = tuple(leaf(at[f"{prefix}.{end}"]) for end in ("0.W", "0.b", "2.W", "2.b"))
    return parts_train.Weights(
        embedding=state["wte.weight"],
        norms={key.removesuffix(".weight"): x for key, x in state.items() if "rms" in key or key == "ln_f.weight"},
        target={name: state[f"{name}.weight"].T.contiguous() for name in LAYERS},
        V={name: leaf(model.components[name].V) for name in LAYERS},
        U={name: leaf(model.components[name].U) for name in LAYERS},
        ci=ci,
    )


def our_gradients(model: ComponentModel) -> list[Tensor]:
    """In the parts' order."""
    components = [matrix.grad for name in LAYERS for matrix in (model.components[name].V, model.components[name].U)]
    at = dict(model.ci_function.named_parameters())
    ends = ("0.W", "0.b", "2.W", "2.b")
    found = components + [at[f"_ci_fns.{dashed(name)}.layers.{end}"].grad for name in LAYERS for end in ends]
    return [gradient for gradient in found if gradient is not None]


def numbers_of(model: ComponentModel, drawn: list[Tensor]) -> dict[str, Numbers]:
    """Who uses components, and s and d, from the numbers that a step drew in their order (1 - s is what is drawn)."""
    chances, order, rest = drawn[0], drawn[1], iter(drawn[2:])
    names = list(model.layers)
    k = (chances * len(names)).floor()
    ranks = order.argsort(dim=1).argsort(dim=1)
    rows = {name: (ranks[:, i] <= k[:, 0]).nonzero().squeeze(1) for i, name in enumerate(names)}
    found = {}
    for loss, used in zip(RANDOM, (rows, dict.fromkeys(names)), strict=True):
        pairs = {name: (1 - next(rest).flatten(0, -2), next(rest).flatten(0, -2)) for name in names}
        found[loss] = Numbers({n: s for n, (s, _) in pairs.items()}, {n: d for n, (_, d) in pairs.items()}, used)
    return found


@torch.no_grad()
def our_logits(model: ComponentModel, config: TrainingConfig, tokens: Tensor, noise: Noise) -> dict[str, Tensor]:
    """Masked logits of the random losses, with the numbers that ``noise`` gives again."""
    clean = model.clean(tokens)
    lower, upper = causal_importances(model, clean, None, config.sampling)
    distance = distance_to(clean.output, "kl")
    this = StepPass(model, tokens, distance, lower, upper, noise, step=0, steps=config.steps)
    found = {}
    for loss, modules in zip(RANDOM, ("subset", "all"), strict=True):
        route = next(iter(routes(modules, this)))
        found[loss] = model.masked(tokens, StochasticReconstruction(modules).masks(this, route))
    return found


class TakingTurns:
    """The clock: between two steps of the trainer it stops, and each part is timed."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.steps: list[tuple[float, float]] = []
        self.parts: dict[str, list[tuple[float, float]]] = {name: [] for name in parts.by_name()}
        self._started = now()

    def on_step(self, done: int, _total: int) -> None:
        """The loop calls it after every step."""
        step = since(self._started)
        self._parts.forget_gradients()
        times = {name: timed(part) for name, part in self._parts.by_name().items()}
        if done > WARM_UP:
            self.steps.append(step)
            for name, part in times.items():
                self.parts[name].append(part)
        self._started = now()


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = now()
    return wall - start[0], cpu - start[1]


def timed(action: Callable[[], None]) -> tuple[float, float]:
    start = now()
    action()
    return since(start)


def summary(turns: TakingTurns) -> dict[str, Any]:
    """Medians in milliseconds, and ratios."""

    def medians(times: list[tuple[float, float]]) -> dict[str, float]:
        return {kind: round(1e3 * statistics.median(t[i] for t in times), 2) for i, kind in enumerate(("wall", "cpu"))}

    step, parts = medians(turns.steps), {name: medians(times) for name, times in turns.parts.items()}
    sums = {kind: round(sum(part[kind] for part in parts.values()), 2) for kind in ("wall", "cpu")}
    return {
        "benchmark": "train",
        "step_ms": step,
        "parts_ms": parts,
        "sum_of_parts_ms": sums,
        "ratio": {kind: round(step[kind] / sums[kind], 3) for kind in sums},
    }


def table(figures: Mapping[str, Any]) -> None:
    rows = [(name, f"{part['wall']:.1f} ms") for name, part in figures["parts_ms"].items()]
    rows.append(("sum of parts", f"{figures['sum_of_parts_ms']['wall']:.1f} ms"))
    rows.append(("step", f"{figures['step_ms']['wall']:.1f} ms"))
    ratio = figures["ratio"]
    rows.append(("step / sum of parts", f"{ratio['wall']:.3f} (CPU time {ratio['cpu']:.3f}; target {TARGET_RATIO})"))
    report("training step", rows, dict(figures))


if __name__ == "__main__":
    main()
