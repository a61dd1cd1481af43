"""Kernels against ``ops/reference``: the same chosen latents, residuals, gradients and updates, at awkward shapes.

Triton's kernels run on the CPU, through Triton's interpreter, where Triton is installed.
"""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.ops import compiled, cpu, reference
from monosem.ops.cpu_choose import kth_largest
from monosem.ops.reference import (
    AdamStep,
    Chosen,
    DeadLatents,
    ErrorTerm,
    LatentGradients,
    Optimized,
    TokenGradients,
    even_rows,
    normalize_rows,
)

MODULES: list[ModuleType] = [cpu]
if importlib.util.find_spec("triton"):
    from monosem.ops import triton_kernels

    MODULES.append(triton_kernels)

every_module = pytest.mark.parametrize("kernels", MODULES, ids=lambda module: module.__name__.rsplit(".", 1)[-1])

# batch, n_latents, d_model, k
SHAPES = [(13, 31, 7, 5), (1, 1, 1, 1), (17, 97, 13, 1), (5, 37, 3, 37), (29, 211, 31, 32), (3, 71, 769, 16)]
MANY_BUCKETS = [(2, 1009, 5, 1), (7, 4001, 3, 4)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def reordered(d_model: int) -> dict[str, float]:
    """How far float32 sums of d_model products of standard normals may lie apart when added in other orders."""
    return {"rtol": 1.3e-6, "atol": max(1e-5, d_model * torch.finfo(torch.float32).eps)}


def encoder(n_latents: int, d_model: int, *, rounded: bool, seed: int = 1) -> tuple[Optimized, Tensor]:
    weight = torch.randn(n_latents, d_model, generator=seeded(seed))
    bias = torch.randn(n_latents, generator=seeded(seed + 1)) / 10
    return optimized(weight, rounded=rounded), bias


def optimized(weight: Tensor, *, rounded: bool = False, average: bool = True, seed: int = 7) -> Optimized:
    """A parameter in the middle of training."""
    return Optimized(
        weight.clone(),
        torch.randn(weight.shape, generator=seeded(seed)) / 100,
        torch.rand(weight.shape, generator=seeded(seed + 1)) / 10_000,
        torch.randn(weight.shape, generator=seeded(seed + 2)) if average else None,
        weight.bfloat16() if rounded else None,
    )


def cloned(parameter: Optimized) -> Optimized:
    return Optimized(*(None if tensor is None else tensor.clone() for tensor in parameter))  # type: ignore[arg-type]


@every_module
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("shape", SHAPES + MANY_BUCKETS)
def test_the_chosen_latents_are_exactly_the_k_largest(
    kernels: ModuleType, shape: tuple[int, int, int, int], rounded: bool
) -> None:
    batch, n_latents, d_model, k = shape
    x = torch.randn(batch, d_model, generator=seeded())
    W_enc, b_enc = encoder(n_latents, d_model, rounded=rounded)
    expected = reference.encode_topk(x, W_enc, b_enc, k, no_dead(batch))
    found = kernels.encode_topk(x, W_enc, b_enc, k, no_dead(batch))
    torch.testing.assert_close(found.values, expected.values, **reordered(d_model))
    assert torch.equal(found.row_offsets, expected.row_offsets)
    values, indices = found.values.view(batch, k), found.indices.view(batch, k)
    assert (values.diff(dim=1) <= 0).all()
    dense = x @ W_enc.weight.T + b_enc
    torch.testing.assert_close(dense.gather(1, indices.long()), values, **reordered(d_model))
    assert all(len(set(row)) == k for row in indices.tolist())


@every_module
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("shape", SHAPES + MANY_BUCKETS)
def test_above_the_floors_are_exactly_those_that_are(
    kernels: ModuleType, shape: tuple[int, int, int, int], rounded: bool
) -> None:
    batch, n_latents, d_model, _ = shape
    x = torch.randn(batch, d_model, generator=seeded())
    W_enc, b_enc = encoder(n_latents, d_model, rounded=rounded)
    floors = torch.randn(n_latents, generator=seeded(4)) * d_model**0.5
    dense = x @ W_enc.weight.T + b_enc
    if kernels is not cpu:  # its rounded product decides
        multiplied = W_enc.weight if W_enc.rounded is None else W_enc.rounded
        rough = torch.addmm(b_enc.to(multiplied.dtype), x.to(multiplied.dtype), multiplied.T)
        expected = reference.above(rough, floors)
    else:
        expected = reference.encode_above(x, W_enc, b_enc, floors, no_dead(batch))
    found = kernels.encode_above(x, W_enc, b_enc, floors, no_dead(batch))
    assert torch.equal(found.row_offsets, expected.row_offsets)
    assert found.indices.tolist() == expected.indices.tolist()
    torch.testing.assert_close(found.values, dense[expected.tokens(), expected.indices], **reordered(d_model))


@every_module
@pytest.mark.parametrize("floor", [-torch.inf, torch.inf, 0.0])
def test_all_or_none_may_be_above(kernels: ModuleType, floor: float) -> None:
    x = torch.randn(5, 4, generator=seeded())
    W_enc, b_enc = encoder(9, 4, rounded=False)
    found = kernels.encode_above(x, W_enc, b_enc, torch.full((9,), floor), no_dead(5))
    dense = x @ W_enc.weight.T + b_enc
    assert len(found.indices) == int((dense > floor).sum()) == int(found.row_offsets[-1])
    torch.testing.assert_close(found.values, dense[dense > floor])


def test_many_blocks_choose_as_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(41, 16, generator=seeded())
    W_enc, b_enc = encoder(203, 16, rounded=True)
    dead, floors = torch.arange(0, 203, 3), torch.linspace(-1, 4, 203)
    dead = [DeadLatents(dead, 8, torch.full((len(dead), 39), torch.nan, dtype=torch.bfloat16)) for _ in range(4)]
    largest = cpu.encode_topk(x, W_enc, b_enc, 5, dead[0])
    above = cpu.encode_above(x, W_enc, b_enc, floors, dead[1])
    monkeypatch.setattr(cpu, "BLOCK_BYTES", 10 * 203 * 2)
    found = cpu.encode_topk(x, W_enc, b_enc, 5, dead[2])
    found_above = cpu.encode_above(x, W_enc, b_enc, floors, dead[3])
    assert all(torch.equal(dead[0].codes, other.codes) for other in dead[1:])
    assert all(torch.equal(a, b) for a, b in zip(largest, found, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(above, found_above, strict=True))


@pytest.mark.parametrize("count", [1, 16, 133, 1024])
def test_the_kth_largest_is_that_of_the_sorted_values(count: int) -> None:
    values = torch.randn(count + 5, generator=seeded())
    values[: count // 2] = values[: count // 2].bfloat16().float()  # some are equal
    values[1:count:9], values[2:count:11] = -torch.inf, 1e-30
    in_order = values[:count].sort(descending=True).values
    for k in {1, count // 3 + 1, count // 2 + 1, count}:
        assert kth_largest(values.numpy(), count, k, np.empty(count, np.int32)) == in_order[k - 1]


def no_dead(batch: int) -> DeadLatents:
    """AuxK has nothing to do."""
    return DeadLatents(torch.empty(0, dtype=torch.int64), 4, torch.empty(0, batch))


def adversarial_rows() -> dict[str, Tensor]:
    """Pre-activations of 100 latents that a top-k by buckets could get wrong."""
    ramp = torch.arange(100.0)
    lonely = torch.full((100,), -1.0)
    lonely[[0, 31, 32, 63, 64, 99]] = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0, 0.5])
    return {
        "all in one bucket": torch.where((ramp >= 32) & (ramp < 64), ramp, -ramp),
        "all in the last, partial bucket": torch.where(ramp >= 96, ramp, -ramp),
        "one a bucket": lonely,
        "all negative": -ramp - 1,
        "all equal": torch.full((100,), 0.25),
        "all zero": torch.zeros(100),
        "signs of zero": torch.where(ramp % 2 == 0, 0.0, -0.0),
        "two values": torch.where(ramp % 3 == 0, 1.0, -1.0),
        "huge and tiny": torch.where(ramp % 2 == 0, 1e30, 1e-30) * torch.sign(ramp - 50.5),
        "ties at the k-th": torch.where(ramp < 3, 9.0, torch.where(ramp < 60, 4.0, 1.0)),
    }


@every_module
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("k", [1, 4, 5, 33, 100])
@pytest.mark.parametrize("name", sorted(adversarial_rows()))
def test_adversarial_rows_give_torchs_values(kernels: ModuleType, name: str, k: int, rounded: bool) -> None:
    # The row is the bias, and the input is zero; a second token has another order.
    row = adversarial_rows()[name].bfloat16().float()
    W_enc = optimized(torch.randn(100, 8, generator=seeded()), rounded=rounded)
    x = torch.stack([torch.zeros(8), torch.randn(8, generator=seeded(3))])
    found = kernels.encode_topk(x, W_enc, row, k, no_dead(2))
    assert torch.equal(found.values[:k], row.topk(k).values)
    assert torch.equal(row[found.indices[:k].long()], found.values[:k])
    torch.testing.assert_close(found.values[k:], (x[1] @ W_enc.weight.T + row).topk(k).values)


@pytest.mark.parametrize("entry", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("where", ["weight", "input", "bias"])
def test_what_is_not_finite_gives_places_that_exist(where: str, entry: float) -> None:
    W_enc, b_enc = encoder(100, 8, rounded=False)
    x = torch.randn(3, 8, generator=seeded())
    {"weight": W_enc.weight, "input": x, "bias": b_enc}[where][1:].fill_(entry)
    W_enc = W_enc._replace(rounded=W_enc.weight.bfloat16())
    dead = DeadLatents(torch.arange(50), 7, torch.empty(50, 3, dtype=torch.bfloat16))
    found = cpu.encode_topk(x, W_enc, b_enc, 5, dead)
    if where == "input" or where == "weight":
        assert not found.values[5:].isfinite().all()
    assert all(len(set(row)) == 5 and 0 <= min(row) <= max(row) < 100 for row in found.indices.view(3, 5).tolist())
    some = cpu.encode_above(x, W_enc, b_enc, torch.zeros(100), no_dead(3))
    assert len(some.indices) == 0 or 0 <= int(some.indices.min()) <= int(some.indices.max()) < 100


@every_module
@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("aux_tokens", [11, 4])
@pytest.mark.parametrize(("n_dead", "k_aux"), [(1, 4), (40, 4), (97, 16), (97, 97), (97, 200)])
def test_the_dead_codes_are_the_strongest_of_the_dead(
    kernels: ModuleType, n_dead: int, k_aux: int, aux_tokens: int, rounded: bool
) -> None:
    x = torch.randn(11, 13, generator=seeded())
    W_enc, b_enc = encoder(97, 13, rounded=rounded)
    dead = torch.randperm(97, generator=seeded(5))[:n_dead].sort().values
    multiplied = W_enc.weight if W_enc.rounded is None else W_enc.rounded
    expected, found = (torch.full((n_dead, aux_tokens), torch.nan, dtype=multiplied.dtype) for _ in range(2))
    inputs = x.bfloat16().float() if rounded else x
    product = W_enc._replace(weight=multiplied.float())
    reference.encode_topk(inputs, product, b_enc, 3, DeadLatents(dead, k_aux, expected))
    kernels.encode_topk(x, W_enc, b_enc, 3, DeadLatents(dead, k_aux, found))
    assert (found >= 0).all()
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if rounded else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found.sort(dim=0).values, expected.sort(dim=0).values, **tolerance)
    dense = (x[:aux_tokens] @ W_enc.weight[dead].T + b_enc[dead]).T.to(found.dtype)
    loose = {"rtol": 3e-2, "atol": 3e-2} if rounded else tolerance
    torch.testing.assert_close(found, torch.where(found > 0, dense, 0), **loose)
    assert ((found > 0).sum(dim=0) == dense.topk(min(k_aux, n_dead), dim=0).values.gt(0).sum(dim=0)).all()


@pytest.mark.parametrize("k_aux", [1, 3, 64, 999, 1000])
def test_of_equal_dead_latents_the_first_are_kept(k_aux: int) -> None:
    # Three levels and a token of equal ones, many ties at the k-th whatever k is.
    levels = torch.tensor([3.0, 2.0, 2.0, 1.0]).repeat(250)
    for bias in (levels, torch.full((1000,), 0.5)):
        W_enc = optimized(torch.zeros(1000, 4), rounded=True)
        codes = torch.empty(1000, 70, dtype=torch.bfloat16)
        cpu.encode_topk(torch.zeros(70, 4), W_enc, bias, 1, DeadLatents(torch.arange(1000), k_aux, codes))
        order = bias.sort(descending=True, stable=True).indices[:k_aux]
        expected = torch.zeros(1000).index_copy(0, order, bias[order])
        assert torch.equal(codes.float(), expected[:, None].expand(-1, 70))


@every_module
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(1, 1, 1), (37, 13, 7), (64, 31, 50)])
def test_the_gradients_of_codes_and_the_rows_they_need(
    kernels: ModuleType, shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    some, d_model, tokens = shape
    W_dec = torch.randn(2 * some, d_model, generator=seeded())
    latents = torch.randperm(2 * some, generator=seeded(1))[:some].sort().values
    rows, columns = kernels.dense_rows(W_dec, latents, dtype)
    assert torch.equal(rows, W_dec[latents].to(dtype))
    assert torch.equal(columns, rows.T)
    codes = torch.randn(some, tokens, generator=seeded(2)).relu().to(dtype)
    pull = torch.randn(tokens, d_model, generator=seeded(3)).to(dtype)
    gradients, sums = kernels.code_gradients(rows, pull, codes)
    expected, expected_sums = reference.code_gradients(*(tensor.double() for tensor in (rows, pull, codes)))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(gradients.double(), expected, **tolerance)
    torch.testing.assert_close(sums.double(), expected_sums, rtol=tolerance["rtol"], atol=tolerance["atol"] * tokens)


@every_module
@pytest.mark.parametrize("is_even", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_residual_and_its_products(kernels: ModuleType, shape: tuple[int, int, int, int], is_even: bool) -> None:
    x, latents, W_dec = decoding(shape, is_even=is_even)
    dense = torch.zeros(shape[0], shape[1], dtype=torch.float64)
    dense[latents.tokens(), latents.indices.long()] = latents.values.double()
    residual = x.double() - dense @ W_dec.double()
    products = (residual @ W_dec.double().T)[latents.tokens(), latents.indices.long()]
    for module in (reference, kernels):
        found = module.subtract_decoded(x, latents, W_dec)
        for wanted, tensor in zip((residual, products), found, strict=True):
            torch.testing.assert_close(tensor, wanted.float(), rtol=1e-4, atol=1e-4)


def decoding(shape: tuple[int, int, int, int], *, is_even: bool = True) -> tuple[Tensor, Chosen, Tensor]:
    """Inputs, some tokens' latents (k each, or any number up to k), some of them zero, and a decoder."""
    batch, n_latents, d_model, k = shape
    x = torch.randn(batch, d_model, generator=seeded())
    values = torch.randn(batch, k, generator=seeded(1)).relu()
    indices = torch.rand(batch, n_latents, generator=seeded(2)).topk(k, dim=1).indices
    W_dec = torch.randn(n_latents, d_model, generator=seeded(3))
    normalize_rows(W_dec)
    if is_even:
        return x, even_rows(values, indices.int()), W_dec
    counts = torch.randint(0, k + 1, (batch,), generator=seeded(4))
    inside = torch.arange(k) < counts[:, None]
    row_offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return x, Chosen(values[inside], indices[inside].int(), row_offsets), W_dec


def token_gradients(shape: tuple[int, int, int, int], count: int) -> TokenGradients:
    """Some terms on the same decoder; with several, tokens have more or fewer latents. Some entries are zero."""
    x, latents, _ = decoding(shape, is_even=count == 1)
    size = len(latents.values)
    terms = [
        ErrorTerm(
            0.3 / (1 + number),
            torch.randn(size, generator=seeded(10 * number)).relu(),
            torch.randn(x.shape, generator=seeded(10 * number + 1)),
        )
        for number in range(count)
    ]
    of_pre_activations = torch.randn(size, generator=seeded(5)) * (latents.values > 0)
    return TokenGradients(x, latents._replace(values=of_pre_activations), tuple(terms))


@pytest.mark.parametrize("count", [1, 3])
def test_the_references_gradients_are_sums_over_tokens(count: int) -> None:
    shape = (13, 31, 7, 5)
    batch = token_gradients(shape, count)
    W_enc, W_dec = encoder(31, 7, rounded=False)[0].weight, decoding(shape)[2]
    of_W_enc, of_b_enc, of_W_dec = (torch.zeros(31, 7), torch.zeros(31), torch.zeros(31, 7))
    of_inputs = torch.zeros(7)
    coefficients, indices, _ = batch.of_pre_activations
    for entry, token in enumerate(batch.of_pre_activations.tokens().tolist()):
        i = int(indices[entry])
        of_W_enc[i] += coefficients[entry] * batch.x_centered[token]
        of_b_enc[i] += coefficients[entry]
        of_inputs += coefficients[entry] * W_enc[i]
        for weight, values, residual in batch.terms:
            of_W_dec[i] += -2 * weight * values[entry] * residual[token]
    of_W_dec -= (of_W_dec * W_dec).sum(dim=1, keepdim=True) * W_dec
    expected = (of_W_enc, of_b_enc, of_W_dec)
    for found, wanted in zip(reference.latent_gradients(batch, None, W_dec), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(reference.input_gradient(batch, W_enc), of_inputs, rtol=1e-4, atol=1e-5)


def auxiliary_rows(shape: tuple[int, int, int, int], dtype: torch.dtype) -> LatentGradients:
    """Gradients of every other latent."""
    latents = torch.arange(0, shape[1], 2)
    of_W_enc, of_W_dec = (torch.randn(len(latents), shape[2], generator=seeded(seed)).to(dtype) for seed in (5, 6))
    return LatentGradients(latents, of_W_enc, torch.randn(len(latents), generator=seeded(7)), of_W_dec)


@every_module
@pytest.mark.parametrize(
    ("count", "dtype", "with_bias"),
    [
        (1, None, True),
        (2, None, False),
        (1, torch.bfloat16, True),
        (2, torch.float32, True),
        (5, torch.bfloat16, False),
    ],
)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_update_is_the_references(
    kernels: ModuleType,
    shape: tuple[int, int, int, int],
    count: int,
    dtype: torch.dtype | None,
    with_bias: bool,
) -> None:
    batch = token_gradients(shape, count)
    auxiliary = None if dtype is None else auxiliary_rows(shape, dtype)
    W_enc, b_enc = encoder(shape[1], shape[2], rounded=True)
    start = [W_enc, optimized(b_enc), optimized(decoding(shape)[2], seed=17)]
    if count > 1:
        start = [parameter._replace(average=None) for parameter in start]
    adam = AdamStep(learning_rate=1e-2, step=7, ema_decay=0.99, gradient_scale=0.8)
    results: list[list[Optimized]] = []
    of_inputs: list[Tensor] = []
    for module in (reference, kernels):
        encoder_, bias, decoder = (cloned(parameter) for parameter in start)
        trained_bias = bias if with_bias else None
        of_inputs.append(module.update_latents(encoder_, trained_bias, decoder, batch, auxiliary, adam))
        results.append([encoder_, bias, decoder])
    for expected, found in zip(*results, strict=True):
        for wanted, tensor in zip(expected[:4], found[:4], strict=True):
            assert (wanted is None) == (tensor is None)
            if wanted is not None:
                torch.testing.assert_close(tensor, wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(of_inputs[1], of_inputs[0], rtol=1e-4, atol=1e-3)
    assert results[1][0].rounded is not None
    # Triton's interpreter cuts off where the device rounds to nearest.
    one_unit = 0 if kernels is cpu else 2**-7
    torch.testing.assert_close(
        results[1][0].rounded, results[1][0].weight.bfloat16(), rtol=one_unit, atol=0, check_dtype=True
    )
    if not with_bias:
        assert torch.equal(results[1][1].weight, start[1].weight)


@every_module
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_norms(kernels: ModuleType, shape: tuple[int, int, int, int], count: int) -> None:
    batch = token_gradients(shape, count)
    W_dec = decoding(shape)[2]
    W_enc, _ = encoder(shape[1], shape[2], rounded=False)
    for auxiliary in (None, auxiliary_rows(shape, torch.bfloat16)):
        arguments = (batch, auxiliary, W_enc.weight, W_dec)
        *expected, of_inputs = reference.gradient_square_sums(*arguments)
        *found, found_of_inputs = kernels.gradient_square_sums(*arguments)
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-6)
        torch.testing.assert_close(found_of_inputs, of_inputs, rtol=1e-4, atol=1e-3)


@every_module
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_moments_in_bfloat16_are_rounded_as_the_reference_rounds_them(
    kernels: ModuleType, shape: tuple[int, int, int, int]
) -> None:
    batch = token_gradients(shape, 2)
    W_enc, b_enc = encoder(shape[1], shape[2], rounded=False)
    start = [W_enc, optimized(b_enc), optimized(decoding(shape)[2], seed=17)]
    halved = [p._replace(first_moment=p[1].bfloat16(), second_moment=p[2].bfloat16()) for p in start]
    results: list[list[Optimized]] = []
    for module in (reference, kernels):
        moved = [cloned(parameter) for parameter in halved]
        module.update_latents(*moved, batch, None, AdamStep(1e-2, 7, 0.99))
        results.append(moved)
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
        for wanted, tensor in zip(expected[1:3], found[1:3], strict=True):
            # A float32 that differs in its last bits may fall on the other side of the noise.
            torch.testing.assert_close(tensor, wanted, rtol=2**-7, atol=1e-6)
            assert float((tensor != wanted).float().mean()) < 0.02 or tensor.numel() < 50


def test_stochastic_rounding_is_right_on_average_and_between_the_neighbours() -> None:
    x = torch.randn(1000, generator=seeded()) * torch.logspace(-20, 3, 1000)
    draws = torch.stack([reference.round_stochastically(x, seed).float() for seed in range(400)])
    below = (x.view(torch.int32) & ~0xFFFF).view(torch.float32)
    above = ((x.view(torch.int32) & ~0xFFFF) + 0x10000).view(torch.float32)
    assert ((draws == below) | (draws == above)).all()
    step = (above - below).abs()
    assert float(((draws.double().mean(dim=0) - x) / step).abs().max()) < 0.12  # five standard errors of a fair draw
    exact = torch.tensor([0.0, 1.0, -0.5, 3.0])
    assert torch.equal(reference.round_stochastically(exact, 3).float(), exact)


def test_a_second_moment_in_bfloat16_follows_the_gradients_that_rounding_to_nearest_would_ignore() -> None:
    parameter = Optimized(*torch.zeros(3, 4096), None)._replace(second_moment=torch.ones(4096).bfloat16())
    parameter = parameter._replace(first_moment=torch.zeros(4096).bfloat16())
    for step in range(1, 1001):
        reference.adam_step(parameter, torch.zeros(4096), AdamStep(0.0, step, 0.9))
    assert float(parameter.second_moment.float().mean()) == pytest.approx(0.999**1000, rel=0.01)


@every_module
def test_a_latent_that_every_token_chose_and_one_that_none_did(
    kernels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "PIECE", 16, raising=False)  # many pieces, the last one short
    batch, W_dec = token_gradients((50, 9, 4, 2), 1), decoding((50, 9, 4, 2))[2]
    chosen = torch.tensor([3, 5], dtype=torch.int32).repeat(50)
    batch = batch._replace(of_pre_activations=batch.of_pre_activations._replace(indices=chosen))
    still = Optimized(W_dec.clone(), torch.zeros(9, 4), torch.zeros(9, 4), torch.zeros(9, 4))
    moved = [cloned(still) for _ in range(4)]
    adam = AdamStep(1e-2, 1, 0.5)
    reference.update_latents(moved[0], None, moved[1], batch, None, adam)
    kernels.update_latents(moved[2], None, moved[3], batch, None, adam)
    for expected, found in zip(moved[:2], moved[2:], strict=True):
        torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.weight[0], W_dec[0])  # Adam with no history leaves a latent without gradient alone


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads, numba_threads = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(1)
    numba.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    numba.set_num_threads(numba_threads)


def one_of_everything() -> list[Tensor]:
    shape = (130, 1009, 48, 16)
    batch = token_gradients(shape, 2)
    x = batch.x_centered
    W_enc, b_enc = encoder(shape[1], shape[2], rounded=True)
    dead, codes = torch.arange(0, 1009, 2), torch.empty(505, 130, dtype=torch.bfloat16)
    chosen = cpu.encode_topk(x, W_enc, b_enc, 16, DeadLatents(dead, 24, codes))
    above = cpu.encode_above(x, W_enc, b_enc, torch.ones(1009), DeadLatents(dead, 24, codes))
    W_dec = decoding(shape)[2]
    rows = cpu.dense_rows(W_dec, dead, torch.bfloat16)
    of_codes = cpu.code_gradients(rows[0], x.bfloat16(), codes)
    auxiliary = auxiliary_rows(shape, torch.bfloat16)
    residual = cpu.subtract_decoded(x, above, W_dec)
    *sums, of_inputs = cpu.gradient_square_sums(batch, auxiliary, W_enc.weight, W_dec)
    bias, decoder = optimized(b_enc), optimized(W_dec)
    pull = cpu.update_latents(W_enc, bias, decoder, batch, auxiliary, AdamStep(1e-2, 3, 0.9))
    moved = [tensor for parameter in (W_enc, bias, decoder) for tensor in parameter if tensor is not None]
    return [*chosen, *above, codes, *rows, *of_codes, *residual, pull, torch.tensor(sums), of_inputs, *moved]


def test_every_bit_is_the_same_for_any_number_of_threads(one_thread: None) -> None:
    alone = one_of_everything()
    torch.set_num_threads(2)
    compiled.use_as_many_threads_as_torch()
    together = one_of_everything()
    assert len(alone) == len(together) > 15
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


def test_the_kernels_threads_leave_torch_its_own() -> None:
    program = "import torch; torch.set_num_threads(1); import numba, numpy, monosem.ops.compiled; "
    program += "numba.njit(lambda x: numpy.exp(x).sum(), parallel=True)(numpy.zeros(9)); "
    program += "print(torch.get_num_threads(), numba.get_num_threads())"
    environment = {**os.environ, "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1 1\n"
