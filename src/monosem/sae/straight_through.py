"""Functions with a jump, and the gradients that their papers put in the place of the true ones."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


class _ProLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, m: Tensor, b: Tensor, is_ste: bool) -> Tensor:
        gate = (m > 0) & (m + b > 0)
        ctx.save_for_backward(m, gate)
        ctx.is_ste, ctx.bias_shape = is_ste, b.shape
        return m * gate

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        m, gate = ctx.saved_tensors
        through = grad_outputs[0] * gate
        if ctx.is_ste:
            return through * (1 + m), (through * m).sum_to_size(ctx.bias_shape), None
        return through, through.sum_to_size(ctx.bias_shape), None


def prolu(m: Float[Tensor, "... some"], b: Float[Tensor, " some"], is_ste: bool) -> Float[Tensor, "... some"]:
    """m · g with the gate g = 1[m + b > 0] · 1[m > 0] (Taggart 2024).

    Gradients: ∂b = g · m and ∂m = g · (1 + m) (ProLU-STE), or ∂m = ∂b = g (ProLU-ReLU).
    """
    result: Tensor = _ProLU.apply(m, b, is_ste)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result


class _JumpReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return pre_activations * (pre_activations > threshold)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        pre_activations, threshold = ctx.saved_tensors
        grad = grad_outputs[0]
        near = _rectangle((pre_activations - threshold) / ctx.bandwidth)
        of_threshold = (-threshold / ctx.bandwidth * near * grad).sum_to_size(threshold.shape)
        return grad * (pre_activations > threshold), of_threshold, None


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, pre_activations: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre_activations, threshold)
        ctx.bandwidth = bandwidth
        return (pre_activations > threshold).to(pre_activations.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[None, Tensor, None]:
        pre_activations, threshold = ctx.saved_tensors
        near = _rectangle((pre_activations - threshold) / ctx.bandwidth)
        return None, (-near / ctx.bandwidth * grad_outputs[0]).sum_to_size(threshold.shape), None


def _rectangle(u: Tensor) -> Tensor:
    """K(u): one where |u| < 1/2."""
    return (u.abs() < 0.5).to(u.dtype)


def jumprelu(
    pre_activations: Float[Tensor, "... some"], threshold: Float[Tensor, " some"], bandwidth: float
) -> Float[Tensor, "... some"]:
    """π · 1[π > θ] (Rajamanoharan et al. 2024b); θ receives −(θ/ε) K((π − θ)/ε)."""
    result: Tensor = _JumpReLU.apply(pre_activations, threshold, bandwidth)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result


def step(
    pre_activations: Float[Tensor, "... some"], threshold: Float[Tensor, " some"], bandwidth: float
) -> Float[Tensor, "... some"]:
    """1[π > θ], whose sum is L0; θ receives −(1/ε) K((π − θ)/ε), π nothing."""
    result: Tensor = _Step.apply(pre_activations, threshold, bandwidth)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result
