"""The probes of one task: on the best latent, on the best channel, on all channels, and without looking.

All are fitted to the training examples and scored on the held-out ones. The best latent is the one of the least
training loss, the ridge's share with it: one minimum over i, w and b (Gao et al. 2024, §4.2).
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from monosem.evaluation.tasks.task import Task
from monosem.ops.logistic import fit_logistic

# Values of one chunk of latents on all training examples: 2 MB in float32 stay in a CPU's cache; a GPU wants more work.
_CHUNK_ELEMENTS, _CHUNK_ELEMENTS_GPU = 1 << 19, 1 << 24
# Of what the lengths of a latent's encoder row and of the inputs allow: a smaller spread is float32's rounding.
LEAST_SPREAD = 1e-6
# Latents within this much of the least loss in float32, in nats, are fitted again in float64, the best ones first, and
# no more than so many. Float32's own error is a tenth of it (ops/reference_logistic).
MARGIN, MOST_POLISHED = 1e-5, 256


class Examples(NamedTuple):
    """A task's examples of one side."""

    x: Float64[Tensor, "examples d_model"]
    """Preprocessed activations, less their mean over the training examples."""
    labels: Bool[Tensor, " examples"]
    documents: Int64[Tensor, " examples"]


class TaskExamples(NamedTuple):
    """A task's examples."""

    training: Examples
    held_out: Examples
    mean: Float64[Tensor, " d_model"]
    """What was taken from x: it would cost float32 digits, and b takes it up."""


class Scores(NamedTuple):
    """How a probe does on each held-out example."""

    losses: Float64[Tensor, " examples"]
    """−log of the probability it gives to the label, in nats."""
    is_correct: Bool[Tensor, " examples"]
    """Whether that is above a half."""


class Probe(NamedTuple):
    """The best one-dimensional probe, σ(w · direction · x + b) with x less its mean."""

    direction: int
    """By number; the lowest where several are equal."""
    w: float
    b: float
    training_loss: float
    """Mean over training examples in nats, without the ridge's share."""
    held_out: Scores
    not_converged: int
    """Directions whose fit had not reached its minimum after the last step."""


def split_examples(
    task: Task, x: Float[Tensor, "examples d_model"], documents: Int64[Tensor, " examples"]
) -> TaskExamples:
    """Training and held-out examples, given each one's preprocessed activation and document."""
    x = x.double()
    mean = x[task.is_training].mean(dim=0)

    def side(chosen: Tensor) -> Examples:
        return Examples(x[chosen] - mean, task.labels[chosen], documents[chosen])

    return TaskExamples(side(task.is_training), side(~task.is_training), mean)


def best_probe(examples: TaskExamples, directions: Float[Tensor, "directions d_model"] | None, ridge: float) -> Probe:
    """The probe of the least training loss on one direction's product with x; without directions, on one channel of x.

    All are fitted in float32, a chunk of directions at a time; those that might be the best again in float64.
    """
    training, held_out, _ = examples
    losses, is_constant, is_converged = _fit_all(training, directions, ridge)
    index, w, b, least, not_converged = int(losses.argmin()), 0.0, 0.0, float("inf"), int((~is_converged).sum())
    near = (losses.where(~is_constant, torch.inf) <= losses.min() + MARGIN).nonzero().squeeze(1)
    polished = near[losses[near].argsort(stable=True)[:MOST_POLISHED]].sort().values
    for candidate in polished.tolist() or [index]:
        z = _values(training.x, directions, candidate)
        fit = fit_logistic(z[None], training.labels, _least_spread(training.x, directions, candidate), ridge)
        not_converged += int(not fit.is_converged)
        if float(fit.losses) < least:
            index, w, b, least = candidate, float(fit.slopes), float(fit.intercepts), float(fit.losses)
    training_loss = least - ridge / 2 * (w * _values(training.x, directions, index).std(correction=0).item()) ** 2
    scores = score(w * _values(held_out.x, directions, index) + b, held_out.labels)
    return Probe(index, w, b, training_loss, scores, not_converged)


