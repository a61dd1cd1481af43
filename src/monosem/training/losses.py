"""The losses of an autoencoder in training (Gao et al. 2024, §2.2–§2.4, §A.2, §4.2), on preprocessed activations.

A squared error is summed over d_model and averaged over tokens. The reconstruction losses divide it by a constant, the
variance of an initial sample about its mean, so that they stay comparable over the run; the auxiliary loss divides its
own by the variance of the residual it has to explain. An architecture with a penalty adds λ times it. End-to-end
training adds, or has alone, a loss of the subject model with the reconstruction in the activations' place, in nats a
token (Braun et al. 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from monosem.ops import sparse
from monosem.sae.autoencoder import Autoencoder, TrainingPass

EndToEndLoss = Callable[[Float[Tensor, "batch d_target"]], Float[Tensor, ""]]


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """What the losses need beside the autoencoder and the batch."""

    variance: float
    """Mean ‖y − ȳ‖² of the initial sample, y being what is to be reconstructed."""
    aux_coefficient: float
    """α of AuxK; zero leaves it out."""
    k_aux: int
    """Dead latents that AuxK keeps a token, where there are as many."""
    aux_share: float
    """Share of the batch's tokens, the first ones, that AuxK is computed on."""
    reconstruction_coefficient: float = 1.0
    """Weight of the reconstruction losses."""
    end_to_end_coefficient: float = 1.0
    """Weight of the end-to-end loss, where there is one."""

    def aux_tokens(self, batch_size: int) -> int:
        """How many tokens of a batch AuxK sees; batches are shuffled, so the first are as good as any."""
        return max(1, round(self.aux_share * batch_size))


class Losses(NamedTuple):
    """One batch's losses, and what they were made from."""

    total: Float[Tensor, ""]
    main: Float[Tensor, ""]
    """Mean ‖y − ŷ‖² over the sample's variance, of the whole code."""
    auxiliary: Float[Tensor, ""]
    """MSE(e, ê) / Var(e), before α; zero where no latent is dead or the value is not finite."""
    residual: Float[Tensor, "batch d_target"]
    """y − ŷ, detached."""
    passed: TrainingPass
    end_to_end: Float[Tensor, ""]
    """The subject's loss with the reconstruction in place, before its coefficient; zero where it is not asked for."""


def compute_losses(
    sae: Autoencoder,
    x: Float[Tensor, "batch d_model"],
    is_dead: Bool[Tensor, " n_latents"],
    settings: LossSettings,
    sparsity_coefficient: float = 0.0,
    target: Float[Tensor, "batch d_target"] | None = None,
    end_to_end: EndToEndLoss | None = None,
) -> Losses:
    """Reconstruction losses, penalty and AuxK from one product with the encoder; and the subject's loss, if asked.

    Args:
        target: what is to be reconstructed; by default x itself.
        end_to_end: the subject's loss of a reconstruction, preprocessed.
    """
    passed = sae.training_pass(x)
    y = x if target is None else target
    residuals = [(weight, y - reconstruction) for weight, reconstruction in passed.reconstructions]
    errors = [(weight, squared_error(residual) / settings.variance) for weight, residual in residuals]
    total = settings.reconstruction_coefficient * torch.stack([weight * error for weight, error in errors]).sum()
    of_subject = total.new_zeros(())
    if end_to_end is not None:
        of_subject = end_to_end(passed.reconstructions[0][1])
        total = total + settings.end_to_end_coefficient * of_subject
    if sae.has_penalty:
        total = total + sparsity_coefficient * passed.penalty
    residual = residuals[0][1].detach()
    auxiliary = total.new_zeros(())
    if settings.aux_coefficient > 0 and bool(is_dead.any()):
        seen = slice(settings.aux_tokens(len(x)))
        pre_activations = passed.pre_activations[seen]
        auxiliary = auxk_loss(sae, x[seen], residual[seen], pre_activations, is_dead, settings.k_aux)
        if bool(auxiliary.isfinite()):
            total = total + settings.aux_coefficient * auxiliary
        else:
            auxiliary = total.new_zeros(())
    return Losses(total, errors[0][1].detach(), auxiliary.detach(), residual, passed, of_subject.detach())


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
    sae: Autoencoder,
    x: Float[Tensor, "batch d_model"],
    residual: Float[Tensor, "batch d_target"],
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
