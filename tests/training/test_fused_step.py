"""The fused step against the eager one: in float64 on the reference's operations, in float32 on the kernels."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.ops import cpu, reference
from monosem.ops.reference import AdamStep
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.topk import BatchTopKAutoencoder
from monosem.training.fused_step import fused_step
from monosem.training.losses import LossSettings
from monosem.training.state import TrainingState, new_state
from monosem.training.step import StepReport, StepSettings, train_step

BATCH, N_LATENTS, D_MODEL, K = 37, 101, 13, 4


def new_sae(dtype: torch.dtype, **config: Any) -> Autoencoder:
    own_k = {"k": K} if "k" in ARCHITECTURES[config.get("architecture", "topk")].settings else {}
    settings = AutoencoderConfig(n_latents=N_LATENTS, preprocess="none", **own_k, **config)
    sae = new_autoencoder(settings, D_MODEL).to(dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    if config.get("encoder_bias", True) and "architecture" not in config:
        sae.b_enc.data -= 5  # so that some kept values are negative
    reference.normalize_rows(sae.W_dec.data)
    return sae


def batch(step: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(step), dtype=torch.float64).to(dtype)


def settings_with(*, aux_share: float = 1.0, clip_norm: float | None = None) -> StepSettings:
    losses = LossSettings(
        variance=3.7,
        aux_coefficient=1 / 32 if aux_share else 0.0,
        k_aux=6,
        aux_share=aux_share,
    )
    return StepSettings(losses=losses, dead_tokens=BATCH, ema_decay=0.9, clip_norm=clip_norm)


def run(
    kernels: Any, dtype: torch.dtype, settings: StepSettings, steps: int = 6, **config: Any
) -> tuple[Autoencoder, TrainingState, list[StepReport]]:
    """A few steps; without kernels, eager ones."""
    sae = new_sae(dtype, **config)
    state = new_state(sae, N_LATENTS, with_average=True, rounded=("W_enc",) if kernels is cpu else ())
    reports: list[StepReport] = []
    for step in range(1, steps + 1):
        adam, x = AdamStep(1e-2, step, settings.ema_decay), batch(step, dtype)
        coefficient = 0.01 if sae.has_penalty else 0.0
        if kernels is None:
            reports.append(train_step(sae, state, x, settings, adam, coefficient))
        else:
            reports.append(fused_step(kernels, sae, state, x, settings, adam, coefficient))
    return sae, state, reports


@pytest.mark.parametrize("encoder_bias", [True, False])
@pytest.mark.parametrize("nonlinearity", ["relu", "identity"])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("aux_share", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("multi_topk", [False, True])
def test_by_the_references_operations_it_is_the_eager_step(
    multi_topk: bool, aux_share: float, clip_norm: float | None, nonlinearity: str, encoder_bias: bool
) -> None:
    settings = settings_with(aux_share=aux_share, clip_norm=clip_norm)
    config = {"nonlinearity": nonlinearity, "encoder_bias": encoder_bias, "multi_topk": multi_topk}
    wanted, expected = check_same(settings, **config)
    assert (wanted[-1].auxiliary_loss > 0) == (aux_share > 0)
    assert ("b_enc" in expected.parameters) == encoder_bias


def check_same(settings: StepSettings, **config: Any) -> tuple[list[StepReport], TrainingState]:
    """Some fused steps on the reference's operations are the eager ones, in everything they report and move."""
    sae, expected, wanted = run(None, torch.float64, settings, **config)
    found_sae, found, reports = run(reference, torch.float64, settings, **config)
    for report, want in zip(reports, wanted, strict=True):
        torch.testing.assert_close(tuple(report), tuple(want), rtol=1e-6, atol=1e-9)
    for kind, tensors in expected.states().items():
        for name, tensor in tensors.items():
            torch.testing.assert_close(found.states()[kind][name], tensor, rtol=1e-6, atol=1e-12)
    assert found.parameters.keys() == expected.parameters.keys()
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(found_sae.get_parameter(name), parameter, rtol=1e-6, atol=1e-12)
    return wanted, expected


# Wide enough that a random batch has pre-activations on both sides of every kernel's edges.
VARIANTS: list[dict[str, Any]] = [
    *({"architecture": name} for name in sorted(ARCHITECTURES) if name != "jumprelu"),
    {"architecture": "jumprelu", "bandwidth": 0.7},
    {"architecture": "prolu", "prolu_gradient": "ste"},
    {"architecture": "matryoshka", "prefixes": (0.1, 1.0)},
]


