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
        ctx.is_ste = is_ste
        return m * gate

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None]:
        m, gate = ctx.saved_tensors
        through = grad_outputs[0] * gate
        if ctx.is_ste:
            return through * (1 + m), (through * m).sum(dim=0), None
        return through, through.sum(dim=0), None


def prolu(
    m: Float[Tensor, "batch n_latents"], b: Float[Tensor, " n_latents"], is_ste: bool
) -> Float[Tensor, "batch n_latents"]:
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
        of_threshold = (-threshold / ctx.bandwidth * near * grad).sum(dim=0)
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
        return None, (-near / ctx.bandwidth * grad_outputs[0]).sum(dim=0), None


def _rectangle(u: Tensor) -> Tensor:
    """K(u): one where |u| < 1/2."""
    return (u.abs() < 0.5).to(u.dtype)


def jumprelu(
    pre_activations: Float[Tensor, "batch n_latents"], threshold: Float[Tensor, " n_latents"], bandwidth: float
) -> Float[Tensor, "batch n_latents"]:
    """π · 1[π > θ] (Rajamanoharan et al. 2024b); θ receives −(θ/ε) K((π − θ)/ε)."""
    result: Tensor = _JumpReLU.apply(pre_activations, threshold, bandwidth)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result


def step(
    pre_activations: Float[Tensor, "batch n_latents"], threshold: Float[Tensor, " n_latents"], bandwidth: float
) -> Float[Tensor, "batch n_latents"]:
    """1[π > θ], whose sum is L0; θ receives −(1/ε) K((π − θ)/ε), π nothing."""
    result: Tensor = _Step.apply(pre_activations, threshold, bandwidth)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result
