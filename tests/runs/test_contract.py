"""What every architecture must do. A new entry of ARCHITECTURES is tested by being there."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.runlog import read_json_lines
from monosem.runs.config import RunConfig
from monosem.runs.train import TrainedRun
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.sae.storage import load_autoencoder, save_autoencoder
from monosem.training.losses import LossSettings, compute_losses
from monosem.training.step import StepReport
from monosem.training.trainer import Trainer, TrainingConfig, sample_variance

every_architecture = pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))


def slow_unless(*fast: str) -> pytest.MarkDecorator:
    """Every architecture; all but a few only where there is time."""
    marks = {name: () if name in fast else pytest.mark.slow for name in sorted(ARCHITECTURES)}
    return pytest.mark.parametrize("architecture", [pytest.param(name, marks=mark) for name, mark in marks.items()])


WIDTH, ATOMS, ACTIVE = 32, 64, 3
NO_AUXK = LossSettings(variance=1.0, aux_coefficient=0.0, k_aux=1, aux_share=1.0)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def own_sparsity(architecture: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of the autoencoder and of training that aim at ACTIVE latents a token."""
    has_penalty = ARCHITECTURES[architecture].has_penalty
    return ({}, {"target_l0": float(ACTIVE)}) if has_penalty else ({"k": ACTIVE}, {})


def settings_of_a_run(architecture: str) -> dict[str, Any]:
    """Settings for a whole job of a few steps."""
    sparsity = {"target_l0": 4.0, "k": 32} if ARCHITECTURES[architecture].has_penalty else {"k": 4}
    few_steps = {"initial_threshold": 0.02} if architecture == "jumprelu" else {}
    return {"architecture": architecture, **sparsity, **few_steps}


