"""The sparse operations against dense autograd, in float64, at prime-numbered shapes."""

import torch
from torch import Tensor

from monosem.ops import reference, sparse

BATCH, N_LATENTS, D_MODEL, K = 13, 31, 7, 5


def random_problem(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(BATCH, D_MODEL, generator=generator, dtype=torch.float64)
    weight = torch.randn(N_LATENTS, D_MODEL, generator=generator, dtype=torch.float64)
    bias = torch.randn(N_LATENTS, generator=generator, dtype=torch.float64)
    indices = torch.stack([torch.randperm(N_LATENTS, generator=generator)[:K] for _ in range(BATCH)])
    return x, weight, bias, indices


def test_topk_keeps_exactly_the_k_largest_in_order() -> None:
    x, weight, bias, _ = random_problem()
    dense = x @ weight.T + bias
    values, indices = sparse.topk(dense, K)
    for token in range(BATCH):
        expected = sorted(dense[token].tolist(), reverse=True)[:K]
        assert values[token].tolist() == expected
        assert dense[token, indices[token]].tolist() == expected


def test_sparse_decode_is_the_dense_product_and_so_are_its_gradients() -> None:
    values, weight, _, indices = random_problem()
    values = values[:, :K].clone().requires_grad_()
    weight.requires_grad_()
    dense_latents = torch.zeros(BATCH, N_LATENTS, dtype=torch.float64).scatter(1, indices, values)
    upstream = torch.randn(BATCH, D_MODEL, dtype=torch.float64)
    expected_out = dense_latents @ weight
    expected = torch.autograd.grad(expected_out, (values, weight), upstream)
    out = sparse.sparse_decode(values, indices, weight)
    torch.testing.assert_close(out, expected_out)
    for actual, wanted in zip(torch.autograd.grad(out, (values, weight), upstream), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_selected_pre_activations_have_the_dense_gradients_for_inputs_weights_and_biases() -> None:
    x, weight, bias, indices = random_problem()
    leaves = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    dense = x @ weight.T + bias
    upstream = torch.randn(BATCH, K, dtype=torch.float64)
    expected = torch.autograd.grad(dense.gather(1, indices), leaves, upstream)
    selected = sparse.selected_pre_activations(x, weight, bias, dense.detach(), indices)
    assert torch.equal(selected, dense.gather(1, indices))
    for actual, wanted in zip(torch.autograd.grad(selected, leaves, upstream), expected, strict=True):
        torch.testing.assert_close(actual, wanted)


def test_gradcheck_agrees() -> None:
    x, weight, bias, indices = random_problem(1)
    values = x[:, :K].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda v, w: sparse.sparse_decode(v, indices, w), (values, weight.requires_grad_()))

    def selected(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return sparse.selected_pre_activations(x, w, b, (x @ w.T + b).detach(), indices)

    assert torch.autograd.gradcheck(selected, (x.requires_grad_(), weight, bias.requires_grad_()))


def test_reference_operations_are_their_definitions() -> None:
    x, weight, _, indices = random_problem()
    values = x[:, :K].contiguous()
    for token in range(BATCH):
        rows = weight[indices[token]]
        decoded = sum(values[token, j] * rows[j] for j in range(K))
        torch.testing.assert_close(reference.sparse_decode(values, indices, weight)[token], decoded)
        products = torch.stack([x[token] @ rows[j] for j in range(K)])
        torch.testing.assert_close(reference.selected_products(x, indices, weight)[token], products)
    gradient, bias = torch.zeros(N_LATENTS, D_MODEL, dtype=torch.float64), torch.zeros(N_LATENTS, dtype=torch.float64)
    for token in range(BATCH):
        for j in range(K):
            gradient[indices[token, j]] += values[token, j] * x[token]
            bias[indices[token, j]] += values[token, j]
    torch.testing.assert_close(reference.weight_gradient(values, indices, x, N_LATENTS), gradient)
    torch.testing.assert_close(reference.bias_gradient(values, indices, N_LATENTS), bias)


def test_latents_that_nobody_chose_have_a_zero_gradient() -> None:
    x, _, _, _ = random_problem()
    indices = torch.full((BATCH, 2), N_LATENTS - 1)
    gradient = reference.weight_gradient(torch.ones(BATCH, 2, dtype=torch.float64), indices, x, N_LATENTS)
    assert gradient[:-1].abs().max() == 0
    torch.testing.assert_close(gradient[-1], 2 * x.sum(dim=0))


def test_an_empty_batch_gives_empty_or_zero_results() -> None:
    weight, indices = torch.randn(N_LATENTS, D_MODEL), torch.empty(0, K, dtype=torch.int64)
    assert reference.sparse_decode(torch.empty(0, K), indices, weight).shape == (0, D_MODEL)
    assert reference.selected_products(torch.empty(0, D_MODEL), indices, weight).shape == (0, K)
    assert reference.weight_gradient(torch.empty(0, K), indices, torch.empty(0, D_MODEL), N_LATENTS).abs().max() == 0
