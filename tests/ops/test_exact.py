"""Searches that miss nothing: against the dense product, where rounding brings latents out of order."""

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.ops import cpu, exact, reference
from monosem.ops.cpu_screen import GROUP
from monosem.ops.exact import ExactProducts, ExactWeights, exact_weights, find_places, to_bytes
from monosem.ops.reference import DeadLatents, Optimized


def crowded(n_latents: int, d_model: int, spread: float) -> Tensor:
    """Rows so near to one another that rounding mixes up their order."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(d_model, generator=generator)
    return direction + spread * torch.randn(n_latents, d_model, generator=generator)


@pytest.fixture(params=[1.0, 1e-2, 1e-3])
def weights(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """W_enc, b_enc and inputs; the latents make 16 whole vectors of a processor and a part, and more than one group."""
    generator = torch.Generator().manual_seed(1)
    x, b = (torch.randn(*shape, generator=generator) for shape in ((67, 31), (1099,)))
    return crowded(1099, 31, request.param), request.param * b, x


def dense(W: Tensor, b: Tensor, x: Tensor) -> Tensor:
    return torch.addmm(b.double(), x.double(), W.double().T)


def float32_rounding(W: Tensor, x: Tensor) -> Tensor:
    return 32 * torch.finfo(torch.float32).eps * x.norm(dim=1).max() * W.norm(dim=1).max()


def test_usually_near_is_not_near_enough() -> None:
    """The margin of training misses latents here, or these tests would show nothing."""
    W = crowded(509, 31, 1e-3)
    x = torch.randn(67, 31, generator=torch.Generator().manual_seed(1))
    none = DeadLatents(torch.empty(0, dtype=torch.int64), 1, torch.empty(0, 0))
    found = cpu.encode_topk(x, Optimized(W, W, W, None, W.bfloat16()), torch.zeros(509), 3, none)
    assert (found.indices.view(-1, 3) != dense(W, torch.zeros(509), x).topk(3).indices).any()


def test_whole_numbers_alone_mix_up_the_order(weights: tuple[Tensor, Tensor, Tensor]) -> None:
    W, b, x = weights
    rotation = exact.random_rotation(31)
    rows, columns = to_bytes(W, rotation), to_bytes(x, rotation)
    product = columns.levels.double() @ rows.levels.double().T * columns.steps[:, None] * rows.steps + b
    assert (product.topk(3).indices != dense(W, b, x).topk(3).indices).any()


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize("k", [1, 3, 32, 600, 1099])
def test_the_largest_are_exactly_the_largest(
    weights: tuple[Tensor, Tensor, Tensor], k: int, rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 1)  # blocks of 32 tokens
    W, b, x = weights
    found = ExactProducts(exact_weights(W, b, rounds=rounds), x).largest(k)
    values, indices = dense(W, b, x).topk(k)
    chosen = dense(W, b, x).gather(1, found.indices.view(-1, k).long())
    rounding = float32_rounding(W, x)
    assert (chosen.sort(dim=1, descending=True).values - values).abs().max() < rounding
    assert (found.values.view(-1, k) - chosen).abs().max() < rounding
    assert (found.values.view(-1, k).diff() <= 0).all()
    assert (indices == found.indices.view(-1, k)).float().mean() > 0.85
    assert all(len(set(row)) == k for row in found.indices.view(-1, k).tolist())


@pytest.mark.parametrize("rounds", [True, False])
def test_above_the_floors_is_all_that_is(
    weights: tuple[Tensor, Tensor, Tensor], rounds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exact, "_BLOCK_BYTES", 1)
    W, b, x = weights
    pre_activations = dense(W, b, x)
    floors = pre_activations.quantile(0.9, dim=0).float()
    floors[:3] = torch.tensor([torch.inf, -torch.inf, 0])
    found = ExactProducts(exact_weights(W, b, rounds=rounds), x).above(floors)
    is_found = torch.zeros_like(pre_activations, dtype=torch.bool)
    is_found[found.tokens(), found.indices.long()] = True
    is_clear = (pre_activations - floors).abs() > float32_rounding(W, x)
    assert is_clear.float().mean() > 0.9
    assert torch.equal(is_found[is_clear], (pre_activations > floors)[is_clear])
    values = pre_activations[found.tokens(), found.indices.long()]
    assert (found.values - values).abs().max() < float32_rounding(W, x)
    for latents in found.indices.split(found.row_offsets.diff().tolist()):
        assert (latents.diff() > 0).all()


def test_no_rounding_changes_a_product_by_more_than_the_bound() -> None:
    W, x = crowded(211, 13, 0.3), torch.randn(50, 13, generator=torch.Generator().manual_seed(2))
    weights = exact_weights(W, torch.zeros(211), rounds=True)
    assert weights.rotation is not None
    columns, groups = to_bytes(x, weights.rotation), exact._groups(weights, torch.zeros(211), torch.zeros(211))
    rows, latent_at = weights.rows, weights.places.latent_at
    product = columns.levels.double() @ rows.levels.double().T * columns.steps[:, None] * rows.steps.double()
    moved = (product - x.double() @ W.double()[latent_at].T).abs()
    bound = np.outer(columns.errors, groups.lengths) + np.outer(x.norm(dim=1), groups.errors)
    place = np.arange(len(latent_at))
    bound = torch.from_numpy(bound[:, place // (groups.width * GROUP) * groups.width + place % groups.width])
    assert (moved <= bound).all()
    assert (moved.max(dim=1).values > bound.max(dim=1).values / 20).all()  # and it is no idle bound


def test_the_rotation_is_one() -> None:
    rotation = exact.random_rotation(40).double()
    torch.testing.assert_close(rotation @ rotation.T, torch.eye(40, dtype=torch.float64), rtol=0, atol=1e-6)


def test_a_coordinate_far_above_the_others_makes_rounding_no_coarser() -> None:
    x = torch.randn(300, 256, generator=torch.Generator().manual_seed(0))
    usual = to_bytes(x, exact.random_rotation(256))
    x[:, 7] *= 1000
    with_outlier = to_bytes(x, exact.random_rotation(256))
    share = (with_outlier.errors / x.norm(dim=1)).max()
    assert share < 2 * (usual.errors / usual.lengths).max()
    as_it_stands = to_bytes(x, torch.eye(256)).errors / x.norm(dim=1)
    assert as_it_stands.median() > 2 * share


@pytest.mark.parametrize("n", [1, 7, 128, 2048, 2049, 5000])
def test_every_latent_has_a_place_in_a_group_of_about_its_step(n: int) -> None:
    steps = torch.randn(n, generator=torch.Generator().manual_seed(6)).exp()
    places = find_places(steps)
    assert sorted(places.latent_at[~places.is_empty].tolist()) == list(range(n))
    groups = places.by_group(steps[places.latent_at])
    assert len(groups) % places.width == 0 == places.width % 8 and groups.shape[1] == GROUP
    place = torch.arange(len(places.latent_at))
    group_at = place // (places.width * GROUP) * places.width + place % places.width
    for at, values in zip(group_at.tolist(), steps[places.latent_at].tolist(), strict=True):
        assert values in groups[at].tolist()
    assert (groups.amax(dim=1)[:-1] <= groups.amin(dim=1)[1:]).all()


def test_rows_of_zeros_and_of_many_lengths() -> None:
    generator = torch.Generator().manual_seed(7)
    lengths = 10 ** (14 * torch.rand(700, 1, generator=generator) - 12)
    lengths[::9] = 0
    W, b = lengths * torch.randn(700, 9, generator=generator), torch.randn(700, generator=generator)
    x = torch.randn(40, 9, generator=generator)
    found = ExactProducts(exact_weights(W, b, rounds=True), x)
    largest, expected = found.largest(300), dense(W, b, x)
    assert (largest.indices.view(40, 300) == expected.topk(300).indices).float().mean() > 0.999
    torch.testing.assert_close(largest.values.view(40, 300), expected.topk(300).values.float())
    above = found.above(torch.zeros(700))
    assert torch.equal(above.row_offsets.diff(), (expected > 0).sum(dim=1))


def ties() -> tuple[ExactWeights, Tensor, Tensor]:
    """700 latents of which those with the same remainder by 7 are the same."""
    W = torch.randn(7, 11, generator=torch.Generator().manual_seed(3)).repeat(100, 1)
    return exact_weights(W, torch.zeros(700), rounds=True), W, torch.randn(5, 11)


def test_of_equal_ones_the_lower_latents_come() -> None:
    weights, W, x = ties()
    found = ExactProducts(weights, x).largest(130).indices.view(5, 130)
    order = (x @ W[:7].T).argsort(dim=1, descending=True)
    for first, second, mine in zip(order[:, 0].tolist(), order[:, 1].tolist(), found.tolist(), strict=True):
        assert mine == [*range(first, 700, 7), *range(second, 7 * 30, 7)]


@pytest.mark.parametrize("rounds", [True, False])
def test_tokens_of_zeros_and_biases_far_above_the_products(rounds: bool) -> None:
    generator = torch.Generator().manual_seed(4)
    W, b = torch.randn(1000, 9, generator=generator), 1e4 * torch.randn(1000, generator=generator)
    x = torch.cat([torch.zeros(2, 9), 1e-3 * torch.randn(40, 9, generator=generator)])
    found = ExactProducts(exact_weights(W, b, rounds=rounds), x).largest(20)
    assert torch.equal(found.indices.view(-1, 20), b.topk(20).indices.int().expand(42, -1))


@pytest.mark.parametrize("rounds", [True, False])
def test_what_is_no_number_stays_none_and_harms_no_other_token(rounds: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    W, b, x = (torch.randn(*shape, generator=generator) for shape in ((200, 9), (200,), (6, 9)))
    broken = x.clone()
    broken[2, 3], broken[4] = torch.nan, torch.inf
    search, usual = (ExactProducts(exact_weights(W, b, rounds=rounds), tokens) for tokens in (broken, x))
    values, expected = search.largest(5).values.view(6, 5), usual.largest(5).values.view(6, 5)
    others = [0, 1, 3, 5]
    torch.testing.assert_close(values[others], expected[others], rtol=0, atol=0)
    assert values[2].isnan().all() and not values[4].isfinite().any()
    assert torch.equal(search.above(b)[2].diff()[others], usual.above(b)[2].diff()[others])


def test_no_tokens_have_no_latents() -> None:
    weights, _, x = ties()
    found = ExactProducts(weights, x[:0])
    assert found.largest(3).row_offsets.tolist() == found.above(torch.zeros(700)).row_offsets.tolist() == [0]


def test_unrounded_it_is_the_float32_product(weights: tuple[Tensor, Tensor, Tensor]) -> None:
    W, b, x = weights
    none = DeadLatents(torch.empty(0, dtype=torch.int64), 1, torch.empty(0, 0))
    found = ExactProducts(exact_weights(W, b, rounds=False), x)
    expected = reference.encode_topk(x, Optimized(W, W, W), b, 7, none)
    torch.testing.assert_close(found.largest(7).values, expected.values)
    assert len(found.above(torch.full((1099,), torch.inf)).values) == 0