def mixtures(atoms: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Sums of ACTIVE atoms a token, with amplitudes from 0.5 to 1.5."""
    chosen = torch.rand(count, len(atoms), generator=generator).topk(ACTIVE, dim=1).indices
    return torch.einsum("bk,bkd->bd", 0.5 + torch.rand(count, ACTIVE, generator=generator), atoms[chosen])


def new_trainer(architecture: str, atoms: Tensor, generator: torch.Generator, tokens: int, **changes: Any) -> Trainer:
    settings, training = own_sparsity(architecture)
    nested = {"prefixes": (0.5, 1.0)} if architecture == "matryoshka" else {}
    config = AutoencoderConfig(architecture=architecture, n_latents=2 * ATOMS, preprocess="none", **settings, **nested)
    sae = new_autoencoder(config, WIDTH)
    sample = mixtures(atoms, 4096, generator)
    initialise(sae, sample, InitialiseConfig(), generator)
    recipe: dict[str, Any] = {"tokens": tokens, "batch_size": 512, "learning_rate": 5e-3, **training, **changes}
    return Trainer(sae, TrainingConfig(**recipe), sample_variance(sample))


def unit_rows(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def random_autoencoder(architecture: str, **changes: Any) -> Autoencoder:
    settings, _ = own_sparsity(architecture)
    width = {"bandwidth": 0.5} if architecture == "jumprelu" else {}
    config = AutoencoderConfig(architecture=architecture, n_latents=2 * ATOMS, **settings, **width, **changes)
    sae = new_autoencoder(config, WIDTH)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=seeded(1)) / 4)
    sae.W_dec.data = unit_rows(sae.W_dec.data)
    return sae


@slow_unless("topk")
def test_it_learns_synthetic_data_and_recovers_its_atoms(architecture: str) -> None:
    """Of 64 atoms in 32 dimensions, nine in ten are found at cosine 0.9; by L1's shrinkage half the error may stay."""
    generator = seeded()
    atoms = unit_rows(torch.randn(ATOMS, WIDTH, generator=generator))
    trainer = new_trainer(architecture, atoms, generator, tokens=600_000)
    for _ in range(trainer.config.steps):
        report = trainer.step(mixtures(atoms, 512, generator))
        assert report is not None
    trainer.take_averaged_weights()
    sae = trainer.sae.eval()
    best = (atoms @ unit_rows(sae.W_dec.detach()).T).max(dim=1).values
    assert float((best >= 0.9).float().mean()) >= 0.9
    x = mixtures(atoms, 4096, generator)
    codes = sae.encode(x)
    error = (x - sae.decode(codes)).square().sum() / (x - x.mean(dim=0)).square().sum()
    assert float(error) < (0.5 if architecture == "relu" else 0.2)
    assert 0.75 * ACTIVE < float(codes.l0().float().mean()) < 1.25 * ACTIVE


@every_architecture
def test_no_parameter_loses_its_gradient(architecture: str) -> None:
    sae = random_autoencoder(architecture)
    x = sae.preprocess(torch.randn(64, WIDTH, generator=seeded(2))).x
    nobody = torch.zeros(sae.n_latents, dtype=torch.bool)
    compute_losses(sae, x, nobody, NO_AUXK, 0.1).total.backward()
    for name, parameter in sae.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@every_architecture
def test_the_decoders_gradient_is_that_of_the_loss(architecture: str) -> None:
    """No straight-through estimate stands between the decoder and the loss, so differences must agree."""
    sae = random_autoencoder(architecture).double()
    x = sae.preprocess(torch.randn(64, WIDTH, generator=seeded(2), dtype=torch.float64)).x
    nobody = torch.zeros(sae.n_latents, dtype=torch.bool)

    def loss() -> Tensor:
        if architecture != "gated":
            return compute_losses(sae, x, nobody, NO_AUXK, 0.1).total
        # The frozen decoder of the gate's own reconstruction moves with the weights, but has no part in the gradient.
        return (x - sae.training_pass(x).reconstructions[0][1]).square().sum()

    loss().backward()
    assert sae.W_dec.grad is not None
    direction = torch.randn(sae.W_dec.shape, generator=seeded(3), dtype=torch.float64)
    slope = (sae.W_dec.grad * direction).sum()
    step = 1e-6
    with torch.no_grad():
        sae.W_dec += step * direction
        above = loss()
        sae.W_dec -= 2 * step * direction
        below = loss()
    torch.testing.assert_close(slope, (above - below) / (2 * step), rtol=1e-5, atol=1e-8)


@every_architecture
def test_it_encodes_and_decodes_raw_activations_of_any_shape_and_dtype(architecture: str) -> None:
    sae = random_autoencoder(architecture)
    raw = 50 * torch.randn(3, 4, WIDTH, generator=seeded(4)) + 7
    codes = sae.encode(raw)
    assert len(codes.row_offsets) == 13
    assert (codes.values >= 0).all()
    assert 0 < int(codes.l0().sum()) < 12 * sae.n_latents
    assert torch.equal(sae(raw), sae.decode(codes).view(3, 4, WIDTH))
    # Each token's own mean and length come back: scaled and shifted activations have the same code.
    torch.testing.assert_close(sae(3 * raw + 2), 3 * sae(raw) + 2, rtol=1e-3, atol=1e-2)
    assert sae(raw.bfloat16()).dtype == torch.bfloat16
    alone = sae.encode(raw[1, 2][None])
    assert alone.indices.tolist() == codes.indices[codes.row_offsets[6] : codes.row_offsets[7]].tolist()


@every_architecture
def test_saved_and_loaded_it_is_the_same_bit_for_bit(architecture: str, tmp_path: Path) -> None:
    sae = random_autoencoder(architecture)
    save_autoencoder(sae, tmp_path / "sae")
    loaded = load_autoencoder(tmp_path / "sae")
    assert type(loaded) is type(sae)
    assert loaded.config == sae.config
    for (name, one), (other_name, other) in zip(sae.named_parameters(), loaded.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    raw = torch.randn(5, WIDTH, generator=seeded(5))
    assert torch.equal(sae(raw), loaded(raw))
    # Settings that are others' do not stand there: their defaults may change.
    stored = json.loads((tmp_path / "sae" / "sae.json").read_text())["autoencoder"]
    assert ARCHITECTURES[architecture].settings <= stored.keys() | {"initial_threshold"}
    assert "bandwidth" not in stored or architecture == "jumprelu"


@every_architecture
def test_it_works_in_bfloat16_autocast(architecture: str) -> None:
    """Products are rounded to bfloat16: losses and codes stay near, weights and their gradients in float32."""
    sae = random_autoencoder(architecture)
    raw = torch.randn(256, WIDTH, generator=seeded(6))
    x = sae.preprocess(raw).x
    nobody = torch.zeros(sae.n_latents, dtype=torch.bool)
    exact = compute_losses(sae, x, nobody, NO_AUXK, 0.1)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = compute_losses(sae, x, nobody, NO_AUXK, 0.1)
        reconstruction = sae(raw)
    rounded.total.backward()
    torch.testing.assert_close(rounded.total.float(), exact.total, rtol=0.05, atol=0)
    assert all(parameter.grad.dtype == torch.float32 for parameter in sae.parameters() if parameter.grad is not None)
    far = (reconstruction.float() - sae(raw)).norm() / sae(raw).norm()
    assert float(far) < 0.1

    generator = seeded()
    atoms = unit_rows(torch.randn(ATOMS, WIDTH, generator=generator))
    weak = {"target_l0": None, "sparsity_coefficient": 1e-3} if ARCHITECTURES[architecture].has_penalty else {}
    trainer = new_trainer(architecture, atoms, generator, tokens=512 * 100, step="eager", warmup_tokens=0, **weak)
    reports: list[StepReport | None] = []
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16):  # which keeps rounded weights until it ends
            reports.append(trainer.step(mixtures(atoms, 512, generator)))
    assert all(report is not None for report in reports)
    first, last = reports[0], reports[-1]
    assert first is not None
    assert last is not None
    assert last.loss < 0.7 * first.loss
    assert all(parameter.dtype == torch.float32 for parameter in trainer.sae.parameters())


@slow_unless("topk", "batch_topk", "relu", "jumprelu")
def test_a_run_survives_being_killed_and_is_spliced_and_evaluated(
    architecture: str, train_whole_and_cut: Callable[..., TrainedRun]
) -> None:
    trained = train_whole_and_cut(**settings_of_a_run(architecture))
    assert all(estimate.value is not None for estimate in trained.evaluation.metrics.values())
    records = read_json_lines(trained.directory / "metrics.jsonl")
    assert records[-1]["normalized_mse"] < min(0.9, records[0]["normalized_mse"])
    assert all(("sparsity_coefficient" in record) == ARCHITECTURES[architecture].has_penalty for record in records)


@every_architecture
def test_bad_settings_are_told_by_their_names(architecture: str, tmp_path: Path) -> None:
    settings, training = own_sparsity(architecture)

    def refuse(words: str, **changes: Any) -> None:
        with pytest.raises(UserError, match=words):
            new_autoencoder(AutoencoderConfig(architecture=architecture, **(settings | changes)), WIDTH)

    refuse("n_latents=0 is below 1", n_latents=0)
    others = {"k": 5, "multi_topk": True, "prefixes": (0.5, 1.0), "prolu_gradient": "ste", "bandwidth": 0.5}
    for name, value in others.items():
        if name not in ARCHITECTURES[architecture].settings:
            refuse(f"{name}=.* would not be used by architecture '{architecture}'", **{name: value})
    if settings:
        refuse("k=9 exceeds n_latents=8", n_latents=8, k=9)
    wrong = {"target_l0": 3.0} if not training else {}
    with pytest.raises(UserError, match="target_l0"):
        RunConfig(
            out=tmp_path,
            autoencoder=AutoencoderConfig(architecture=architecture, **settings),
            training=TrainingConfig(**wrong),
        )
