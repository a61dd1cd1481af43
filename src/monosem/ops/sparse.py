"""The only door to the sparse operations: differentiable, touching k of n latents a token.

Gradients reach values, weights and biases through the k indices alone; no ``[batch, n_latents]`` gradient is ever made.
"""

import importlib.util
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.ops import reference
from monosem.ops.memory import keep_freed_memory
from monosem.ops.reference import AdamStep, Chosen, DeadLatents, LatentGradients, Optimized, TokenGradients


@runtime_checkable
class Kernels(Protocol):
    """The fused step's operations for a device, each as ``ops/reference`` defines it."""

    def rounds_products(self) -> bool:
        """Whether the encoder wants a bfloat16 copy of W_enc, to multiply with."""
        ...

    def encode_topk(self, x_centered: Tensor, W_enc: Optimized, b_enc: Tensor, k: int, dead: DeadLatents) -> Chosen: ...

    def encode_above(
        self, x_centered: Tensor, W_enc: Optimized, b_enc: Tensor, floors: Tensor, dead: DeadLatents
    ) -> Chosen: ...

    def subtract_decoded(self, target: Tensor, latents: Chosen, W_dec: Tensor) -> tuple[Tensor, Tensor]: ...

    def dense_rows(self, W_dec: Tensor, latents: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]: ...

    def code_gradients(self, rows: Tensor, pull: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]: ...

    def gradient_square_sums(
        self, batch: TokenGradients, auxiliary: LatentGradients | None, W_enc: Tensor, W_dec: Tensor
    ) -> tuple[float, float, float, Tensor]: ...

    def update_latents(
        self,
        W_enc: Optimized,
        b_enc: Optimized | None,
        W_dec: Optimized,
        batch: TokenGradients,
        auxiliary: LatentGradients | None,
        adam: AdamStep,
    ) -> Tensor: ...


def fused_kernels(weight: Tensor) -> Kernels | None:
    """The kernels of the fused step for such weights, if there are any."""
    if weight.device.type == "cpu" and weight.dtype == torch.float32:
        from monosem.ops import compiled, cpu  # numba is slow to import and needed for training alone

        compiled.use_as_many_threads_as_torch()
        keep_freed_memory()
        return cpu
    if weight.device.type == "cuda" and weight.dtype == torch.float32 and importlib.util.find_spec("triton"):
        from monosem.ops import triton_kernels

        return triton_kernels
    return None


def topk(
    pre_activations: Float[Tensor, "batch n_latents"], k: int
) -> tuple[Float[Tensor, "batch k"], Int[Tensor, "batch k"]]:
    """The k largest pre-activations of each token, largest first, and the latents they belong to."""
    values, indices = torch.topk(pre_activations, k, dim=1, sorted=True)
    return values, indices


class _SparseDecode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent_values: Tensor, latent_indices: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(latent_values, latent_indices, weight)
        return reference.sparse_decode(latent_values, latent_indices, weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        latent_values, latent_indices, weight = ctx.saved_tensors
        grad = grad_outputs[0].contiguous()
        needs_values, _, needs_weight = ctx.needs_input_grad
        return (
            reference.selected_products(grad, latent_indices, weight) if needs_values else None,
            None,
            reference.weight_gradient(latent_values, latent_indices, grad, weight.shape[0]) if needs_weight else None,
        )


def sparse_decode(
    latent_values: Float[Tensor, "batch k"],
    latent_indices: Int[Tensor, "batch k"],
    W_dec: Float[Tensor, "n_latents d_model"],
) -> Float[Tensor, "batch d_model"]:
    """Sum the k selected decoder rows, weighted by their values.

    Differentiable in ``latent_values`` and ``W_dec``, and in the latter's dtype, under autocast too.
    """
    result: Tensor = _SparseDecode.apply(latent_values.to(W_dec.dtype), latent_indices, W_dec)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result


class _SelectedPreActivations(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_centered: Tensor, W_enc: Tensor, b_enc: Tensor, pre_activations: Tensor, latent_indices: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x_centered, W_enc, latent_indices)
        return pre_activations.gather(1, latent_indices).to(W_enc.dtype)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None, None]:
        x_centered, W_enc, latent_indices = ctx.saved_tensors
        grad, n_latents = grad_outputs[0].contiguous(), W_enc.shape[0]
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        return (
            reference.sparse_decode(grad, latent_indices, W_enc) if needs_x else None,
            reference.weight_gradient(grad, latent_indices, x_centered, n_latents) if needs_weight else None,
            reference.bias_gradient(grad, latent_indices, n_latents) if needs_bias else None,
            None,
            None,
        )


def selected_pre_activations(
    x_centered: Float[Tensor, "batch d_model"],
    W_enc: Float[Tensor, "n_latents d_model"],
    b_enc: Float[Tensor, " n_latents"],
    pre_activations: Float[Tensor, "batch n_latents"],
    latent_indices: Int[Tensor, "batch k"],
) -> Float[Tensor, "batch k"]:
    """The pre-activations that the indices name, differentiable in ``x_centered``, ``W_enc`` and ``b_enc``.

    ``pre_activations`` is ``x_centered @ W_enc.T + b_enc``, computed without gradients by whoever chose the indices,
    perhaps in lower precision.
    """
    result: Tensor = _SelectedPreActivations.apply(x_centered, W_enc, b_enc, pre_activations, latent_indices)  # pyright: ignore[reportAssignmentType] (autograd.Function.apply is untyped)
    return result
