"""AuxK (Gao et al. 2024, §A.2) with gradients by hand, as dense products over the dead latents.

A token keeps many dead latents, and every step has to pay for them. Their codes as a dense matrix, four products make
the loss and all its gradients, at most 4 · dead share of the encoder's own, and far less than gathering rows one by one
where few latents are dead.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.ops.reference import LatentGradients
from monosem.ops.sparse import Kernels
from monosem.training.losses import spread, square_sum

# Dead latents whose codes' gradients are in memory at a time.
LATENTS_A_CHUNK = 2048


def padded(count: int) -> int:
    """How many rows the dense matrices get for so many dead latents, at most an eighth more.

    That number changes from step to step, and a matrix product of a new shape costs several of a known one: on the CPU
    the library compiles a kernel for each (2,048 tokens, 3,000 latents, d_model 256: 16 ms instead of 3).
    """
    step = max(64, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def auxk(
    kernels: Kernels,
    residual: Float[Tensor, "batch d_model"],
    codes: Float[Tensor, "padded aux_tokens"],
    dead: Int[Tensor, " dead"],
    x_centered: Float[Tensor, "batch d_model"],
    W_dec: Float[Tensor, "n_latents d_model"],
    coefficient: float,
) -> tuple[float, LatentGradients | None]:
    """α · MSE(e, ê) / Var(e) of the first tokens, those the codes are of, and its gradients.

    Products are taken in the codes' dtype. A loss that is not finite counts as zero and has no gradients.

    Args:
        codes: the dead latents', and rows of zeros.
    """
    padding, aux_tokens = len(codes) - len(dead), codes.shape[1]
    target, x = residual[:aux_tokens], x_centered[:aux_tokens].to(codes.dtype)
    # A code of zero adds nothing and has no gradient, whatever row stands beside it.
    rows, columns = kernels.dense_rows(W_dec, torch.cat([dead, dead[:1].expand(padding)]), codes.dtype)
    left = (columns @ codes).T.to(target.dtype, memory_format=torch.contiguous_format)
    torch.sub(target, left, out=left)
    variance = spread(target)
    loss = coefficient * square_sum(left) / variance if variance > 0 else math.nan
    if not math.isfinite(loss):
        return 0.0, None
    pull = left.mul_(-2 * coefficient / variance).to(codes.dtype)
    encoder_rows, biases = torch.empty_like(rows), torch.empty(len(codes), dtype=W_dec.dtype, device=W_dec.device)
    for start in range(0, len(codes), LATENTS_A_CHUNK):
        here = slice(start, start + LATENTS_A_CHUNK)
        of_codes, biases[here] = kernels.code_gradients(rows[here], pull, codes[here])
        torch.mm(of_codes, x, out=encoder_rows[here])
    gradients = (encoder_rows, biases, codes @ pull)
    return loss, LatentGradients(dead, *(rows[: len(dead)] for rows in gradients))
