"""Latents at other values: against the definition, latent by latent and token by token."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.interventions import Intervention
from monosem.sae.site import Widths

WIDTH, LATENTS = 7, 13
WIDTHS = Widths((WIDTH,))
CHANGES = {
    2: Intervention("add", 0.7),
    3: Intervention("clamp", 1.5),
    5: Intervention("ablate"),
    11: Intervention("scale", -2.0),
}


def random_autoencoder(architecture: str = "topk", widths: Widths = WIDTHS, **settings: Any) -> Autoencoder:
    sparsity = {"k": 4} if "k" in ARCHITECTURES[architecture].settings else {}
    config = AutoencoderConfig(architecture=architecture, n_latents=LATENTS, **(sparsity | settings))
    sae = new_autoencoder(config, widths).double()
    generator = torch.Generator().manual_seed(4)
    for parameter in sae.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if hasattr(sae, "threshold"):
        sae.threshold.data.fill_(0.1)
    if sae.is_transcoder:
        sae.target_scale.data.fill_(3.0)
    return sae


def rows(width: int, seed: int = 0) -> Tensor:
    return 0.3 + torch.randn(2, 15, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def literally(sae: Autoencoder, activations: Tensor, base: Tensor) -> Tensor:
    """base + Σ (z' − z) · unit of the token · W_dec, in loops."""
    wanted = base.clone().flatten(0, 1)
    codes = sae.encode(activations)
    for token, z in enumerate(codes.dense()):
        for latent, (how, strength) in CHANGES.items():
            value = {
                "add": z[latent] + strength,
                "clamp": strength,
                "ablate": 0.0,
                "scale": z[latent] * strength,
            }[how]
            unit = float(sae.target_scale) if sae.is_transcoder else codes.norm[token]
            wanted[token] += (value - z[latent]) * unit * sae.W_dec[latent]
    return wanted.view(base.shape)


@pytest.mark.parametrize("preprocess", ["unit_norm", "layer_norm", "none"])
@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_each_token_moves_along_the_decoder_rows(architecture: str, preprocess: str) -> None:
    sae = random_autoencoder(architecture, preprocess=preprocess)
    x = rows(WIDTH)
    assert (sae.encode(x).dense()[:, list(CHANGES)] > 0).any(dim=0).sum() >= 2
    torch.testing.assert_close(sae.intervene(x, CHANGES), literally(sae, x, x))
    torch.testing.assert_close(sae.intervene(x, CHANGES, keep_error=False), literally(sae, x, sae(x)))


def test_a_transcoder_changes_its_target() -> None:
    sae = random_autoencoder(widths=Widths((WIDTH,), 3))
    x, target = rows(WIDTH), rows(3, seed=1)
    torch.testing.assert_close(sae.intervene(x, CHANGES, target=target), literally(sae, x, target))
    steered = sae.intervene(x, CHANGES, target=target, keep_error=False)
    torch.testing.assert_close(steered, literally(sae, x, sae(x)))


def test_a_crosscoder_changes_all_that_it_reads_each_part_in_its_own_norm() -> None:
    sae = random_autoencoder(widths=Widths((3, 4)), crosscoder=True)
    x = rows(7) * torch.tensor([1.0] * 3 + [9.0] * 4)
    changed = sae.intervene(x, {2: 1.0}) - x
    norms = sae.encode(x).norm.view(2, 15, 2)
    torch.testing.assert_close(changed[..., :3], norms[..., :1] * sae.W_dec[2, :3])
    torch.testing.assert_close(changed[..., 3:], norms[..., 1:] * sae.W_dec[2, 3:])


def test_a_bare_number_is_added() -> None:
    sae, x = random_autoencoder(), rows(WIDTH)
    torch.testing.assert_close(sae.intervene(x, {4: 0.3}), sae.intervene(x, {4: Intervention("add", 0.3)}))


def test_none_leaves_everything_as_it_is() -> None:
    sae, x = random_autoencoder(), rows(WIDTH)
    assert torch.equal(sae.intervene(x, {}), x)
    torch.testing.assert_close(sae.intervene(x, {}, keep_error=False), sae(x))


def test_ablating_every_latent_without_the_error_leaves_the_bias() -> None:
    sae, x = random_autoencoder(preprocess="none"), rows(WIDTH)
    left = sae.intervene(x, dict.fromkeys(range(LATENTS), Intervention("ablate")), keep_error=False)
    torch.testing.assert_close(left, sae.b_pre.expand_as(left).detach())


def test_after_clamping_the_encoder_sees_more_of_a_latent() -> None:
    """Along a unit encoder-decoder pair, with nothing else in the way, exactly as much as was asked for."""
    sae = random_autoencoder(preprocess="none", k=1)
    for parameter in sae.parameters():
        parameter.data.zero_()
    sae.W_enc.data[:, 0] = torch.linspace(0, 1, LATENTS)
    sae.W_dec.data[:, 0] = torch.linspace(0, 1, LATENTS)
    clamped = sae.intervene(torch.zeros(1, WIDTH).double(), {12: Intervention("clamp", 2.5)})
    assert sae.encode(clamped).dense()[0, 12] == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ({13: 1.0}, "latent=13 is out of range; this autoencoder has latents 0 … 12"),
        ({-1: 1.0}, "latent=-1 is out of range"),
        ({1: math.nan}, "strength=nan of latent 1 is no finite number"),
        ({1: Intervention("clamp", math.inf)}, "strength=inf of latent 1"),
        ({1: Intervention("ablate", 2.0)}, "strength=2.0 of latent 1 is not used by 'ablate'"),
    ],
)
def test_what_makes_no_sense_is_refused(latents: dict[int, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        random_autoencoder().intervene(rows(WIDTH), latents)
