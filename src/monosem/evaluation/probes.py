"""How well single latents predict known features: the probe loss (Gao et al. 2024, §4.2).

For each task, a one-dimensional logistic probe is fitted to each latent's pre-activation; the one of the least training
loss counts, its loss is measured on held-out examples, and the score is the mean over tasks. Beside it, on the same
examples: the best single channel of what the autoencoder reads, found in the same way; a logistic regression on all
channels; and the share of positive training examples, the loss of knowing nothing.

Intervals come from drawing the held-out documents again, all tasks' at once, for examples of one document are alike and
tasks may share documents. They say how well the losses on these tasks are known, given the fitted probes; not how they
would differ on other tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from monosem.config import require_positive
from monosem.errors import UserError
from monosem.evaluation.bootstrap import Estimate, draw_documents, estimate
from monosem.evaluation.probe_fits import (
    LinearProbe,
    Probe,
    Scores,
    best_probe,
    constant_probe,
    linear_probe,
    split_examples,
)
from monosem.evaluation.probe_inputs import count_contexts, read_inputs
from monosem.evaluation.progress import Report, counting
from monosem.evaluation.tasks.task import Task, TaskPool
from monosem.ops.reference_logistic import LEAST_RIDGE
from monosem.randomness import derive_generator
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.model import SubjectModel

# What is fitted, and how the metric of its mean loss is named.
PROBES = {
    "latent": "probe_loss",
    "channel": "probe_loss_channel",
    "linear": "probe_loss_linear",
    "constant": "probe_loss_constant",
}
# Draws of as many documents as there are, 32 MB in float64, are made at once; others in parts.
_DRAWS_ELEMENTS = 1 << 22


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How probes are fitted."""

    ridge: float = 1e-4
    """Half of it times the squared slope is added to the mean loss, in nats, of a one-dimensional probe on standardised
    values. Where the classes are separable it stands in the way of an infinite slope; a perfect latent scores 0.001."""
    linear_ridges: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
    """The same for the logistic regression on all channels; the best on a fifth of the training documents is taken."""
    bootstrap_samples: int = 1000
    """Samples of held-out documents behind each interval."""

    def __post_init__(self) -> None:
        if not LEAST_RIDGE <= self.ridge < float("inf"):
            raise UserError(
                f"ridge={self.ridge} is below {LEAST_RIDGE:g} or not finite; without a ridge the probes of separable "
                "tasks diverge."
            )
        if not self.linear_ridges or not all(0 < ridge < float("inf") for ridge in self.linear_ridges):
            raise UserError(f"linear_ridges={list(self.linear_ridges)} are not positive numbers; give at least one.")
        require_positive(self, "bootstrap_samples")


@dataclass(frozen=True, kw_only=True)
class TaskProbes:
    """The probes of one task."""

    name: str
    description: str
    level: str
    training_examples: int
    held_out_examples: int
    held_out_documents: int
    positive_share: float
    """Of the training examples."""
    latent: int
    """The one of the least training loss."""
    w: float
    """Of σ(w z + b), with z the latent's pre-activation as ``Autoencoder.pre_activations`` gives it."""
    b: float
    training_loss: float
    """Of the best latent's probe: nats an example, without the ridge's share."""
    channel: int
    """The best one; of a crosscoder the hookpoints' lie side by side."""
    linear_ridge: float
    not_converged: int
    """Latents and channels whose fit had not reached its minimum after the last step."""
    losses: Mapping[str, Estimate]
    """On held-out examples, by the names of PROBES; nats an example."""
    accuracies: Mapping[str, Estimate]
    """The share of held-out examples whose label gets more than half of the probability."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {
            "losses": {name: each._asdict() for name, each in self.losses.items()},
            "accuracies": {name: each._asdict() for name, each in self.accuracies.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ProbeResults:
    """The probes of all tasks."""

    config: ProbeConfig
    seed: int
    n_latents: int
    contexts: int
    """That the subject has read."""
    held_out_documents: int
    """Behind the intervals."""
    metrics: Mapping[str, Estimate]
    """Means over tasks: losses by the names in PROBES, accuracies as ``probe_accuracy…``."""
    tasks: tuple[TaskProbes, ...]

    def to_dict(self) -> dict[str, Any]:
        """What stands in eval.json."""
        return {
            "settings": asdict(self.config) | {"linear_ridges": list(self.config.linear_ridges), "seed": self.seed},
            "n_latents": self.n_latents,
            "contexts": self.contexts,
            "held_out_documents": self.held_out_documents,
            "not_converged": sum(task.not_converged for task in self.tasks),
            "metrics": {name: each._asdict() for name, each in self.metrics.items()},
            "tasks": [task.to_dict() for task in self.tasks],
        }


class _Fitted(NamedTuple):
    """A task's probes and what they make of its held-out examples."""

    task: Task
    latent: Probe
    channel: Probe
    linear: LinearProbe
    b: float
    """Of the latent's probe on pre-activations as they are."""
    scores: Float64[Tensor, "examples scores"]
    """The losses of PROBES, then whether each is right."""
    documents: Int64[Tensor, " examples"]


