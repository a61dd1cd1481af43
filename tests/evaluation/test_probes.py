"""Probes on a tiny subject, against the definition in loops."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation import probe_inputs
from monosem.evaluation.bootstrap import estimate
from monosem.evaluation.probe_inputs import read_inputs
from monosem.evaluation.probes import PROBES, ProbeConfig, ProbeResults, measure_probes, resample_means
from monosem.evaluation.tasks.task import Contexts, Task, TaskPool
from monosem.ops.logistic import fit_logistic
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Site, Widths
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel

CONFIG = ProbeConfig(bootstrap_samples=60)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def site(hookpoint: str) -> Site:
    return Site((hookpoint,))


@pytest.fixture
def pool(blocks: Blocks) -> TaskPool:
    """Whether a token's number is odd, and whether a context's first token is above 25; the last context is padded."""
    tokens, kept = blocks.tokens.clone(), blocks.kept.clone()
    tokens[-1, 5:], kept[-1, 5:] = 0, False
    contexts, positions = kept.nonzero(as_tuple=True)
    some = torch.randperm(len(contexts), generator=seeded(1))[:200]
    contexts, positions = contexts[some], positions[some]
    odd = Task(
        name="odd-token",
        description="Is the token's number odd?",
        level="token",
        contexts=contexts,
        positions=positions,
        labels=tokens[contexts, positions] % 2 == 1,
        is_training=contexts // 2 % 3 != 0,
    )
    whole = torch.arange(1, len(tokens))  # the first context is not asked about as a whole
    large = Task(
        name="large-first-token",
        description="Is the context's first token above 25?",
        level="document",
        contexts=whole,
        positions=torch.full_like(whole, -1),
        labels=tokens[whole, 0] > 25,
        is_training=whole // 2 % 3 != 0,
    )
    return TaskPool(Contexts(tokens, kept, torch.arange(len(tokens)) // 2), (odd, large))


@pytest.fixture
def results(sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool) -> ProbeResults:
    return measure_probes(sae, subject, site, pool, CONFIG, seed=0)


def literal_pre_activations(sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool, task: Task) -> Tensor:
    """``[examples, n_latents]`` in float64, a token at a time."""
    raw = site.read(subject.capture(pool.contexts.tokens, site.inputs))
    rows: list[Tensor] = []
    for context, position in zip(task.contexts.tolist(), task.positions.tolist(), strict=True):
        at = [position] if task.level == "token" else pool.contexts.kept[context].nonzero().squeeze(1).tolist()
        of_tokens = [sae.pre_activations(sae.preprocess(raw[context, t][None]).x).double() for t in at]
        rows.append(torch.cat(of_tokens).mean(dim=0))
    return torch.stack(rows).detach()


def literal_losses(z: Tensor, labels: Tensor, w: float, b: float) -> list[float]:
    losses: list[float] = []
    for value, label in zip(z.tolist(), labels.tolist(), strict=True):
        p = 1 / (1 + math.exp(-(w * value + b)))
        losses.append(-math.log(p) if label else -math.log(1 - p))
    return losses


def test_every_task_is_that_of_the_definition(
    results: ProbeResults, sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool
) -> None:
    for task, found in zip(pool.tasks, results.tasks, strict=True):
        z = literal_pre_activations(sae, subject, site, pool, task)
        held_out = ~task.is_training
        fits = fit_logistic(
            z[task.is_training].T, task.labels[task.is_training], torch.full((sae.n_latents,), 1e-6), CONFIG.ridge
        )
        best = int(fits.losses.argmin())
        w, b = float(fits.slopes[best]), float(fits.intercepts[best])
        losses = literal_losses(z[:, best], task.labels, w, b)
        of_training = [loss for loss, chosen in zip(losses, task.is_training.tolist(), strict=True) if chosen]
        of_held_out = [loss for loss, chosen in zip(losses, held_out.tolist(), strict=True) if chosen]
        assert found.latent == best
        assert (found.w, found.b) == (pytest.approx(w, rel=1e-3), pytest.approx(b, rel=1e-3, abs=1e-3))
        assert found.training_loss == pytest.approx(sum(of_training) / len(of_training), rel=1e-4)
        assert found.losses["latent"].value == pytest.approx(sum(of_held_out) / len(of_held_out), rel=1e-3)
        right = ((w * z[:, best] + b > 0) == task.labels)[held_out].double().mean()
        assert found.accuracies["latent"].value == pytest.approx(float(right))
        assert found.positive_share == pytest.approx(float(task.labels[task.is_training].double().mean()))
        assert (found.training_examples, found.held_out_examples) == (len(of_training), len(of_held_out))
        assert found.held_out_documents == len((task.contexts[held_out] // 2).unique())


def test_the_score_is_the_mean_over_tasks(results: ProbeResults) -> None:
    for name, metric in PROBES.items():
        values = [task.losses[name].value for task in results.tasks]
        assert results.metrics[metric].value == pytest.approx(sum(values) / len(values))  # type: ignore[arg-type]
        values = [task.accuracies[name].value for task in results.tasks]
        accuracy = results.metrics[metric.replace("loss", "accuracy")].value
        assert accuracy == pytest.approx(sum(values) / len(values))  # type: ignore[arg-type]


def test_the_channel_is_the_best_latent_of_an_identity_encoder(
    results: ProbeResults, subject: SubjectModel, site: Site, pool: TaskPool
) -> None:
    identity = new_autoencoder(AutoencoderConfig(n_latents=subject.d_model, k=1), subject.d_model)
    identity.W_enc.data = torch.eye(subject.d_model)
    found = measure_probes(identity, subject, site, pool, CONFIG, seed=0)
    assert [task.latent for task in found.tasks] == [task.channel for task in results.tasks]
    assert found.metrics["probe_loss"] == pytest.approx(results.metrics["probe_loss_channel"])


def test_only_what_is_asked_about_is_kept_and_each_once(
    sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool
) -> None:
    twice = TaskPool(pool.contexts, (*pool.tasks, *pool.tasks))
    inputs = read_inputs(sae, subject, site, twice, lambda _: None)
    assert len(inputs.x) == sum(len(task.labels) for task in pool.tasks)
    assert torch.equal(inputs.rows[0], inputs.rows[2])
    for task, rows in zip(twice.tasks, inputs.rows, strict=True):
        expected = literal_pre_activations(sae, subject, site, pool, task)
        torch.testing.assert_close(sae.pre_activations(inputs.x[rows]).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [1, 30])
def test_small_batches_change_nothing(
    tokens: int,
    results: ProbeResults,
    sae: Autoencoder,
    subject: SubjectModel,
    site: Site,
    pool: TaskPool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(probe_inputs, "BATCH_TOKENS", tokens)
    found = measure_probes(sae, subject, site, pool, CONFIG, seed=0)
    assert [task.latent for task in found.tasks] == [task.latent for task in results.tasks]
    assert found.metrics["probe_loss"] == pytest.approx(results.metrics["probe_loss"], rel=1e-4)


def test_contexts_that_no_task_asks_about_are_not_read(
    sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool
) -> None:
    reported: list[tuple[int, int]] = []
    document = TaskPool(pool.contexts, pool.tasks[1:])
    found = measure_probes(
        sae, subject, site, document, CONFIG, seed=0, report=lambda done, total: reported.append((done, total))
    )
    assert found.contexts == len(pool.contexts.tokens) - 1
    assert reported[0] == (29, 58)
    assert reported[-1] == (58, 58)


def test_the_same_seed_gives_the_same_result(
    results: ProbeResults, sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool
) -> None:
    assert measure_probes(sae, subject, site, pool, CONFIG, seed=0).to_dict() == results.to_dict()
    other = measure_probes(sae, subject, site, pool, CONFIG, seed=1)
    assert other.metrics["probe_loss"].value == results.metrics["probe_loss"].value
    assert other.metrics["probe_loss"].low != results.metrics["probe_loss"].low


def test_the_record_is_plain_json_with_what_a_plot_needs(results: ProbeResults) -> None:
    record = json.loads(json.dumps(results.to_dict()))
    assert record == results.to_dict()
    assert record["settings"]["ridge"] == CONFIG.ridge
    assert record["not_converged"] == 0
    assert set(PROBES.values()) < set(record["metrics"])
    for task in record["tasks"]:
        assert set(task["losses"]) == set(task["accuracies"]) == set(PROBES)
        assert all(each["low"] <= each["value"] <= each["high"] for each in task["losses"].values())


def probes_itself(sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool) -> None:
    """The probe that is told gives the loss that is told, on pre-activations as the autoencoder gives them."""
    sae.W_enc.data = torch.randn(sae.W_enc.shape, generator=seeded(3))
    for name in ("b_enc", "b_pre"):
        getattr(sae, name).data = torch.randn(getattr(sae, name).shape, generator=seeded(4))
    results = measure_probes(sae, subject, site, pool, CONFIG, seed=0)
    for task, found in zip(pool.tasks, results.tasks, strict=True):
        z = literal_pre_activations(sae, subject, site, pool, task)[~task.is_training, found.latent]
        losses = literal_losses(z, task.labels[~task.is_training], found.w, found.b)
        assert found.losses["latent"].value == pytest.approx(sum(losses) / len(losses), rel=1e-3)
        assert found.not_converged == 0


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_every_architecture_is_probed(architecture: str, subject: SubjectModel, site: Site, pool: TaskPool) -> None:
    config = AutoencoderConfig(architecture=architecture, n_latents=40, k=4 if "topk" in architecture else 32)
    probes_itself(new_autoencoder(config, subject.d_model), subject, site, pool)


def test_a_transcoder_is_probed_where_it_reads(subject: SubjectModel, hookpoint: str, pool: TaskPool) -> None:
    site = Site((hookpoint,), target="transformer.h.2.mlp")
    sae = new_autoencoder(AutoencoderConfig(n_latents=40, k=4), Widths((16,), 16))
    probes_itself(sae, subject, site, pool)


def test_a_crosscoder_is_probed_on_all_that_it_reads(subject: SubjectModel, hookpoint: str, pool: TaskPool) -> None:
    site = Site(("transformer.h.0", hookpoint))
    sae = new_autoencoder(AutoencoderConfig(n_latents=40, k=4, crosscoder=True), Widths((16, 16)))
    probes_itself(sae, subject, site, pool)


def test_one_draw_of_documents_serves_all_tasks() -> None:
    documents = torch.tensor([4, 4, 9, 7, 9])
    scores = torch.rand(5, 2, generator=seeded(), dtype=torch.float64)
    other = torch.rand(3, 2, generator=seeded(1), dtype=torch.float64)
    found = resample_means(
        [(scores, documents), (other, torch.tensor([2, 4, 2])), (scores, documents)], samples=40, generator=seeded(2)
    )
    assert found.shape == (41, 3, 2)
    torch.testing.assert_close(found[0, 0], scores.mean(dim=0))
    torch.testing.assert_close(found[:, 0], found[:, 2], equal_nan=True)
    drawn = torch.randint(4, (40, 4), generator=seeded(2))  # of the documents 2, 4, 7, 9
    for sample, numbers in zip(found[1:, 0], drawn.tolist(), strict=True):
        rows = [scores[i] for number in numbers for i in range(5) if documents[i] == [2, 4, 7, 9][number]]
        expected = torch.stack(rows).mean(dim=0) if rows else torch.full((2,), torch.nan, dtype=torch.float64)
        torch.testing.assert_close(sample, expected, equal_nan=True)


def test_draws_in_parts_are_the_draws_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [(torch.rand(7, 3, generator=seeded(), dtype=torch.float64), torch.arange(7))]
    expected = resample_means(tasks, samples=11, generator=seeded())
    monkeypatch.setattr("monosem.evaluation.probes._DRAWS_ELEMENTS", 14)
    assert torch.equal(resample_means(tasks, samples=11, generator=seeded()), expected)


def test_examples_of_one_document_have_no_interval() -> None:
    scores = torch.rand(5, 2, generator=seeded(), dtype=torch.float64)
    alone, several = (scores, torch.full((5,), 3)), (scores, torch.arange(5))
    found = resample_means([alone, several], samples=40, generator=seeded())
    assert estimate(found[:, 0, 0]) == (float(scores[:, 0].mean()), None, None)
    assert estimate(found[:, 1, 0]).low is not None


def changed(pool: TaskPool, **fields: Any) -> TaskPool:
    return TaskPool(pool.contexts, (pool.tasks[0], replace(pool.tasks[1], **fields)))


def test_what_cannot_be_probed_is_refused(sae: Autoencoder, subject: SubjectModel, site: Site, pool: TaskPool) -> None:
    def measure(pool: TaskPool) -> None:
        measure_probes(sae, subject, site, pool, CONFIG, seed=0)

    document = pool.tasks[1]
    with pytest.raises(UserError, match="no tasks"):
        measure(TaskPool(pool.contexts, ()))
    with pytest.raises(UserError, match=r"20 training examples of the task large-first-token are not of two classes"):
        measure(changed(pool, labels=document.is_training))
    with pytest.raises(UserError, match="large-first-token holds out no example"):
        measure(changed(pool, is_training=torch.ones_like(document.is_training)))
    kept = pool.contexts.kept.clone()
    kept[4] = False
    with pytest.raises(UserError, match="keeps no token"):
        measure(TaskPool(pool.contexts._replace(kept=kept), pool.tasks[1:]))


def test_activations_of_another_width_are_refused(subject: SubjectModel, site: Site, pool: TaskPool) -> None:
    sae = new_autoencoder(AutoencoderConfig(n_latents=40, k=4), 8)
    with pytest.raises(UserError, match="16 wide and this autoencoder's d_model is 8"):
        measure_probes(sae, subject, site, pool, CONFIG, seed=0)


def test_activations_that_overflow_are_refused(
    sae: Autoencoder, subject: SubjectModel, site: Site, hookpoint: str, pool: TaskPool
) -> None:
    def overflow(value: Tensor) -> Tensor:
        return value * torch.inf

    with subject.replace("transformer.h.0", overflow), pytest.raises(UserError, match="not finite"):
        measure_probes(sae, subject, site, pool, CONFIG, seed=0)


@pytest.mark.parametrize(
    "setting",
    [
        {"ridge": 9e-7},
        {"ridge": math.nan},
        {"ridge": math.inf},
        {"linear_ridges": ()},
        {"linear_ridges": (0.0,)},
        {"bootstrap_samples": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(setting))):
        ProbeConfig(**setting)
