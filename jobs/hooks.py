"""What a training run does now and then: progress, metrics, validation, checkpoints."""

import math
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jobs.checkpoints import CheckpointStore
from jobs.loop import StepReport, TrainingLoop
from jobs.metrics import RankingMetrics, RankingResult
from jobs.runs import RunFolder, write_json
from pipeline.errors import DataError, NonFiniteLossError

__all__ = ["CheckpointHook", "MetricsHook", "ProgressHook", "ValidationHook"]

_PROGRESS_PERIOD_S = 0.5
_PLAIN_PERIOD_S = 10.0


class ProgressHook:
    """A bar on a terminal, a line now and then in a log, and progress.json for watchers."""

    def __init__(self, run: RunFolder, title: str) -> None:
        self._run, self._title = run, title
        self._bar: tqdm[Any] | None = None
        self._written_s = self._printed_s = time.monotonic()

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Show the step."""
        if not loop.world.is_first:
            return
        if self._bar is None:
            self._bar = self._new_bar(loop)
        self._bar.update(loop.progress.step - self._bar.n)
        self._bar.set_postfix(loss=f"{report.loss:.4f}", refresh=False)
        now = time.monotonic()
        finished = loop.progress.step == loop.total_steps
        if finished or now - self._written_s > _PROGRESS_PERIOD_S:
            self._written_s = now
            done = {"step": loop.progress.step, "total_steps": loop.total_steps}
            note = f"loss {report.loss:.4f}"
            write_json(self._run.path / "progress.json", {**done, "note": note})
        if finished:
            self._bar.close()
        if self._bar.disable and (finished or now - self._printed_s > _PLAIN_PERIOD_S):
            self._printed_s = now
            print(
                f"{self._title}: step {loop.progress.step} of {loop.total_steps}, "
                f"epoch {loop.epoch_fraction:.2f}, loss {report.loss:.4f}",
                flush=True,
            )

    def _new_bar(self, loop: TrainingLoop) -> "tqdm[Any]":
        return tqdm(
            total=loop.total_steps,
            initial=loop.progress.step - 1,
            desc=self._title,
            unit="step",
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
        )


class MetricsHook:
    """Losses, rates and, in ranking, the AUC of the batches since the last line, to metrics.jsonl.

    That training AUC is progressive: each batch is scored before the model learns from it.
    """

    def __init__(self, run: RunFolder, every_steps: int, *, with_auc: bool) -> None:
        self._run, self._every_steps, self._with_auc = run, every_steps, with_auc
        self.figures: dict[str, float] = {}
        self._clear()

    def _clear(self) -> None:
        self._auc = RankingMetrics() if self._with_auc else None
        self._losses: dict[str, float] = {}
        self._num_steps = self._num_samples = 0
        self._seconds = 0.0

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Add the step up, and write a line every so many steps."""
        for name, loss in report.losses.items():
            self._losses[name] = self._losses.get(name, 0.0) + loss
        self._num_steps += 1
        self._num_samples += report.num_samples
        self._seconds += report.seconds
        if self._auc is not None and report.sums.logits is not None:
            self._auc.update(report.sums.logits, report.batch.labels, report.batch.weights)
        finished = loop.progress.step == loop.total_steps
        if loop.progress.step % self._every_steps == 0 or finished:
            self._write(loop, report)

    def _write(self, loop: TrainingLoop, report: StepReport) -> None:
        samples = torch.tensor(float(self._num_samples), device=loop.world.device)
        loop.world.sum_over_ranks(samples)
        losses = {name: total / self._num_steps for name, total in self._losses.items()}
        line: dict[str, Any] = {
            "kind": "train",
            "step": loop.progress.step,
            "epoch": loop.epoch_fraction,
            "loss": sum(losses.values()),
            "losses": losses,
            "samples": int(samples),
            "seconds": self._seconds,
            "samples_per_s": float(samples) / self._seconds,
            "learning_rate": report.learning_rate,
            "gradient_norm": report.gradient_norm,
        }
        if self._auc is not None:
            self._auc.reduce(loop.world.sum_over_ranks)
            line["auc"] = self._auc.result().auc
        if loop.world.is_first:
            self._run.log(line)
        names = ("loss", "auc", "learning_rate", "gradient_norm")
        self.figures = {name: line[name] for name in names if name in line}
        self._clear()


class ValidationHook:
    """Validation within and across epochs; the best model so far is kept as a checkpoint."""

    def __init__(
        self,
        run: RunFolder,
        evaluate: Callable[[], RankingResult],
        checkpoints: CheckpointStore,
        per_epoch: int,
        best_auc: float,
    ) -> None:
        """`best_auc`: what a resumed run had reached already, on all ranks alike."""
        self._run, self._evaluate, self._checkpoints = run, evaluate, checkpoints
        self._per_epoch = per_epoch
        self._best_auc = best_auc
        self.figures: dict[str, float] = {}

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Evaluate at equal distances within the epoch, and at its end."""
        del report
        if not self._is_due(loop.progress.step, loop.reader.steps_per_epoch):
            return
        result = self._evaluate()
        if result.num_samples and math.isnan(result.log_loss):
            raise NonFiniteLossError(
                f"step {loop.progress.step}: the model's scores of the validation days are NaN; "
                "the checkpoints from before are kept; start over with a lower learning_rate"
            )
        if math.isnan(result.auc):
            raise DataError(
                f"validation: {result.num_positives} positives among {result.num_samples} "
                "candidates, so no AUC to choose a model by; choose other days.validation"
            )
        self.figures = {
            "validation_auc": result.auc,
            "validation_log_loss": result.log_loss,
            "validation_calibration_ratio": result.calibration,
        }
        if loop.world.is_first:
            line = {"kind": "evaluation", "split": "validation", "step": loop.progress.step}
            self._run.log({**line, "epoch": loop.epoch_fraction, **asdict(result)})
        if result.auc > self._best_auc:
            self._best_auc = result.auc
            self._checkpoints.save_best(loop.progress)

    def _is_due(self, step: int, steps_per_epoch: int) -> bool:
        in_epoch = step % steps_per_epoch or steps_per_epoch
        passed = in_epoch * self._per_epoch // steps_per_epoch
        return passed > (in_epoch - 1) * self._per_epoch // steps_per_epoch


class CheckpointHook:
    """A checkpoint every so many steps, and at the end."""

    def __init__(self, checkpoints: CheckpointStore, every_steps: int) -> None:
        self._checkpoints, self._every_steps = checkpoints, every_steps
        self.figures: dict[str, float] = {}

    def after_step(self, loop: TrainingLoop, report: StepReport) -> None:
        """Save when the step number says so."""
        del report
        if loop.progress.step % self._every_steps == 0 or loop.progress.step == loop.total_steps:
            started_s = time.monotonic()
            path = self._checkpoints.save(loop.progress)
            if loop.world.is_first:
                self._measure(path, time.monotonic() - started_s)

    def _measure(self, path: Path, seconds: float) -> None:
        before = self.figures
        self.figures = {
            "checkpoints_total": before.get("checkpoints_total", 0) + 1,
            "checkpoint_seconds_total": before.get("checkpoint_seconds_total", 0) + seconds,
            "checkpoint_bytes": sum(file.stat().st_size for file in path.glob("*")),
        }
