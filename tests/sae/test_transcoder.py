"""Transcoders and crosscoders: what they read and give, that training is the literal losses', saving and loading."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise, linear_map
from monosem.sae.site import Site, Widths
from monosem.sae.storage import load_autoencoder, save_autoencoder
from monosem.training.losses import LossSettings, compute_losses
from monosem.training.trainer import Trainer, TrainingConfig, sample_variance

N_LATENTS, BATCH, K = 11, 9, 3
TRANSCODER, CROSSCODER = Widths((5,), 7), Widths((5, 4))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_autoencoder(widths: Widths, architecture: str = "topk", **settings: Any) -> Autoencoder:
    k = {"k": K} if "k" in ARCHITECTURES[architecture].settings else {}
    config = AutoencoderConfig(
        architecture=architecture, n_latents=N_LATENTS, crosscoder=len(widths.inputs) > 1, **k, **settings
    )
    sae = new_autoencoder(config, widths).double()
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=seeded(1), dtype=torch.float64) / 2)
    if sae.is_transcoder:
        sae.target_scale.data.fill_(3.0)
    return sae


def raw(width: int, seed: int = 2) -> Tensor:
    return 4 * torch.randn(BATCH, width, generator=seeded(seed), dtype=torch.float64) + 1


def unit_norm(x: Tensor) -> Tensor:
    centered = x - x.mean(dim=1, keepdim=True)
    return centered / centered.norm(dim=1, keepdim=True)


def topk_latents(sae: Autoencoder, x: Tensor) -> Tensor:
    pre = (x - sae.b_pre) @ sae.W_enc.T + sae.b_enc
    mask = torch.zeros_like(pre).scatter(1, pre.topk(K, dim=1).indices, 1.0)
    return torch.relu(pre) * mask


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_gives_another_space_from_the_input_alone(skip: bool) -> None:
    sae = random_autoencoder(TRANSCODER, skip=skip)
    activations = raw(5)
    x = unit_norm(activations)
    y_hat = topk_latents(sae, x) @ sae.W_dec + sae.b_dec
    if skip:
        y_hat = y_hat + (x - sae.b_pre) @ sae.W_skip
    codes = sae.encode(activations)
    assert (codes.offset is not None) == skip
    torch.testing.assert_close(sae.reconstruct_codes(codes), y_hat)
    torch.testing.assert_close(sae.decode(codes), 3 * y_hat)
    torch.testing.assert_close(sae(activations.view(3, 3, 5)), 3 * y_hat.view(3, 3, 7))


def test_a_crosscoder_normalises_each_hookpoint_by_itself_and_undoes_it() -> None:
    sae = random_autoencoder(CROSSCODER)
    activations = raw(9)
    parts = activations[:, :5], activations[:, 5:]
    x = torch.cat([unit_norm(part) for part in parts], dim=1)
    x_hat = topk_latents(sae, x) @ sae.W_dec + sae.b_pre
    means = [part.mean(dim=1, keepdim=True) for part in parts]
    norms = [(part - mean).norm(dim=1, keepdim=True) for part, mean in zip(parts, means, strict=True)]
    expected = torch.cat([x_hat[:, :5] * norms[0] + means[0], x_hat[:, 5:] * norms[1] + means[1]], dim=1)
    torch.testing.assert_close(sae(activations), expected)
    assert sae.encode(activations).mean.shape == (BATCH, 2)


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize(("widths", "skip"), [(TRANSCODER, False), (TRANSCODER, True), (CROSSCODER, False)])
def test_the_loss_is_of_the_target_and_reaches_every_weight(architecture: str, widths: Widths, skip: bool) -> None:
    sae = random_autoencoder(
        widths, architecture, skip=skip, **({"bandwidth": 1.0} if architecture == "jumprelu" else {})
    )
    x, y = sae.training_pair(raw(sae.d_model), raw(sae.d_target, 3) if sae.is_transcoder else None)
    no_aux = LossSettings(variance=2.0, aux_coefficient=0.0, k_aux=1, aux_share=1.0)
    nobody = torch.zeros(N_LATENTS, dtype=torch.bool)
    losses = compute_losses(sae, x, nobody, no_aux, 0.1, y)
    passed = sae.training_pass(x)
    torch.testing.assert_close(losses.main, (y - passed.reconstructions[0][1]).square().sum(1).mean() / 2)
    losses.total.backward()
    for name, parameter in sae.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
@pytest.mark.parametrize("widths", [Widths((6,), 6), Widths((3, 3))])
def test_the_fused_step_is_the_eager_one(architecture: str, widths: Widths) -> None:
    target = {} if not ARCHITECTURES[architecture].has_penalty else {"sparsity_coefficient": 0.05}
    found: list[dict[str, Tensor]] = []
    for step in ("eager", "fused"):
        config = TrainingConfig(tokens=10 * BATCH, batch_size=BATCH, learning_rate=1e-2, step=step, **target)  # type: ignore[arg-type]
        sae = random_autoencoder(widths, architecture, skip=widths.target is not None).float()
        trainer = Trainer(sae, config, variance=1.0)
        for seed in range(4):
            report = trainer.step(raw(6, seed).float(), raw(6, seed + 50).float() if sae.is_transcoder else None)
            assert report is not None
        found.append({name: parameter.detach().clone() for name, parameter in sae.named_parameters()})
    for name, eager in found[0].items():
        # Adam moves an entry whose gradient is nearly zero by that one's sign.
        assert float(((found[1][name] - eager).abs() > 1e-3).double().mean()) < 0.05, name


@pytest.mark.slow
def test_a_linear_map_is_found_and_the_skip_alone_learns_one() -> None:
    x = torch.randn(4000, 5, generator=seeded(4), dtype=torch.float64)
    matrix = torch.randn(5, 7, generator=seeded(5), dtype=torch.float64)
    torch.testing.assert_close(linear_map(x, x @ matrix), matrix, rtol=1e-2, atol=1e-2)
    config = AutoencoderConfig(n_latents=2, k=1, skip=True, preprocess="none")
    sae = new_autoencoder(config, TRANSCODER)
    activations = x.float()
    wanted = (x @ matrix).float()
    initialise(sae, activations, InitialiseConfig(), seeded(), wanted)
    trainer = Trainer(
        sae, TrainingConfig(tokens=400 * 500, batch_size=500, learning_rate=3e-2, ema_tokens=0), sample_variance(wanted)
    )
    errors = [trainer.step(activations[500 * (i % 8) :][:500], wanted[500 * (i % 8) :][:500]) for i in range(400)]
    assert errors[-1] is not None
    assert errors[-1].squared_error / errors[-1].spread < 1e-3


def test_a_tied_transcoder_starts_where_the_best_linear_map_points() -> None:
    sae = new_autoencoder(AutoencoderConfig(n_latents=N_LATENTS, k=K), TRANSCODER)
    x = torch.randn(5000, 5, generator=seeded(6))
    matrix = torch.randn(5, 7, generator=seeded(7))
    initialise(sae, x, InitialiseConfig(), seeded(8), x @ matrix)
    expected = torch.nn.functional.normalize(sae.W_enc.detach() @ matrix, dim=1)
    torch.testing.assert_close(sae.W_dec.detach(), expected, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(N_LATENTS))


@pytest.mark.parametrize(("widths", "skip"), [(TRANSCODER, False), (TRANSCODER, True), (CROSSCODER, False)])
def test_saved_and_loaded_they_are_the_same(widths: Widths, skip: bool, tmp_path: Path) -> None:
    sae = random_autoencoder(widths, skip=skip).float()
    save_autoencoder(sae, tmp_path / "sae")
    loaded = load_autoencoder(tmp_path / "sae")
    assert loaded.widths == widths
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), loaded.parameters(), strict=True))
    activations = raw(sae.d_model).float()
    assert torch.equal(sae(activations), loaded(activations))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="skip=True is for transcoders"):
        new_autoencoder(AutoencoderConfig(n_latents=8, k=2, skip=True), 4)
    with pytest.raises(UserError, match="there are 2 hookpoints to read; set crosscoder"):
        new_autoencoder(AutoencoderConfig(n_latents=8, k=2), CROSSCODER)
    with pytest.raises(UserError, match="of a crosscoder all of them, side by side"):
        random_autoencoder(CROSSCODER).encode(raw(5))


def test_a_site_reads_and_wants_by_name() -> None:
    activations = {name: torch.full((2, width), float(width)) for name, width in (("a", 1), ("b", 2), ("c", 3))}
    crosscoder, transcoder = Site(("b", "a")), Site(("a",), "c")
    assert crosscoder.read(activations).tolist() == crosscoder.wanted(activations).tolist() == [[2.0, 2.0, 1.0]] * 2
    assert transcoder.wanted(activations).shape == (2, 3)
    assert (str(crosscoder), str(transcoder)) == ("b + a", "a → c")
    assert transcoder.hookpoints == ("a", "c")
    assert crosscoder.hookpoints == ("b", "a")
