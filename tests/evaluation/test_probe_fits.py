"""The probes of one task, on made activations."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from monosem.evaluation import probe_fits
from monosem.evaluation.probe_fits import (
    MARGIN,
    TaskExamples,
    best_probe,
    constant_probe,
    linear_probe,
    score,
    split_examples,
)
from monosem.evaluation.tasks.task import Task
from monosem.ops.logistic import fit_logistic

RIDGE = 1e-4


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def labelled(n: int, share: float = 0.5, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Labels, and which examples are for training: about a half."""
    return torch.rand(n, generator=seeded(seed)) < share, torch.rand(n, generator=seeded(seed + 1)) < 0.5


def made(x: Tensor, labels: Tensor, is_training: Tensor, documents: Tensor | None = None) -> TaskExamples:
    documents = torch.arange(len(x)) if documents is None else documents
    task = Task(
        name="made",
        description="",
        level="token",
        contexts=torch.arange(len(x)),
        positions=torch.zeros(len(x), dtype=torch.int64),
        labels=labels,
        is_training=is_training,
    )
    return split_examples(task, x, documents)


def directions(n: int, d_model: int) -> Tensor:
    return torch.randn(n, d_model, generator=seeded(9))


def test_each_example_lies_on_its_side_without_the_training_mean() -> None:
    labels, is_training = labelled(31)
    x = torch.randn(31, 3, generator=seeded()) + 5
    examples = made(x, labels, is_training, torch.arange(31) // 2)
    torch.testing.assert_close(examples.mean, x[is_training].double().mean(dim=0))
    torch.testing.assert_close(examples.training.x + examples.mean, x[is_training].double())
    torch.testing.assert_close(examples.held_out.x + examples.mean, x[~is_training].double())
    assert torch.equal(examples.held_out.labels, labels[~is_training])
    assert torch.equal(examples.training.documents, (torch.arange(31) // 2)[is_training])


def test_the_best_of_all_is_that_of_every_latent_fitted_in_float64() -> None:
    labels, is_training = labelled(307, 0.2)
    x = torch.randn(307, 11, generator=seeded()) + 0.3 * labels[:, None]
    W = directions(53, 11)
    probe = best_probe(made(x, labels, is_training), W, RIDGE)
    z = W.double() @ x.double().T
    fits = fit_logistic(z[:, is_training], labels[is_training], torch.zeros(53), RIDGE)
    best = int(fits.losses.argmin())
    expected = score(fits.slopes[best] * z[best] + fits.intercepts[best], labels)
    assert probe.direction == best
    assert probe.not_converged == 0
    assert probe.training_loss == pytest.approx(float(expected.losses[is_training].mean()), rel=1e-9)
    torch.testing.assert_close(probe.held_out.losses, expected.losses[~is_training])
    assert torch.equal(probe.held_out.is_correct, expected.is_correct[~is_training])


def test_a_latent_that_is_the_label_loses_what_the_ridge_takes() -> None:
    """On values ±1 the slope solves σ(−w) = ridge · w; every example loses log(1 + e⁻ʷ), 0.0009 at a ridge of 1e-4."""
    labels = torch.arange(400) % 2 == 0
    is_training = torch.arange(400) < 200
    x = torch.randn(400, 5, generator=seeded())
    x[:, 3] = 2.0 * labels - 1
    probe = best_probe(made(x, labels, is_training), torch.eye(5), RIDGE)
    w = 7.0
    for _ in range(50):
        w = math.log(1 / (RIDGE * w) - 1)
    assert probe.direction == 3
    assert probe.w == pytest.approx(w, rel=1e-5)
    torch.testing.assert_close(probe.held_out.losses, torch.full((200,), math.log1p(math.exp(-w))).double())
    assert probe.held_out.losses.mean() < 1e-3
    assert probe.held_out.is_correct.all()


def test_a_latent_that_knows_nothing_loses_what_the_constant_does() -> None:
    labels, is_training = labelled(20_000, 0.3)
    examples = made(torch.randn(20_000, 4, generator=seeded()), labels, is_training)
    probe = best_probe(examples, directions(1, 4), RIDGE)
    of_constant = float(constant_probe(examples).losses.mean())
    assert of_constant == pytest.approx(-0.3 * math.log(0.3) - 0.7 * math.log(0.7), abs=0.01)
    assert float(probe.held_out.losses.mean()) == pytest.approx(of_constant, abs=1e-3)


def test_the_latent_is_chosen_on_training_examples_alone() -> None:
    """One latent is the label in training and its opposite where held out; another is a little noisy everywhere."""
    labels, is_training = labelled(1000)
    x = torch.zeros(1000, 2)
    x[:, 0] = torch.where(is_training, 2.0 * labels - 1, 1 - 2.0 * labels)
    x[:, 1] = 2.0 * labels - 1 + 0.4 * torch.randn(1000, generator=seeded())
    probe = best_probe(made(x, labels, is_training), torch.eye(2), RIDGE)
    assert probe.direction == 0
    assert probe.training_loss < 1e-3
    assert probe.held_out.losses.mean() > 5
    assert not probe.held_out.is_correct.any()
    other = best_probe(made(x[:, 1:], labels, is_training), torch.eye(1), RIDGE)
    assert other.held_out.losses.mean() < 0.1


@pytest.mark.parametrize("elements", [1, 1000, 1 << 30])
def test_chunks_of_any_size_give_the_same_bits(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    labels, is_training = labelled(307)
    examples = made(torch.randn(307, 11, generator=seeded()) + 0.3 * labels[:, None], labels, is_training)
    expected = best_probe(examples, directions(97, 11), RIDGE)
    monkeypatch.setattr(probe_fits, "_CHUNK_ELEMENTS", elements)
    found = best_probe(examples, directions(97, 11), RIDGE)
    assert found[:4] == expected[:4]
    assert torch.equal(found.held_out.losses, expected.held_out.losses)


def test_of_latents_that_float32_cannot_tell_apart_the_better_is_chosen() -> None:
    labels, is_training = labelled(301)
    x = torch.randn(301, 7, generator=seeded()) + 0.5 * labels[:, None]
    W = directions(1, 7) + 3e-7 * torch.randn(100, 7, generator=seeded(4), dtype=torch.float64).float()
    z = W.double() @ x[is_training].double().T
    losses = fit_logistic(z, labels[is_training], torch.zeros(100), RIDGE).losses
    assert losses.max() - losses.min() < MARGIN / 10
    assert best_probe(made(x, labels, is_training), W, RIDGE).direction == int(losses.argmin())


def test_of_equal_latents_the_first_is_chosen() -> None:
    labels, is_training = labelled(101)
    x = torch.randn(101, 7, generator=seeded())
    W = directions(40, 7)
    best = best_probe(made(x, labels, is_training), W, RIDGE).direction
    W[39] = W[0] = W[best]
    assert best_probe(made(x, labels, is_training), W, RIDGE).direction == 0


def test_constant_latents_give_the_base_rate() -> None:
    labels, is_training = labelled(101, 0.3)
    examples = made(torch.randn(101, 7, generator=seeded()), labels, is_training)
    probe = best_probe(examples, torch.zeros(5, 7), RIDGE)
    assert (probe.direction, probe.w, probe.not_converged) == (0, 0.0, 0)
    torch.testing.assert_close(probe.held_out.losses, constant_probe(examples).losses)


def test_a_latent_that_only_rounding_moves_is_constant() -> None:
    """x has no mean over its channels, so the sum of them is rounding; here it tells the label in training."""
    labels, is_training = labelled(301)
    x = torch.randn(301, 8, generator=seeded())
    x = x - x.mean(dim=1, keepdim=True) + 1e-8 * labels[:, None]
    examples = made(x, labels, is_training)
    examples.training.x.add_(1e-8 * examples.training.labels[:, None])
    assert best_probe(examples, torch.ones(1, 8), RIDGE).w == 0
    assert best_probe(examples, directions(1, 8), RIDGE).w != 0


def test_an_offset_of_the_activations_costs_no_precision() -> None:
    labels, is_training = labelled(301)
    x = torch.randn(301, 8, generator=seeded(), dtype=torch.float64) + labels[:, None]
    W = directions(20, 8)
    expected = best_probe(made(x, labels, is_training), W, RIDGE)
    found = best_probe(made(x + 1e6, labels, is_training), W, RIDGE)
    assert found.direction == expected.direction
    assert found.training_loss == pytest.approx(expected.training_loss, abs=1e-8)


def test_the_best_channel_is_the_best_latent_of_the_identity() -> None:
    labels, is_training = labelled(307)
    examples = made(torch.randn(307, 13, generator=seeded()) + 0.3 * labels[:, None], labels, is_training)
    found, expected = best_probe(examples, None, RIDGE), best_probe(examples, torch.eye(13), RIDGE)
    assert found[:4] == expected[:4]
    assert torch.equal(found.held_out.losses, expected.held_out.losses)


def literal_linear_logits(examples: TaskExamples, ridge: float) -> np.ndarray:
    """By scipy, from the definition."""
    training, held_out, _ = examples
    spreads = training.x.std(dim=0, correction=0).numpy()
    x, signs = training.x.numpy() / spreads, 2.0 * training.labels.numpy() - 1

    def loss(at: np.ndarray) -> float:
        return np.logaddexp(0, -signs * (x @ at[1:] + at[0])).mean() + ridge / 2 * (at[1:] ** 2).sum()

    at = minimize(loss, np.zeros(x.shape[1] + 1), method="BFGS", options={"gtol": 1e-7}).x
    return held_out.x.numpy() / spreads @ at[1:] + at[0]


@pytest.mark.parametrize("ridge", [1e-3, 0.3])
def test_the_linear_probe_is_that_of_its_definition(ridge: float) -> None:
    labels, is_training = labelled(301)
    x = torch.randn(301, 4, generator=seeded()) * torch.tensor([1.0, 100, 0.01, 5]) + labels[:, None]
    examples = made(x, labels, is_training)
    found = linear_probe(examples, (ridge,), seeded())
    logits = torch.from_numpy(literal_linear_logits(examples, ridge))
    assert found.ridge == ridge
    torch.testing.assert_close(
        found.held_out.losses, score(logits, examples.held_out.labels).losses, atol=1e-4, rtol=1e-4
    )


def test_the_linear_probe_takes_the_ridge_that_does_better_on_documents_left_out() -> None:
    labels, is_training = labelled(400)
    noise = torch.randn(400, 150, generator=seeded())
    ridges = (1e-6, 10.0)
    assert linear_probe(made(noise, labels, is_training), ridges, seeded()).ridge == 10
    told = torch.cat([noise[:, :1] + 30 * labels[:, None], 1e-3 * noise[:, 1:3]], dim=1)
    assert linear_probe(made(told, labels, is_training), ridges, seeded()).ridge == 1e-6


def test_too_few_documents_to_choose_by_take_the_strongest_ridge() -> None:
    labels, is_training = labelled(40)
    examples = made(torch.randn(40, 3, generator=seeded()), labels, is_training, torch.zeros(40, dtype=torch.int64))
    assert linear_probe(examples, (1e-3, 0.1, 1e-2), seeded()).ridge == 0.1


def test_a_constant_channel_takes_no_part_in_the_linear_probe() -> None:
    labels, is_training = labelled(101)
    x = torch.randn(101, 3, generator=seeded()) + labels[:, None]
    expected = linear_probe(made(x, labels, is_training), (0.01,), seeded())
    with_constant = torch.cat([x, torch.full((101, 1), 7.0)], dim=1)
    found = linear_probe(made(with_constant, labels, is_training), (0.01,), seeded())
    torch.testing.assert_close(found.held_out.losses, expected.held_out.losses, atol=1e-5, rtol=1e-5)
