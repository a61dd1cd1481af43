import dataclasses
import json
import math
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

from monosem.errors import UserError
from monosem.evaluation.basics import Basics, EvaluationConfig, measure_basics
from monosem.evaluation.bootstrap import Estimate
from monosem.evaluation.record import FORMAT_VERSION, Evaluation
from monosem.evaluation.tables import evaluation_table, format_estimate, format_metric
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.site import Site
from monosem.subject.blocks import Blocks
from monosem.subject.model import SubjectModel


@pytest.fixture
def run(sae, subject, hookpoint, blocks, documents, config):
    """Evaluate, with some arguments put in the place of the usual ones."""

    def evaluate(**instead: Any) -> Basics:
        site = Site((hookpoint,))
        usual = {"sae": sae, "subject": subject, "site": site, "blocks": blocks, "documents": documents}
        return measure_basics(**(usual | {"config": config, "seed": 0} | instead))

    return evaluate


def preprocessed(sae: Autoencoder, subject: SubjectModel, hookpoint: str, blocks: Blocks) -> Tensor:
    raw = subject.capture(blocks.tokens, [hookpoint])[hookpoint][blocks.kept].double()
    centered = raw - raw.mean(dim=1, keepdim=True)
    return centered / centered.norm(dim=1, keepdim=True)


def literal_latents(sae: Autoencoder, x: Tensor) -> Tensor:
    """Every token's latents, dense, in float64."""
    pre_activations = (x - sae.b_pre.double()) @ sae.W_enc.double().T + sae.b_enc.double()
    kth = pre_activations.sort(dim=1, descending=True).values[:, sae.config.k - 1 : sae.config.k]
    return torch.where(pre_activations >= kth, pre_activations, 0.0).relu()


def test_reconstruction_and_firing_are_those_of_the_literal_definition(run, sae, subject, hookpoint, blocks):
    evaluation = run()
    sae.requires_grad_(False)
    x = preprocessed(sae, subject, hookpoint, blocks)
    z = literal_latents(sae, x)
    x_hat = z @ sae.W_dec.double() + sae.b_pre.double()
    error, variation = (x - x_hat).square().sum(), (x - x.mean(dim=0)).square().sum()
    assert evaluation.tokens == len(x) == int(blocks.kept.sum())
    assert evaluation.metrics["normalized_mse"].value == pytest.approx(float(error / variation), rel=1e-5)
    assert evaluation.metrics["l0"].value == pytest.approx(int((z > 0).sum()) / len(x), rel=1e-12)
    assert evaluation.metrics["dead_share"].value == pytest.approx(float((z.sum(dim=0) == 0).double().mean()))
    assert evaluation.examples.density.tolist() == pytest.approx((z > 0).double().mean(dim=0).tolist(), rel=1e-6)
    assert 0 < evaluation.density.dead < sae.n_latents
    assert evaluation.density.dead + sum(evaluation.density.latents) == sae.n_latents
    assert evaluation.metrics["l0"].value < sae.config.k


def test_examples_are_the_strongest_tokens_of_different_blocks(run, sae, subject, hookpoint, blocks):
    examples = run().examples
    sae.requires_grad_(False)
    z = literal_latents(sae, preprocessed(sae, subject, hookpoint, blocks)).float()
    block, positions = blocks.kept.nonzero()[:, 0], blocks.positions[blocks.kept]
    for latent in range(sae.n_latents):
        best = {int(b): (0.0, -1) for b in block}
        for value, b, position in zip(z[:, latent].tolist(), block.tolist(), positions.tolist(), strict=True):
            best[b] = max(best[b], (value, position if value > 0 else -1), key=lambda context: context[0])
        ranked = sorted(best.values(), key=lambda context: -context[0])[:5]
        assert examples.values[latent].tolist() == pytest.approx([value for value, _ in ranked], rel=1e-4)
        assert examples.positions[latent].tolist() == [position for _, position in ranked]


def test_predicting_the_mean_scores_one_and_recovers_nothing(run, sae, subject, hookpoint, blocks):
    sae.double()
    sae.W_dec.data.zero_()
    x = sae.preprocess(subject.capture(blocks.tokens, [hookpoint])[hookpoint][blocks.kept]).x
    sae.b_pre.data.copy_(x.double().mean(dim=0))
    metrics = run().metrics
    assert metrics["normalized_mse"].value == pytest.approx(1.0, abs=1e-9)
    assert metrics["loss_recovered_mean_ablation"].value == pytest.approx(0.0, abs=1e-6)


def test_small_batches_change_nothing(run, monkeypatch: pytest.MonkeyPatch):
    whole = run()
    monkeypatch.setattr("monosem.evaluation.sample.BATCH_TOKENS", 40)
    monkeypatch.setattr("monosem.evaluation.downstream.blocks_in_memory", lambda *_: 7)
    parts = run()
    for name, estimate in whole.metrics.items():
        assert parts.metrics[name] == pytest.approx(estimate, rel=1e-5, abs=1e-6), name
    assert parts.density == whole.density
    assert torch.equal(parts.examples.positions, whole.examples.positions)


