"""Searches that miss nothing: against the dense product, where bfloat16 brings latents out of order."""

import pytest
import torch
from torch import Tensor

from monosem.ops import cpu, exact, reference
from monosem.ops.exact import ExactProducts, exact_weights
from monosem.ops.reference import Optimized


def crowded(n_latents: int, d_model: int, spread: float) -> Tensor:
    """Rows so near to one another that bfloat16, which keeps 8 bits, mixes up their order."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(d_model, generator=generator)
    return direction + spread * torch.randn(n_latents, d_model, generator=generator)


@pytest.fixture(params=[1.0, 1e-2, 1e-3])
def weights(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """W_enc, b_enc and inputs."""
    generator = torch.Generator().manual_seed(1)
    x, b = (torch.randn(*shape, generator=generator) for shape in ((67, 31), (509,)))
    return crowded(509, 31, request.param), request.param * b, x


def test_usually_near_is_not_near_enough() -> None:
    """The margin of training misses latents here, or these tests would show nothing."""
    W = crowded(509, 31, 1e-3)
    x = torch.randn(67, 31, generator=torch.Generator().manual_seed(1))
    found = cpu.encode_topk(x, Optimized(W, W, W, None, W.bfloat16()), torch.zeros(509), 3, exact._no_dead())
    expected = (x.double() @ W.double().T).topk(3).indices
    assert (found.indices.view(-1, 3) != expected).any()


@pytest.mark.parametrize("k", [1, 3, 32, 509])
def test_the_largest_are_exactly_the_largest(weights: tuple[Tensor, Tensor, Tensor], k: int) -> None:
    W, b, x = weights
    found = ExactProducts(exact_weights(W, b, rounds=True), x).largest(k)
    dense = torch.addmm(b.double(), x.double(), W.double().T)
    values, indices = dense.topk(k)
    chosen = dense.gather(1, found.indices.view(-1, k).long())
    rounding = 32 * torch.finfo(torch.float32).eps * x.norm(dim=1).max() * W.norm(dim=1).max()
    assert (chosen.sort(dim=1, descending=True).values - values).abs().max() < rounding
    assert (found.values.view(-1, k) - chosen).abs().max() < rounding
    assert (indices == found.indices.view(-1, k)).float().mean() > 0.9
    assert all(len(set(row)) == k for row in found.indices.view(-1, k).tolist())


def test_above_the_floors_is_all_that_is(weights: tuple[Tensor, Tensor, Tensor]) -> None:
    W, b, x = weights
    dense = torch.addmm(b.double(), x.double(), W.double().T)
    floors = dense.quantile(0.9, dim=0).float()
    found = ExactProducts(exact_weights(W, b, rounds=True), x).above(floors)
    is_found = torch.zeros_like(dense, dtype=torch.bool)
    is_found[found.tokens(), found.indices.long()] = True
    rounding = 32 * torch.finfo(torch.float32).eps * x.norm(dim=1).max() * W.norm(dim=1).max()
    is_clear = (dense - floors).abs() > rounding
    assert is_clear.float().mean() > 0.9
    assert torch.equal(is_found[is_clear], (dense > floors)[is_clear])


def test_no_rounding_changes_a_product_by_more_than_the_bound() -> None:
    W, x = crowded(211, 13, 0.3), torch.randn(50, 13, generator=torch.Generator().manual_seed(2))
    weights = exact_weights(W, torch.zeros(211), rounds=True)
    lengths, errors = ExactProducts(weights, x)._lengths()
    bound = errors[:, None] * weights.rounded_norms + lengths[:, None] * weights.errors
    moved = (x.bfloat16().double() @ W.bfloat16().double().T - x.double() @ W.double().T).abs()
    assert (moved <= bound * 1.001).all()
    assert (moved.max(dim=1).values > bound.max(dim=1).values / 20).all()  # and it is no idle bound


def test_without_bfloat16_it_is_the_float32_product(weights: tuple[Tensor, Tensor, Tensor]) -> None:
    W, b, x = weights
    found = ExactProducts(exact_weights(W, b, rounds=False), x)
    expected = reference.encode_topk(x, Optimized(W, W, W), b, 7, exact._no_dead())
    torch.testing.assert_close(found.largest(7).values, expected.values)
    assert len(found.above(torch.full((509,), torch.inf)).values) == 0