def _fit_all(
    training: Examples, directions: Tensor | None, ridge: float
) -> tuple[Float64[Tensor, " n"], Bool[Tensor, " n"], Bool[Tensor, " n"]]:
    """Each direction's least training loss in float32, whether it is constant, and whether its fit converged."""
    device = torch.device("cpu") if directions is None else directions.device
    x, labels = training.x.float().to(device), training.labels.to(device)
    n = x.shape[1] if directions is None else len(directions)
    elements = _CHUNK_ELEMENTS if device.type == "cpu" else _CHUNK_ELEMENTS_GPU
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for part in torch.arange(n).split(max(1, elements // len(x))):
        here = slice(int(part[0]), int(part[-1]) + 1)
        z = x.T[here] if directions is None else directions[here].to(x) @ x.T
        fits = fit_logistic(z, labels, _least_spread(x, directions, here), ridge)
        found.append((fits.losses.cpu(), fits.slopes.cpu() == 0, fits.is_converged.cpu()))
    losses, is_constant, is_converged = (torch.cat(each) for each in zip(*found, strict=True))
    return losses, is_constant, is_converged


def _values(x: Tensor, directions: Tensor | None, index: int) -> Float64[Tensor, " examples"]:
    """One direction's product with x, in float64."""
    return x[:, index] if directions is None else x @ directions[index].to(x)


def _least_spread(x: Tensor, directions: Tensor | None, here: slice | int) -> Float[Tensor, " some"]:
    """The standard deviation at or below which a direction counts as constant on centred x."""
    length = x.square().sum(dim=1).mean().sqrt()
    if directions is None:
        return (LEAST_SPREAD * length).expand(x.shape[1])[here].reshape(-1)
    return LEAST_SPREAD * length * directions[here].to(x).reshape(-1, x.shape[1]).norm(dim=1)


def score(logits: Float64[Tensor, " examples"], labels: Bool[Tensor, " examples"]) -> Scores:
    """−log σ(±logit) of each example."""
    losses = -torch.nn.functional.logsigmoid(torch.where(labels, logits, -logits))
    return Scores(losses, (logits > 0) == labels)


def constant_probe(examples: TaskExamples) -> Scores:
    """Giving every example the share of positive training examples."""
    labels = examples.held_out.labels
    return score(torch.logit(examples.training.labels.double().mean()).expand(len(labels)), labels)


class LinearProbe(NamedTuple):
    """A logistic regression on all channels of x."""

    ridge: float
    """On standardised channels; the one of those tried that does best on training documents left out."""
    held_out: Scores


def linear_probe(examples: TaskExamples, ridges: tuple[float, ...], generator: torch.Generator) -> LinearProbe:
    """Logistic regression on standardised channels.

    With hundreds of channels and few examples the ridge decides. It is chosen on a fifth of the training documents that
    the others are fitted without; the strongest, where these have one class only.
    """
    training, held_out, _ = examples
    spreads = training.x.std(dim=0, correction=0)
    spreads = spreads.where(spreads > _least_spread(training.x, None, slice(None)), torch.inf)
    x, labels = training.x / spreads, training.labels
    documents, document_of = training.documents.unique(return_inverse=True)
    is_left_out = (torch.randperm(len(documents), generator=generator) < -(-len(documents) // 5))[document_of]
    fitted, tried = ~is_left_out, {max(ridges): 0.0}
    if len(ridges) > 1 and len(labels[fitted].unique()) == 2:
        tried = {ridge: _linear_loss(x, labels, fitted, is_left_out, ridge) for ridge in ridges}
    ridge = min(tried, key=tried.__getitem__)
    return LinearProbe(ridge, score(_linear_logits(x, labels, held_out.x / spreads, ridge), held_out.labels))


def _linear_loss(x: Tensor, labels: Tensor, fitted: Tensor, left_out: Tensor, ridge: float) -> float:
    logits = _linear_logits(x[fitted], labels[fitted], x[left_out], ridge)
    return float(score(logits, labels[left_out]).losses.mean())


def _linear_logits(x: Tensor, labels: Tensor, asked: Tensor, ridge: float) -> Float64[Tensor, " asked"]:
    """What min over w, b of mean[−log σ(±(w · x + b))] + (ridge / 2) ‖w‖² gives for other examples."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / (ridge * len(x)), max_iter=10_000, tol=1e-6)
    model.fit(x.numpy(), labels.numpy())
    return torch.from_numpy(model.decision_function(asked.numpy())).double()
