"""The eager reference of every sparse operation: plain torch, on any device, in any float dtype; it defines correct.

A code has ``k`` latents a token: ``latent_values`` and ``latent_indices``, both ``[batch, k]``. Weights are
``[n_latents, d_model]`` with row i belonging to latent i, so each operation gathers or scatters whole rows.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Gathered rows are [chunk, k, d_model]: 256 tokens at k=32, d_model=768 are 25 MB, which stays near the cache.
_GATHERED_ELEMENTS = 1 << 22


def _chunk_rows(k: int, d_model: int) -> int:
    return max(1, _GATHERED_ELEMENTS // (k * d_model))


def sparse_decode(
    latent_values: Float[Tensor, "batch k"],
    latent_indices: Int[Tensor, "batch k"],
    weight: Float[Tensor, "n_latents d_model"],
) -> Float[Tensor, "batch d_model"]:
    """Sum each token's k rows of ``weight``, weighted by its values."""
    batch, k = latent_values.shape
    out = weight.new_empty(batch, weight.shape[1])
    rows = _chunk_rows(k, weight.shape[1])
    for start in range(0, batch, rows):
        part = slice(start, start + rows)
        out[part] = torch.bmm(latent_values[part, None, :], weight[latent_indices[part]]).squeeze(1)
    return out


def selected_products(
    x: Float[Tensor, "batch d_model"],
    latent_indices: Int[Tensor, "batch k"],
    weight: Float[Tensor, "n_latents d_model"],
) -> Float[Tensor, "batch k"]:
    """The k entries of ``x @ weight.T`` that the indices name, without the rest."""
    batch, k = latent_indices.shape
    out = x.new_empty(batch, k)
    rows = _chunk_rows(k, weight.shape[1])
    for start in range(0, batch, rows):
        part = slice(start, start + rows)
        out[part] = torch.bmm(weight[latent_indices[part]], x[part, :, None]).squeeze(2)
    return out


def weight_gradient(
    coefficients: Float[Tensor, "batch k"],
    latent_indices: Int[Tensor, "batch k"],
    x: Float[Tensor, "batch d_model"],
    n_latents: int,
) -> Float[Tensor, "n_latents d_model"]:
    """For each latent, the sum over the tokens that chose it of coefficient × x.

    One pass a column, in order, so that the sum is the same, bit for bit, at every call on the CPU.
    """
    out = x.new_zeros(n_latents, x.shape[1])
    for column in range(latent_indices.shape[1]):
        out.index_add_(0, latent_indices[:, column], coefficients[:, column, None] * x)
    return out


def bias_gradient(
    coefficients: Float[Tensor, "batch k"], latent_indices: Int[Tensor, "batch k"], n_latents: int
) -> Float[Tensor, " n_latents"]:
    """For each latent, the sum of its coefficients."""
    return coefficients.new_zeros(n_latents).index_add_(0, latent_indices.flatten(), coefficients.flatten())
