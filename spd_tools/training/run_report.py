"""What the first rank of a training reports: evaluations, figures, models, logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from spd_tools.training.config import TrainingConfig
from spd_tools.training.data import Batches
from spd_tools.training.evaluation import Evaluator
from spd_tools.training.figures import draw_figures
from spd_tools.training.loop import Record
from spd_tools.training.metric_configs import FIGURES, EvalMetricConfig
from spd_tools.training.reporting import METRICS_NAME, MetricsLog, Progress, WandbLog
from spd_tools.training.run_folder import FIGURES_NAME, write_model
from spd_tools.training.trainer import Trainer


class RunReport:
    """Evaluations, figures and files of the first rank."""

    def __init__(
        self,
        config: TrainingConfig,
        trainer: Trainer,
        folder: Path,
        *,
        steps_done: int,
        metrics: list[EvalMetricConfig],
        batches: Batches,
        raw: dict[str, Any],
        wandb: bool,
        quiet: bool,
    ) -> None:
        """Open the logs.

        Args:
            config: The training's.
            trainer: What is trained.
            folder: The run's.
            steps_done: Steps that it goes on from.
            metrics: What is evaluated beside the losses.
            batches: Of the evaluation.
            raw: The configuration as a mapping, for W&B.
            wandb: Whether to log there.
            quiet: No lines on stderr.

        Raises:
            SpdToolsError: when the folder cannot be written or W&B refuses.
        """
        self._config, self._trainer, self._folder, self._metrics = config, trainer, folder, metrics
        self._evaluator = Evaluator(trainer.model, config, metrics, trainer.losses, batches.evaluation, trainer.device)
        self._log = MetricsLog(folder / METRICS_NAME, steps_done=steps_done)
        self._progress = Progress(config.steps, steps_done=steps_done, quiet=quiet)
        self._wandb = WandbLog(config.wandb_project or "spd-tools", folder.name, raw) if wandb else None

    def log(self, step: int, record: Record) -> None:
        """One record of a training step, everywhere."""
        self._write("train", step, record, [])

    def evaluate(self, step: int) -> None:
        """Measure, draw figures where they are due, and log."""
        found, importances = self._evaluator.measure(step)
        figures: list[Path] = []
        if self._figures_due(step):
            figures = draw_figures(
                self._trainer.model,
                self._metrics,
                importances,
                self._config.n_eval_steps,
                self._folder / FIGURES_NAME,
                step,
            )
        self._write("eval", step, found, figures)

    def _write(self, split: str, step: int, values: Record, figures: list[Path]) -> None:
        self._log.write(split, step, values)
        self._progress.show(split, step, values)
        if self._wandb is not None:
            self._wandb.write(split, step, values, figures)

    def _figures_due(self, step: int) -> bool:
        if not any(metric.classname in FIGURES for metric in self._metrics):
            return False
        if step == 0:
            return self._config.slow_eval_on_first_step
        every = self._config.slow_eval_freq or self._config.eval_freq
        return step % every == 0 or step == self._config.steps

    def save_model(self, step: int) -> None:
        """Write the model as it is now."""
        write_model(self._folder, step, self._trainer.model.modules_by_key())

    def finish(self) -> None:
        """Close the logs."""
        if self._wandb is not None:
            self._wandb.finish()
