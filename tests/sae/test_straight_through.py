"""Straight-through gradients against their definitions, in cases worked by hand."""

import pytest
import torch
from torch import Tensor

from monosem.sae.straight_through import jumprelu, prolu, step

# Two tokens, three latents. By m + b: latent 0 passes both times, latent 1 fails by its bias, latent 2 by m itself.
M = [[0.5, 1.0, -0.25], [2.0, 3.0, -1.0]]
B = [0.25, -4.0, 3.0]
UPSTREAM = [[1.0, 1.0, 1.0], [10.0, 1.0, 1.0]]


def gradients(out: Tensor, upstream: list[list[float]], *inputs: Tensor) -> list[Tensor | None]:
    return list(torch.autograd.grad(out, inputs, torch.tensor(upstream), allow_unused=True))


@pytest.mark.parametrize(
    ("is_ste", "of_m", "of_b"),
    [
        # ∂m = g (1 + m): 1 · 1.5 and 10 · 3; ∂b = g m: 1 · 0.5 + 10 · 2
        (True, [[1.5, 0, 0], [30.0, 0, 0]], [20.5, 0, 0]),
        # ∂m = ∂b = g
        (False, [[1.0, 0, 0], [10.0, 0, 0]], [11.0, 0, 0]),
    ],
)
def test_prolus_two_gradients(is_ste: bool, of_m: list[list[float]], of_b: list[float]) -> None:
    m, b = torch.tensor(M, requires_grad=True), torch.tensor(B, requires_grad=True)
    out = prolu(m, b, is_ste)
    assert out.tolist() == [[0.5, 0, 0], [2.0, 0, 0]]
    for_m, for_b = gradients(out, UPSTREAM, m, b)
    torch.testing.assert_close(for_m, torch.tensor(of_m))
    torch.testing.assert_close(for_b, torch.tensor(of_b))


# θ = (1, 2); ε = 0.5, so the kernel is open for |π − θ| < 0.25.
PRE = [[1.125, 1.875], [0.8125, 3.0], [-1.0, 2.25]]
THRESHOLD = [1.0, 2.0]


def test_jumprelus_threshold_receives_minus_theta_over_epsilon_inside_the_kernel() -> None:
    pre, threshold = torch.tensor(PRE, requires_grad=True), torch.tensor(THRESHOLD, requires_grad=True)
    out = jumprelu(pre, threshold, 0.5)
    assert out.tolist() == [[1.125, 0], [0, 3.0], [0, 2.25]]
    upstream = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
    of_pre, of_threshold = gradients(out, upstream, pre, threshold)
    assert of_pre is not None
    assert of_pre.tolist() == [[1.0, 0], [0, 4.0], [0, 6.0]]
    # Latent 0: tokens 0 and 1 are within, −1/0.5 · (1 + 3). Latent 1: token 0 alone (2.25 is on the edge), −2/0.5 · 2.
    torch.testing.assert_close(of_threshold, torch.tensor([-8.0, -8.0]))


def test_the_steps_threshold_receives_minus_one_over_epsilon_and_its_input_nothing() -> None:
    pre, threshold = torch.tensor(PRE, requires_grad=True), torch.tensor(THRESHOLD, requires_grad=True)
    out = step(pre, threshold, 0.5)
    assert out.tolist() == [[1, 0], [0, 1], [0, 1]]
    of_pre, of_threshold = gradients(out, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pre, threshold)
    assert of_pre is None
    torch.testing.assert_close(of_threshold, torch.tensor([-8.0, -4.0]))  # −1/0.5 · (1 + 3), −1/0.5 · 2


def test_the_kernel_estimates_the_derivative_of_the_expected_l0() -> None:
    """With pre-activations uniform on [0, 2], E 1[π > θ] = 1 − θ/2, whose derivative is −1/2 whatever ε."""
    pre = torch.rand(200_000, 1, generator=torch.Generator().manual_seed(0)) * 2
    for bandwidth in (0.05, 0.4):
        threshold = torch.tensor([0.7], requires_grad=True)
        (found,) = torch.autograd.grad(step(pre, threshold, bandwidth).mean(), threshold)
        assert float(found) == pytest.approx(-0.5, rel=0.05)
