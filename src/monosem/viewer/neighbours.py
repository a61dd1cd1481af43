"""Which latents are near to one another: by the tokens that they fire on, and by their decoder rows."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from monosem.ops.reference import Chosen, normalize_rows
from monosem.sae.autoencoder import Autoencoder, DensePreActivations
from monosem.viewer.codes import StoredCodes
from monosem.viewer.latents import Firings, Range

# Cosines held at once where there are no kernels: 256 MB in float32.
_ELEMENTS = 1 << 26
# Below every cosine: that of a row of zeros.
_NO_COSINE = -2.0


class Nearest(NamedTuple):
    """For each latent of a range the latents nearest to it, the nearest first."""

    others: Int64[np.ndarray, "latents shown"]
    """−1 where there are no more."""
    similarities: Float64[np.ndarray, "latents shown"]


def nearest_by_firing(
    firings: Firings, codes: StoredCodes, fired: Int64[np.ndarray, " n_latents"], count: int
) -> Nearest:
    """Tokens with both latents / √(tokens with one × tokens with the other), of equal ones the lower latent first.

    Exact: each token of each latent is visited, so that the work is the sum of the tokens' squared L0.
    """
    from monosem.viewer.latent_kernels import find_partners

    shape = len(firings.counts), count
    found = Nearest(np.empty(shape, np.int64), np.zeros(shape))
    find_partners(firings.starts, firings.rows, codes.offsets, codes.latents, fired, firings.first, *found)
    return found


def decoder_searcher(sae: Autoencoder, count: int) -> Callable[[Range], Nearest]:
    """A function that finds the nearest latents by the cosine of their decoder rows; a row of zeros is near to none.

    Finding the decoder rows with the largest products is what an encoder does, so its kernels do it, if there are any.
    Never holds all cosines. Of equal ones at the limit, any.
    """
    rows = sae.W_dec.detach().float().clone()
    normalize_rows(rows)
    is_zero = (rows == 0).all(dim=1)
    behind_all = _NO_COSINE * is_zero.float()
    make_search = _search_by_kernels if rows.device.type == "cpu" else _search_densely
    search, at_once = make_search(rows, behind_all, min(count + 1, len(rows)))

    @torch.no_grad()
    def find(where: Range) -> Nearest:
        places = torch.arange(where.first, where.last)
        pieces = [search(rows[piece.to(rows.device)]) for piece in places.split(at_once)]
        values, others = (torch.cat([each[part].cpu() for each in pieces]).view(len(places), -1) for part in (0, 1))
        hidden = (others == places[:, None]) | (values < -1.5) | is_zero.cpu()[places][:, None]
        values = values.double().clamp(-1, 1).masked_fill(hidden, -torch.inf)
        values, order = values.sort(dim=1, descending=True, stable=True)
        others = others.long().gather(1, order).masked_fill(values.isinf(), -1)
        missing = (0, max(0, count - others.shape[1]))
        return Nearest(
            torch.nn.functional.pad(others, missing, value=-1)[:, :count].numpy(),
            torch.nn.functional.pad(values, missing)[:, :count].numpy(),
        )

    return find


Search = Callable[[Float[Tensor, "some d"]], Chosen]
"""Finds, for some rows, those with the largest products and biases."""


def _search_by_kernels(
    rows: Float[Tensor, "n_latents d"], bias: Float[Tensor, " n_latents"], k: int
) -> tuple[Search, int]:
    """A search for k rows, and how many to give it at once."""
    from monosem.ops.exact import ExactProducts, exact_weights

    weights = exact_weights(rows, bias)
    return lambda some: ExactProducts(weights, some).largest(k), len(rows)


def _search_densely(
    rows: Float[Tensor, "n_latents d"], bias: Float[Tensor, " n_latents"], k: int
) -> tuple[Search, int]:
    return (
        lambda some: DensePreActivations(torch.addmm(bias, some, rows.T)).largest(k),
        max(1, _ELEMENTS // len(rows)),
    )


def encoder_cosines(sae: Autoencoder) -> Float64[Tensor, " n_latents"] | None:
    """The cosine of each latent's encoder and decoder row, NaN where one is zero; None where their spaces differ."""
    if sae.is_transcoder:
        return None
    pieces = zip(sae.W_enc.detach().split(1 << 14), sae.W_dec.detach().split(1 << 14), strict=True)
    return torch.cat([_cosines(encoder.cpu().double(), decoder.cpu().double()) for encoder, decoder in pieces])


def _cosines(a: Float64[Tensor, "rows d"], b: Float64[Tensor, "rows d"]) -> Float64[Tensor, " rows"]:
    return ((a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))).clamp(-1, 1)
