"""What is measured on evaluation batches. What could not be measured is absent, never zero."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor

from spd_tools.training.config import TrainingConfig
from spd_tools.training.losses import StepPass, build_loss
from spd_tools.training.masks import draw_sources, source_mask
from spd_tools.training.metric_configs import CeAndKlConfig, CiL0Config, EvalMetricConfig, EvalOnlyConfig
from spd_tools.training.model import ComponentModel, LayerMask
from spd_tools.training.noise import Noise
from spd_tools.training.outputs import KlDistance, distance_to
from spd_tools.training.recovery import recovery
from spd_tools.training.step import WeightedLoss, causal_importances

_EVALUATION_NOISE = 1

Metrics = dict[str, float]


class Evaluator:
    """Measures a model on the same batches again and again."""

    def __init__(
        self,
        model: ComponentModel,
        config: TrainingConfig,
        metrics: list[EvalMetricConfig],
        losses: list[WeightedLoss],
        batch: Callable[[int], Tensor],
        device: torch.device,
    ) -> None:
        """``losses``: those of the training, which are measured too; ``batch`` gives the i-th evaluation batch."""
        self._model, self._config, self._batch, self._device = model, config, batch, device
        self._ce_and_kl = next((metric for metric in metrics if isinstance(metric, CeAndKlConfig)), None)
        self._groups = next((metric.groups for metric in metrics if isinstance(metric, CiL0Config)), None) or {}
        # The sources of persistent adversaries belong to the places of training batches.
        self._losses = [weighted for weighted in losses if not weighted.name.startswith("PersistentPGD")]
        self._metric_losses = [
            WeightedLoss(metric.classname, 1.0, build_loss(metric))
            for metric in metrics
            if not isinstance(metric, EvalOnlyConfig) and not metric.classname.startswith("PersistentPGD")
        ]

    def measure(self, step: int) -> tuple[Metrics, dict[str, Tensor]]:
        """Measure now.

        Args:
            step: Steps that are done.

        Returns:
            Metrics by name, and causal importances: layer -> [positions of all batches, C] on the CPU.
        """
        config = self._config
        sums: dict[str, float] = defaultdict(float)
        importances: dict[str, list[Tensor]] = defaultdict(list)
        autocast = config.autocast_bf16 and self._device.type == "cuda"
        for index in range(config.n_eval_steps):
            with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=autocast):
                now = self._pass(index, step)
                for name, value in self._of_batch(now).items():
                    sums[name] += value / config.n_eval_steps
            for name, importance in now.importances.items():
                importances[name].append(importance.flatten(0, -2).cpu())
        joined = {name: torch.cat(parts) for name, parts in importances.items()}
        return dict(sums) | self._of_importances(joined) | self._of_weights() | self._of_features(), joined

    def _pass(self, index: int, step: int) -> StepPass:
        config, model = self._config, self._model
        batch = self._batch(index).to(self._device)
        clean = model.clean(batch)
        lower, upper = causal_importances(model, clean, None, config.sampling)
        return StepPass(
            model=model,
            batch=batch,
            distance=distance_to(clean.output, config.compares_by),
            importances=lower,
            upper=upper,
            noise=Noise(self._device, config.seed, _EVALUATION_NOISE, index),
            step=min(step, config.steps - 1),
            steps=config.steps,
            sampling=config.sampling,
            use_delta=config.use_delta_component,
            n_mask_samples=config.n_mask_samples,
        )

    def _of_batch(self, now: StepPass) -> Metrics:
        found = {
            f"{kind}/{weighted.name}": float(sum(weighted.loss.pieces(now), torch.zeros((), device=self._device)))
            for kind, losses in (("loss", self._losses), ("metric", self._metric_losses))
            for weighted in losses
        }
        if self._losses:
            found["loss/total"] = sum(weighted.coeff * found[f"loss/{weighted.name}"] for weighted in self._losses)
        if self._ce_and_kl is not None and isinstance(now.distance, KlDistance):
            found |= ce_and_kl(now, now.distance, self._ce_and_kl.rounding_threshold)
        return found

    def _of_importances(self, importances: Mapping[str, Tensor]) -> Metrics:
        """CI L0 (components that fire per position) and components that fire at all on the evaluation positions."""
        firing = {name: values > self._config.ci_alive_threshold for name, values in importances.items()}
        l0 = {name: float(fires.sum()) / fires.shape[0] for name, fires in firing.items()}
        found = {f"l0/{name}": value for name, value in l0.items()} | {"l0/total": sum(l0.values())}
        for group, patterns in self._groups.items():
            members = [name for name in l0 if any(fnmatchcase(name, pattern) for pattern in patterns)]
            found[f"l0/{group}"] = sum(l0[name] for name in members)
        alive = {name: int(fires.any(0).sum()) for name, fires in firing.items()}
        return found | {f"alive/{name}": n for name, n in alive.items()} | {"alive/total": sum(alive.values())}

    @torch.no_grad()
    def _of_weights(self) -> Metrics:
        """||W - sum_c W_c||^2 / ||W||^2 by layer."""
        model = self._model
        return {
            f"faithfulness/{name}": float(model.faithfulness(name) / model.weight(name).square().sum())
            for name in model.components
        }

    def _of_features(self) -> Metrics:
        return recovery(self._model) if self._config.is_toy else {}


def ce_and_kl(now: StepPass, distance: KlDistance, rounding_threshold: float) -> Metrics:
    """Next-token cross-entropy, and KL from the target, under five kinds of masks; in nats.

    ci: m = g; unmasked: m = 1; stochastic: random masks; rounded: m = 1 where g is above the threshold, else 0;
    zero: m = 0. The weights that no component covers take part in the stochastic masks only.
    """
    importances = now.importances
    sources = draw_sources(now.noise, now.model.layers, now.positions, sampling=now.sampling, with_delta=now.use_delta)
    masks: dict[str, dict[str, LayerMask]] = {
        "ci": {name: LayerMask(g) for name, g in importances.items()},
        "unmasked": {name: LayerMask(torch.ones_like(g)) for name, g in importances.items()},
        "stochastic": {name: source_mask(g, sources[name]) for name, g in importances.items()},
        "rounded": {name: LayerMask((g > rounding_threshold).to(g.dtype)) for name, g in importances.items()},
        "zero": {name: LayerMask(torch.zeros_like(g)) for name, g in importances.items()},
    }
    found = {"ce/target": next_token_cross_entropy(distance.log_p, now.batch)}
    for kind, chosen in masks.items():
        logits = now.model.masked(now.batch, chosen)
        found[f"ce/{kind}"] = next_token_cross_entropy(logits, now.batch)
        found[f"kl/{kind}"] = float(distance(logits))
    return found


def next_token_cross_entropy(logits: Tensor, tokens: Tensor) -> float:
    """Mean over all positions that have a next token, in nats.

    Args:
        logits: [batch, seq, vocab].
        tokens: [batch, seq].
    """
    return float(F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))