def test_the_same_seed_gives_the_same_result(run):
    assert run().to_dict() == run().to_dict()
    assert run().metrics["l0"] != run(seed=1).metrics["l0"]


def test_every_value_lies_in_its_interval(run):
    metrics = run().metrics
    for name in metrics.keys() - {"loss_recovered_zero_ablation", "loss_recovered_mean_ablation"}:
        value, low, high = metrics[name]
        assert None not in (value, low, high), name
        assert low <= value <= high, name


def test_downstream_is_measured_on_its_own_number_of_tokens(run, config):
    evaluation = run(config=dataclasses.replace(config, downstream_tokens=100))
    assert 80 <= evaluation.downstream_tokens <= 130
    assert evaluation.tokens > 300
    assert evaluation.downstream_documents <= evaluation.documents == 7


def test_no_more_blocks_are_evaluated_than_the_tokens_need(run, config):
    evaluation = run(config=dataclasses.replace(config, eval_tokens=100))
    assert 90 <= evaluation.tokens <= 120


def test_one_document_gives_values_without_intervals(run, documents):
    evaluation = run(documents=torch.zeros_like(documents))
    assert evaluation.documents == 1
    assert all(estimate.low is None and estimate.high is None for estimate in evaluation.metrics.values())
    assert evaluation.metrics["normalized_mse"].value is not None


def test_a_kept_bos_counts_but_is_no_example(run, blocks, documents):
    positions, documents = blocks.positions.clone(), documents.clone()
    positions[:, 0] = documents[:, 0] = -1
    evaluation = run(blocks=blocks._replace(positions=positions), documents=documents)
    assert evaluation.tokens == int(blocks.kept.sum())
    assert evaluation.documents == 7
    examples = evaluation.examples
    assert torch.equal(examples.positions >= 0, examples.values > 0)


def test_progress_runs_up_to_the_total(run):
    calls: list[tuple[int, int]] = []
    evaluation = run(report=lambda done, total: calls.append((done, total)))
    total = evaluation.tokens + 5 * evaluation.downstream_tokens
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert calls[-1] == (total, total)
    assert {total for _, total in calls} == {total}


def test_the_record_is_plain_json(run):
    record = run().to_dict()
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    assert record["metrics"]["normalized_mse"].keys() == {"value", "low", "high"}
    density = record["firing_density"]
    assert len(density["log10_edges"]) == len(density["latents"]) + 1


def test_activations_that_overflow_are_refused(run, sae):
    sae.b_pre.data[0] = math.inf
    with pytest.raises(UserError, match=r"squared_error at transformer.h.1 is not finite.*--dtype float32"):
        run()


def test_activations_of_another_width_are_refused(run, sae, config):
    from monosem.sae.architectures import new_autoencoder

    with pytest.raises(UserError, match="16 wide and this autoencoder's d_model is 8"):
        run(sae=new_autoencoder(sae.config, 8))


@pytest.mark.parametrize("name", ["eval_tokens", "downstream_tokens", "bootstrap_samples"])
def test_nothing_to_evaluate_is_refused(name: str):
    with pytest.raises(UserError, match=f"{name}=0 is below 1"):
        EvaluationConfig(**{name: 0})


def test_the_table_tells_every_metric_and_fits_the_terminal(run):
    basics = run()
    evaluation = Evaluation({"format_version": FORMAT_VERSION, **basics.to_dict()})
    console = Console(width=80, record=True, file=None, color_system=None)
    with console.capture() as capture:
        console.print(evaluation_table(evaluation))
    text = capture.get()
    for name, estimate in evaluation.metrics.items():
        assert format_metric(name, estimate) in text, name
    assert f"silent on {basics.tokens} tokens" in text
    assert f"{basics.downstream_tokens} next tokens" in text


@pytest.mark.parametrize(
    ("estimate", "is_share", "text"),
    [
        (Estimate(0.04834, 0.04612, 0.05052), False, "0.0483 [0.0461, 0.0505]"),
        (Estimate(31.9834, 31.97, 31.99), False, "31.983 [31.970, 31.990]"),
        (Estimate(0.0042, 0.002, 0.0064), True, "0.42% [0.20%, 0.64%]"),
        (Estimate(31.99998, 31.999923, 32.0), False, "32.000 [32.000, 32.000]"),
        (Estimate(16.0, 16.0, 16.0), False, "16.0 [16.0, 16.0]"),
        (Estimate(0.0, 0.0, 0.0), True, "0% [0%, 0%]"),
        (Estimate(2.3456, None, None), False, "2.35"),
        (Estimate(1234.5, 1100.0, 1300.0), False, "1234 [1100, 1300]"),
        (Estimate(-0.00001, -0.02, 0.03), False, "0.000 [-0.020, 0.030]"),
        (Estimate(None, None, None), True, "not defined"),
    ],
)
def test_an_estimate_has_as_many_digits_as_its_interval_bears(estimate: Estimate, is_share: bool, text: str):
    assert format_estimate(estimate, is_share) == text
