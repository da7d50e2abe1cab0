"""Training written for reading: AdamW, (row-wise) Adagrad, warm-up and cosine, clipping.

All in one process on whole batches; `jobs.loop`, torch's optimizers and TorchRec's kernels do the
same elsewhere.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from embeddings.settings import EmbeddingSettings
from jobs.sections import TrainingSettings

ADAM_EPSILON = 1e-8


@dataclass
class PlainAdamW:
    """Decoupled weight decay, of matrices only."""

    betas: tuple[float, float]
    weight_decay: float
    first: dict[str, Tensor] = field(default_factory=dict)
    second: dict[str, Tensor] = field(default_factory=dict)

    def step(self, number: int, parameters: dict[str, Tensor], rate: float) -> None:
        for name, parameter in parameters.items():
            gradient = parameter.grad
            first, second = self.first.get(name, 0.0), self.second.get(name, 0.0)
            first = self.betas[0] * first + (1 - self.betas[0]) * gradient
            second = self.betas[1] * second + (1 - self.betas[1]) * gradient**2
            self.first[name], self.second[name] = first, second
            unbiased = first / (1 - self.betas[0] ** number)
            spread = (second / (1 - self.betas[1] ** number)).sqrt()
            if parameter.ndim > 1:
                parameter.sub_(rate * self.weight_decay * parameter)
            parameter.sub_(rate * unbiased / (spread + ADAM_EPSILON))


@dataclass
class PlainAdagrad:
    """A sum of squares for each number, or (row-wise) of their mean for each row."""

    row_wise: bool
    epsilon: float
    sums: dict[str, Tensor] = field(default_factory=dict)

    def step(self, parameters: dict[str, Tensor], rate: float) -> None:
        for name, parameter in parameters.items():
            squares = parameter.grad**2
            if self.row_wise:
                squares = squares.mean(1, keepdim=True)
            self.sums[name] = self.sums.get(name, 0.0) + squares
            parameter.sub_(rate * parameter.grad / (self.sums[name].sqrt() + self.epsilon))


def factor(step: int, settings: TrainingSettings, num_steps: int) -> float:
    """The share of the peak rate: a line up, then a cosine from 1 to a tenth."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / (num_steps - settings.warmup_steps)
    return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


def train_plainly(
    model: nn.Module,
    losses: Callable[[nn.Module, int], tuple[Tensor, Tensor]],
    settings: TrainingSettings,
    embeddings: EmbeddingSettings,
    num_steps: int,
) -> list[list[float]]:
    """Every step's losses, one of each kind; `losses(model, step)` are sums and counts."""
    parameters = dict(model.named_parameters())
    tables = {name: p for name, p in parameters.items() if name.startswith("tables.")}
    dense = {name: p for name, p in parameters.items() if name not in tables}
    dense_adamw = PlainAdamW(settings.betas, settings.weight_decay)
    table_adamw = PlainAdamW(settings.betas, embeddings.weight_decay)
    adagrad = PlainAdagrad(embeddings.optimizer == "rowwise_adagrad", embeddings.eps)
    history = []
    for step in range(num_steps):
        model.zero_grad()
        sums, counts = losses(model, step)
        means = sums / counts
        means.sum().backward()
        history.append(means.tolist())
        rate = factor(step, settings, num_steps)
        with torch.no_grad():
            if embeddings.optimizer == "adamw":
                clip([*dense.values(), *tables.values()], settings.clip_norm)
                table_adamw.step(step + 1, tables, embeddings.learning_rate * rate)
            else:
                clip(dense.values(), settings.clip_norm)
                adagrad.step(tables, embeddings.learning_rate)
            dense_adamw.step(step + 1, dense, settings.learning_rate * rate)
    return history


def clip(parameters: Iterable[Tensor], largest: float) -> None:
    gradients = [parameter.grad for parameter in parameters]
    norm = sum(gradient.square().sum() for gradient in gradients) ** 0.5
    for gradient in gradients:
        gradient.mul_(min(1.0, largest / (norm + 1e-6)))
