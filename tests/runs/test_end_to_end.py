"""End-to-end training: the loss is the subject's with the reconstruction in place, and whole jobs train on it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor

import monosem
from monosem.errors import UserError
from monosem.evaluation.sample import with_successor
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.end_to_end import BlockBatch, block_batches
from monosem.runs.inputs import LiveActivations, open_inputs
from monosem.runs.train import TrainedRun
from monosem.sae.site import Site
from monosem.training.trainer import TrainingConfig

Make = Callable[..., RunConfig]
TrainBoth = Callable[..., TrainedRun]

PLACES = [
    Site(("transformer.h.1",)),
    Site(("transformer.h.1.mlp:in",), "transformer.h.1.mlp"),
    Site(("transformer.h.0", "transformer.h.2")),
]


def opened(site: Site, make_config: Make, out: Path, console: Console) -> BlockBatch:
    """The second batch of 32 rows in the text, with the subject in float64."""
    settings = {"target": site.target} if site.target else {"crosscoder": len(site.inputs) > 1}
    config = make_config(out, hookpoint=site.inputs, **settings)
    source = open_inputs(config, console).source
    assert isinstance(source, LiveActivations)
    source.subject.model.double()
    return next(block_batches(source, batch_size=32, start=1))


def literal_loss(batch: BlockBatch, site: Site, kind: str, reconstruction: Tensor) -> Tensor:
    """Block by block and position by position."""
    subject, (tokens, kept, _) = batch.subject, batch.blocks
    rows = iter(reconstruction)
    losses: list[Tensor] = []
    for block, is_kept in zip(tokens, kept, strict=True):
        taken = {position: next(rows) for position in range(len(block)) if is_kept[position]}

        def splice(value: Tensor, first: int, taken: dict[int, Tensor] = taken) -> Tensor:
            for position, row in taken.items():
                value[0, position] = row[first : first + value.shape[-1]].detach()
            return value

        before = subject.logits(block[None])[0].log_softmax(dim=1)
        widths = [batch.captured[name].shape[-1] for name in site.outputs]
        firsts = [sum(widths[:i]) for i in range(len(widths))]
        with subject.replace(site.outputs[0], lambda value, f=firsts[0]: splice(value, f)):
            if len(firsts) == 2:
                with subject.replace(site.outputs[1], lambda value, f=firsts[1]: splice(value, f)):
                    after = subject.logits(block[None])[0].log_softmax(dim=1)
            else:
                after = subject.logits(block[None])[0].log_softmax(dim=1)
        for position in taken:
            if position + 1 < len(block):
                p, q = before[position], after[position]
                divergence = (p.exp() * (p - q)).sum()
                losses.append(divergence if kind == "kl" else -q[block[position + 1]])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("kind", ["kl", "cross_entropy"])
@pytest.mark.parametrize("site", PLACES, ids=str)
def test_the_loss_and_its_gradient_are_those_of_the_definition(
    site: Site, kind: Any, tmp_path: Path, make_config: Make, console: Console
) -> None:
    batch = opened(site, make_config, tmp_path / "run", console)
    width = sum(batch.captured[name].shape[-1] for name in site.outputs)
    assert int(with_successor(batch.blocks.kept).sum()) < 32 == len(batch.positions)
    reconstruction = torch.randn(32, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    reconstruction.requires_grad_()
    loss = batch.loss(site, kind)
    value = loss(reconstruction)
    torch.testing.assert_close(value.detach(), literal_loss(batch, site, kind, reconstruction))
    (gradient,) = torch.autograd.grad(value, reconstruction)
    direction = torch.randn(gradient.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    step = 1e-5
    with torch.no_grad():
        slope = (loss(reconstruction + step * direction) - loss(reconstruction - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-9)
    assert not any(parameter.requires_grad for parameter in batch.subject.model.parameters())


def test_the_unmodified_activations_do_not_diverge(tmp_path: Path, make_config: Make, console: Console) -> None:
    site = PLACES[0]
    batch = opened(site, make_config, tmp_path / "run", console)
    assert float(batch.loss(site, "kl")(batch.activations["transformer.h.1"])) == pytest.approx(0, abs=1e-12)


def slow(changes: dict[str, Any]) -> Any:
    return pytest.param(changes, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "changes",
    [
        {"end_to_end": "kl"},
        {"end_to_end": "cross_entropy", "reconstruction_coefficient": 0.0},
        slow({"end_to_end": "kl", "architecture": "jumprelu", "k": 32, "target_l0": 4.0}),
        slow({"end_to_end": "kl", "hookpoint": ("transformer.h.1.mlp:in",), "target": "transformer.h.1.mlp"}),
        slow({"end_to_end": "kl", "hookpoint": ("transformer.h.0", "transformer.h.1"), "crosscoder": True}),
    ],
    ids=str,
)
def test_a_job_trains_and_goes_on_bit_for_bit(changes: dict[str, Any], train_whole_and_cut: TrainBoth) -> None:
    trained = train_whole_and_cut(**changes)
    records = read_json_lines(trained.directory / "metrics.jsonl")
    assert all(record["end_to_end_loss"] > 0 for record in records)


@pytest.mark.slow
def test_fine_tuned_on_the_divergence_an_autoencoder_diverges_less(
    tmp_path: Path, make_config: Make, console: Console
) -> None:
    plain = {"tokens": 3200, "downstream_tokens": 10**6, "learning_rate": 5e-3}
    monosem.train(make_config(tmp_path / "start", **plain), console=console)
    found: dict[str, float] = {}
    for name, changes in (("on", {}), ("tuned", {"end_to_end": "kl", "end_to_end_coefficient": 1000.0})):
        config = make_config(tmp_path / name, init_from=str(tmp_path / "start"), **plain, **changes)
        (run,) = monosem.train(config, console=console)
        value = run.evaluation.metrics["kl_reconstruction"].value
        assert value is not None
        found[name] = value
    assert found["tuned"] < 0.9 * found["on"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"end_to_end_coefficient": 2.0}, "end_to_end_coefficient=2.0 would not be used"),
        ({"reconstruction_coefficient": 0.0}, "reconstruction_coefficient=0.0 would not be used"),
        ({"end_to_end": "kl", "end_to_end_coefficient": 0.0}, "say --end-to-end none"),
        ({"end_to_end": "kl", "reconstruction_coefficient": -1.0}, "reconstruction_coefficient=-1.0 is negative"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        TrainingConfig(**changes)


def test_what_does_not_fit_together_is_refused(tmp_path: Path, make_config: Make) -> None:
    with pytest.raises(UserError, match="end_to_end=kl needs the subject"):
        make_config(tmp_path, end_to_end="kl", activations=("somewhere",))
    gated = {"architecture": "gated", "k": 32, "target_l0": 4.0}
    with pytest.raises(UserError, match="leaves the gates of architecture 'gated' without a gradient"):
        make_config(tmp_path, end_to_end="kl", reconstruction_coefficient=0.0, **gated)