@pytest.mark.parametrize("encoder_bias", [True, False])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: "-".join(map(str, config.values())))
def test_every_architectures_fused_step_is_its_eager_one(
    config: dict[str, Any], clip_norm: float | None, encoder_bias: bool
) -> None:
    has_auxk = not ARCHITECTURES[config["architecture"]].has_penalty
    settings = settings_with(aux_share=float(has_auxk), clip_norm=clip_norm)
    wanted, _ = check_same(settings, encoder_bias=encoder_bias, **config)
    assert 0 < wanted[-1].l0 < N_LATENTS
    assert (wanted[-1].auxiliary_loss > 0) == has_auxk


@pytest.mark.parametrize("config", VARIANTS, ids=lambda config: "-".join(map(str, config.values())))
def test_every_architecture_stays_near_the_eager_step_on_the_cpus_kernels(config: dict[str, Any]) -> None:
    settings = settings_with(aux_share=0.0)
    expected, _, wanted = run(None, torch.float64, settings, steps=4, **config)
    found, _, reports = run(cpu, torch.float32, settings, steps=4, **config)
    for report, want in zip(reports, wanted, strict=True):
        assert report.squared_error == pytest.approx(want.squared_error, rel=2e-3)
        assert report.loss == pytest.approx(want.loss, rel=2e-3)
        assert report.l0 == pytest.approx(want.l0, rel=5e-3)
    for parameter, want in zip(found.parameters(), expected.parameters(), strict=True):
        assert float(((parameter.double() - want).abs() > 1e-3).double().mean()) < 0.02


def test_batch_topk_finds_its_candidates_when_the_threshold_has_been_far_too_high() -> None:
    sae = new_sae(torch.float64, architecture="batch_topk")
    state = new_state(sae, N_LATENTS, with_average=True)
    assert isinstance(sae, BatchTopKAutoencoder)
    sae.threshold.data.fill_(1e3)
    report = fused_step(reference, sae, state, batch(1, torch.float64), settings_with(), AdamStep(1e-2, 1, 0.9))  # type: ignore[arg-type]
    assert report.l0 == K


@pytest.mark.parametrize("multi_topk", [False, True])
@pytest.mark.parametrize("clip_norm", [None, 0.05])
def test_on_the_cpus_kernels_it_stays_near_the_eager_step(multi_topk: bool, clip_norm: float | None) -> None:
    settings = settings_with(clip_norm=clip_norm)
    expected, state, wanted = run(None, torch.float64, settings, steps=4, multi_topk=multi_topk)
    found, found_state, reports = run(cpu, torch.float32, settings, steps=4, multi_topk=multi_topk)
    for report, want in zip(reports, wanted, strict=True):
        assert report.squared_error == pytest.approx(want.squared_error, rel=1e-3)
        assert report.spread == pytest.approx(want.spread, rel=1e-5)
        assert report.loss == pytest.approx(want.loss, rel=1e-3)
        assert (report.l0, report.dead_share) == pytest.approx((want.l0, want.dead_share), rel=1e-6)
    assert torch.equal(state.tokens_since_active, found_state.tokens_since_active)
    for parameter, want in zip(found.parameters(), expected.parameters(), strict=True):
        # Where a gradient is nearly zero, Adam moves by its sign: a few entries may differ by steps, few by much.
        difference = (parameter.double() - want).abs()
        assert float((difference > 1e-3).double().mean()) < 0.02


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_non_finite_gradient_moves_nothing(value: float) -> None:
    sae = new_sae(torch.float32)
    state = new_state(sae, N_LATENTS, with_average=True, rounded=("W_enc",))
    before = [parameter.detach().clone() for parameter in sae.parameters()]

    def broken(*args: Any) -> tuple[Tensor, Tensor]:
        residual, products = cpu.subtract_decoded(*args)
        products[3] = value
        return residual, products

    kernels: Any = SimpleNamespace(**{**vars(cpu), "subtract_decoded": broken})
    sae.b_enc.data += 10  # every kept value is positive
    before[1] += 10
    report = fused_step(kernels, sae, state, batch(1, torch.float32), settings_with(), AdamStep(1e-2, 1, 0.9))
    assert not report.is_finite
    assert all(torch.equal(a, b) for a, b in zip(sae.parameters(), before, strict=True))
    assert int(state.tokens_since_active.max()) == 0


def test_an_auxiliary_loss_that_overflows_counts_as_zero() -> None:
    sae = new_sae(torch.float32)
    state = new_state(sae, N_LATENTS, with_average=False, rounded=("W_enc",))
    state.tokens_since_active[:5] = 10 * BATCH

    def huge(*args: Any) -> reference.Chosen:
        chosen = cpu.encode_topk(*args)
        args[-1].codes.fill_(1e30)
        return chosen

    kernels: Any = SimpleNamespace(**{**vars(cpu), "encode_topk": huge})
    report = fused_step(kernels, sae, state, batch(1, torch.float32), settings_with(), AdamStep(1e-2, 1, 0.9))
    assert report.auxiliary_loss == 0
    assert report.is_finite
