"""Many tokens' codes by kernels: those of ``encode``, for every architecture."""

import pytest
import torch

from monosem.ops import exact
from monosem.ops.reference import Chosen
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.encoder import make_encoder


def random_autoencoder(architecture: str, **settings: object) -> Autoencoder:
    own = {"k": 7} if "k" in ARCHITECTURES[architecture].settings else {}
    sae = new_autoencoder(AutoencoderConfig(architecture=architecture, n_latents=203, **own, **settings), 13)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return sae


def dense(chosen: Chosen) -> torch.Tensor:
    out = torch.zeros(len(chosen.row_offsets) - 1, 203)
    out[chosen.tokens(), chosen.indices.long()] = chosen.values
    return out


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_codes_by_kernels_are_those_of_encode(architecture: str, rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "multiplies_bytes", lambda: rounds)
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 1)  # several blocks
    sae = random_autoencoder(architecture)
    raw = torch.randn(150, 13, generator=torch.Generator().manual_seed(1)) + 2
    found, expected = make_encoder(sae)(raw), sae.encode(raw)
    torch.testing.assert_close(dense(found), expected.dense(), rtol=1e-4, atol=1e-6)
    assert torch.equal(found.row_offsets, expected.row_offsets)
    assert 0 < len(found.values) < 150 * 203
    for values in found.values.split(found.row_offsets.diff().tolist()):
        assert (values.diff() <= 0).all()  # strongest first


def test_other_precisions_are_encoded_densely() -> None:
    sae = random_autoencoder("topk").double()
    raw = torch.randn(20, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = make_encoder(sae)(raw), sae.encode(raw)
    assert torch.equal(found.values, expected.values) and found.values.dtype == torch.float64