@torch.no_grad()
def measure_probes(
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    pool: TaskPool,
    config: ProbeConfig,
    *,
    seed: int,
    report: Report | None = None,
) -> ProbeResults:
    """Read the tasks' contexts once, fit every task's probes, and score them on its held-out examples.

    Args:
        report: called with what is done and in all, in contexts read and examples whose probes are fitted.

    Raises:
        UserError: a task's training examples are of one class, or none is held out; or see ``read_inputs``.
    """
    for task in pool.tasks:
        _require_examples(task)
    if not pool.tasks:
        raise UserError("There are no tasks to probe; name at least one.")
    n_contexts = count_contexts(pool)
    advance = counting(report, n_contexts + sum(len(task.labels) for task in pool.tasks))
    inputs = read_inputs(sae, subject, site, pool, advance)
    fitted: list[_Fitted] = []
    for task, rows in zip(pool.tasks, inputs.rows, strict=True):
        documents = pool.contexts.documents[task.contexts]
        fitted.append(_fit(sae, task, inputs.x[rows], documents, config, seed))
        advance(len(rows))
    means = resample_means(
        [(each.scores, each.documents) for each in fitted],
        samples=config.bootstrap_samples,
        generator=derive_generator(seed, "probes", "bootstrap"),
    )
    return ProbeResults(
        config=config,
        seed=seed,
        n_latents=sae.n_latents,
        contexts=n_contexts,
        held_out_documents=len(torch.cat([each.documents for each in fitted]).unique()),
        metrics=_metrics(means.mean(dim=1)),
        tasks=tuple(_task_probes(each, means[:, number]) for number, each in enumerate(fitted)),
    )


def _require_examples(task: Task) -> None:
    labels, held_out = task.labels[task.is_training], int((~task.is_training).sum())
    if len(labels.unique()) < 2:
        raise UserError(
            f"The {len(labels):,} training examples of the task {task.name} are not of two classes; give more text, or "
            "leave the task out."
        )
    if held_out == 0:
        raise UserError(f"The task {task.name} holds out no example; give more text, or leave the task out.")


def _fit(sae: Autoencoder, task: Task, x: Tensor, documents: Tensor, config: ProbeConfig, seed: int) -> _Fitted:
    """Fit a task's probes, given each example's preprocessed activation and document."""
    examples = split_examples(task, x, documents)
    # Probes run where the encoder lies if that is a GPU with float64, and else on the CPU.
    W_enc = sae.W_enc.detach() if sae.W_enc.is_cuda else sae.W_enc.detach().cpu()
    latent = best_probe(examples, W_enc, config.ridge)
    channel = best_probe(examples, None, config.ridge)
    linear = linear_probe(examples, config.linear_ridges, derive_generator(seed, "probes", "linear", task.name))
    scores = (latent.held_out, channel.held_out, linear.held_out, constant_probe(examples))
    b = latent.b - latent.w * _mean_pre_activation(sae, latent.direction, examples.mean)
    return _Fitted(task, latent, channel, linear, b, _columns(scores), examples.held_out.documents)


def _mean_pre_activation(sae: Autoencoder, latent: int, mean: Float64[Tensor, " d_model"]) -> float:
    """A latent's pre-activation at the mean of x."""
    weights, bias = sae.W_enc[latent].cpu().double(), sae.pre_activation_bias[latent].cpu().double()
    return float((mean - sae.b_pre.cpu().double()) @ weights + bias)


def _columns(scores: Sequence[Scores]) -> Float64[Tensor, "examples scores"]:
    losses, is_correct = zip(*scores, strict=True)
    return torch.stack([*losses, *(each.double() for each in is_correct)], dim=1)


def _task_probes(fitted: _Fitted, means: Float64[Tensor, "all_and_samples scores"]) -> TaskProbes:
    task, estimates = fitted.task, [estimate(column) for column in means.T]
    return TaskProbes(
        name=task.name,
        description=task.description,
        level=task.level,
        training_examples=int(task.is_training.sum()),
        held_out_examples=len(fitted.documents),
        held_out_documents=len(fitted.documents.unique()),
        positive_share=float(task.labels[task.is_training].double().mean()),
        latent=fitted.latent.direction,
        w=fitted.latent.w,
        b=fitted.b,
        training_loss=fitted.latent.training_loss,
        channel=fitted.channel.direction,
        linear_ridge=fitted.linear.ridge,
        not_converged=fitted.latent.not_converged + fitted.channel.not_converged,
        losses=dict(zip(PROBES, estimates[: len(PROBES)], strict=True)),
        accuracies=dict(zip(PROBES, estimates[len(PROBES) :], strict=True)),
    )


def _metrics(means: Float64[Tensor, "all_and_samples scores"]) -> dict[str, Estimate]:
    losses = list(PROBES.values())
    names = [*losses, *(name.replace("loss", "accuracy") for name in losses)]
    return {name: estimate(column) for name, column in zip(names, means.T, strict=True)}


def resample_means(
    tasks: Sequence[tuple[Float64[Tensor, "_ scores"], Int64[Tensor, " _"]]],
    *,
    samples: int,
    generator: torch.Generator,
) -> Float64[Tensor, "all_and_samples tasks scores"]:
    """Each task's mean scores on all held-out examples, and then on samples of documents drawn with replacement.

    One draw of documents serves all tasks. NaN where a task's examples are from one document only, or none was drawn.

    Args:
        tasks: of each, its examples' scores and documents.
    """
    documents = torch.cat([of_examples for _, of_examples in tasks]).unique()
    found = [torch.stack([scores.mean(dim=0) for scores, _ in tasks])[None]]
    where = [torch.searchsorted(documents, of_examples) for _, of_examples in tasks]
    part = max(1, _DRAWS_ELEMENTS // len(documents))
    for start in range(0, samples, part):
        counts = draw_documents(len(documents), min(part, samples - start), generator)
        means: list[Tensor] = []
        for (scores, _), places in zip(tasks, where, strict=True):
            drawn = counts[:, places]
            mean = drawn @ scores / drawn.sum(dim=1, keepdim=True)
            means.append(mean if len(places.unique()) > 1 else torch.full_like(mean, torch.nan))
        found.append(torch.stack(means, dim=1))
    return torch.cat(found)
