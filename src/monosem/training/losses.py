"""The losses of a k-sparse autoencoder (Gao et al. 2024, §2.3, §A.2, §4.2), on preprocessed activations.

A squared error is summed over d_model and averaged over tokens. The main loss divides it by a constant, the variance of
an initial sample about its mean, so that it stays comparable over the run; the auxiliary loss divides its own by the
variance of the residual it has to explain.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from monosem.ops import sparse
from monosem.sae.activations import activate
from monosem.sae.autoencoder import TopKAutoencoder


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the losses need beside the autoencoder and the batch."""

    variance: float
    """Mean ‖x − x̄‖² of the initial sample."""
    aux_coefficient: float
    """α of AuxK; zero leaves it out."""
    k_aux: int
    """Dead latents that AuxK keeps a token, where there are as many."""
    aux_share: float
    """Share of the batch's tokens, the first ones, that AuxK is computed on."""
    multi_topk: bool
    """Add L(4k)/8."""

    def aux_tokens(self, batch_size: int) -> int:
        """How many tokens of a batch AuxK sees; batches are shuffled, so the first are as good as any."""
        return max(1, round(self.aux_share * batch_size))


class Losses(NamedTuple):
    """One batch's losses and what the counters need."""

    total: Float[Tensor, ""]
    main: Float[Tensor, ""]
    """Mean ‖x − x̂‖² over the sample's variance."""
    auxiliary: Float[Tensor, ""]
    """MSE(e, ê) / Var(e), before α; zero where no latent is dead or the value is not finite."""
    residual: Float[Tensor, "batch d_model"]
    """x − x̂, detached."""
    latent_values: Float[Tensor, "batch k"]
    latent_indices: Int[Tensor, "batch k"]


def compute_losses(
    sae: TopKAutoencoder, x: Float[Tensor, "batch d_model"], is_dead: Bool[Tensor, " n_latents"], settings: LossSettings
) -> Losses:
    """Reconstruction loss, Multi-TopK and AuxK from one product with the encoder."""
    k = sae.config.k
    k_widest = 4 * k if settings.multi_topk else k
    with torch.no_grad():
        pre_activations = sae.pre_activations(x)
        _, indices = sparse.topk(pre_activations, k_widest)
    kept = sparse.selected_pre_activations(x - sae.b_pre, sae.W_enc, sae.b_enc, pre_activations, indices)
    values = activate(kept, sae.config.nonlinearity)
    reconstruction = sparse.sparse_decode(values[:, :k], indices[:, :k], sae.W_dec) + sae.b_pre
    residual = x - reconstruction
    main = squared_error(residual) / settings.variance
    total = main
    if settings.multi_topk:
        wide = sparse.sparse_decode(values, indices, sae.W_dec) + sae.b_pre
        total = total + squared_error(x - wide) / settings.variance / 8
    auxiliary = main.new_zeros(())
    if settings.aux_coefficient > 0 and bool(is_dead.any()):
        seen = slice(settings.aux_tokens(len(x)))
        auxiliary = auxk_loss(sae, x[seen], residual[seen].detach(), pre_activations[seen], is_dead, settings.k_aux)
        if bool(auxiliary.isfinite()):
            total = total + settings.aux_coefficient * auxiliary
        else:
            auxiliary = main.new_zeros(())
    return Losses(total, main.detach(), auxiliary.detach(), residual.detach(), values[:, :k].detach(), indices[:, :k])


def squared_error(residual: Float[Tensor, "batch d_model"]) -> Float[Tensor, ""]:
    """Squared error summed over d_model, averaged over tokens."""
    return residual.square().sum(dim=1).mean()


def square_sum(x: Tensor) -> float:
    """Σ of the squares of all entries."""
    return float(torch.linalg.vector_norm(x)) ** 2


def spread(x: Float[Tensor, "tokens d_model"]) -> float:
    """Σ‖x − x̄‖², about the tokens' own mean."""
    return square_sum(x) - len(x) * square_sum(x.mean(dim=0))


def auxk_loss(
    sae: TopKAutoencoder,
    x: Float[Tensor, "batch d_model"],
    residual: Float[Tensor, "batch d_model"],
    pre_activations: Float[Tensor, "batch n_latents"],
    is_dead: Bool[Tensor, " n_latents"],
    k_aux: int,
) -> Float[Tensor, ""]:
    """AuxK (§A.2): let the k_aux strongest dead latents explain the residual; ê = W_decᵀ z_dead, without b_pre.

    Its gradient reaches the chosen dead latents' encoder rows, biases and decoder rows and nothing else: the residual
    and x − b_pre are constants here.
    """
    dead = is_dead.nonzero().squeeze(1)
    _, chosen = sparse.topk(pre_activations[:, dead], min(k_aux, len(dead)))
    indices = dead[chosen]
    x_centered = (x - sae.b_pre).detach()
    kept = sparse.selected_pre_activations(x_centered, sae.W_enc, sae.b_enc, pre_activations, indices)
    explained = sparse.sparse_decode(torch.relu(kept), indices, sae.W_dec)
    variance = squared_error(residual - residual.mean(dim=0))
    return squared_error(residual - explained) / variance


def default_k_aux(d_model: int) -> int:
    """The largest power of two that is at most d_model / 2, and at least one."""
    return 1 << max(0, (d_model // 2).bit_length() - 1)
