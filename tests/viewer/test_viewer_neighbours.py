"""Which latents are near: against plain loops over tokens and over decoder rows."""

import literal_index as literal
import numpy as np
import pytest
import torch

from monosem.ops import exact
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Widths
from monosem.viewer import neighbours
from monosem.viewer.codes import count_fired
from monosem.viewer.latents import Range, read_firings
from monosem.viewer.neighbours import Nearest, decoder_searcher, encoder_cosines, nearest_by_firing


def random_autoencoder(n_latents: int = 83, widths: int | Widths = 5) -> Autoencoder:
    sae = new_autoencoder(AutoencoderConfig(n_latents=n_latents, k=1), widths)
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator))
    return sae


def pairs(found: Nearest) -> list[list[tuple[int, float]]]:
    return [
        [(other, similarity) for other, similarity in zip(others, similarities, strict=True) if other >= 0]
        for others, similarities in zip(found.others.tolist(), found.similarities.tolist(), strict=True)
    ]


@pytest.mark.parametrize("where", [Range(0, 13), Range(4, 9), Range(12, 13)])
@pytest.mark.parametrize("count", [3, 20])
def test_nearness_by_firing_is_the_share_of_common_tokens(where: Range, count: int) -> None:
    codes = literal.random_codes(0)
    fired = count_fired(codes, 13)
    found = pairs(nearest_by_firing(read_firings(codes, fired, where), codes, fired, count))
    mine = literal.activations(codes, 13)
    for latent, near in zip(range(*where), found, strict=True):
        expected = literal.firing_neighbours(mine, latent, count)
        assert [other for other, _ in near] == [other for other, _ in expected]
        assert [value for _, value in near] == pytest.approx([value for _, value in expected], rel=1e-14)
    if where.first == 0:
        assert found[0] == []  # it never fires


def test_latents_that_fire_together_always_are_as_near_as_can_be() -> None:
    rows = np.arange(6)
    codes = literal.random_codes(0)._replace(
        offsets=np.arange(0, 13, 2),
        places=rows.astype(np.uint32),
        latents=np.array([0, 1] * 4 + [2, 3] * 2, np.uint32),
        values=np.ones(12, np.float32),
    )
    fired = count_fired(codes, 5)
    found = pairs(nearest_by_firing(read_firings(codes, fired, Range(0, 5)), codes, fired, 4))
    assert found == [[(1, 1.0)], [(0, 1.0)], [(3, 1.0)], [(2, 1.0)], []]


@pytest.mark.parametrize("rounds", [False, True])
@pytest.mark.parametrize("where", [Range(0, 83), Range(70, 83)])
def test_nearness_of_decoder_rows_is_their_cosine(where: Range, rounds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact, "multiplies_bytes", lambda: rounds)
    sae = random_autoencoder()
    found = pairs(decoder_searcher(sae, 6)(where))
    rows = sae.W_dec.tolist()
    for latent, near in zip(range(*where), found, strict=True):
        cosines = {other: literal.cosine(rows[latent], rows[other]) for other in range(83) if other != latent}
        expected = sorted(cosines, key=lambda other: -cosines[other])[:6]
        assert [other for other, _ in near] == expected
        assert [value for _, value in near] == pytest.approx([cosines[other] for other in expected], abs=1e-6)


def test_without_kernels_nearness_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    sae = random_autoencoder()
    by_kernels = decoder_searcher(sae, 6)(Range(0, 83))
    monkeypatch.setattr(neighbours, "_search_by_kernels", neighbours._search_densely)
    monkeypatch.setattr(neighbours, "_ELEMENTS", 83 * 5)
    found = decoder_searcher(sae, 6)(Range(0, 83))
    assert np.array_equal(found.others, by_kernels.others)
    assert np.allclose(found.similarities, by_kernels.similarities, atol=1e-6)


def test_rows_that_are_the_same_or_zero() -> None:
    sae = random_autoencoder(6, 2)
    sae.W_dec.data = torch.tensor([[1.0, 0], [3, 0], [0, 0], [1, 0], [-1, 0], [0, 2]])
    found = pairs(decoder_searcher(sae, 3)(Range(0, 6)))
    assert found[0][:2] == [(1, 1.0), (3, 1.0)] and found[3][:2] == [(0, 1.0), (1, 1.0)]
    assert found[2] == []  # of no length
    assert all(other != 2 for near in found for other, _ in near)
    assert found[4] == [(5, 0.0), (0, -1.0), (1, -1.0)]


def test_a_latent_alone_has_no_neighbours() -> None:
    found = decoder_searcher(random_autoencoder(1), 4)(Range(0, 1))
    assert found.others.tolist() == [[-1] * 4]


def test_encoder_and_decoder_rows_are_compared_where_they_live_in_one_space() -> None:
    sae = random_autoencoder()
    sae.W_enc.data[3] = 0
    found = encoder_cosines(sae)
    assert found is not None and found[3].isnan()
    for latent in (0, 1, 2, 40, 82):
        expected = literal.cosine(sae.W_enc[latent].tolist(), sae.W_dec[latent].tolist())
        assert float(found[latent]) == pytest.approx(expected, rel=1e-9)
    assert encoder_cosines(random_autoencoder(widths=Widths((5,), 5))) is None
