"""The same step as ``step.train_step`` for TopK, with gradients by hand: no weight's gradient is ever stored.

The losses are squared errors of sparse reconstructions, so each is an ``ErrorTerm``: a target, the chosen latents and
what they leave of it. Kernels for the device choose the latents, reconstruct, and move every latent in one pass.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.ops.reference import AdamStep, Chosen, ErrorTerm, adam_step, update_copies
from monosem.ops.sparse import Kernels
from monosem.sae.activations import activate
from monosem.sae.autoencoder import TopKAutoencoder
from monosem.training.dead_latents import count_activity, dead_mask
from monosem.training.state import TrainingState
from monosem.training.step import StepReport, StepSettings, clipping


@torch.no_grad()
def fused_step(
    kernels: Kernels,
    sae: TopKAutoencoder,
    state: TrainingState,
    x: Float[Tensor, "batch d_model"],
    settings: StepSettings,
    adam: AdamStep,
) -> StepReport:
    """See ``step.train_step``."""
    losses, parameters = settings.losses, state.parameters
    is_dead = dead_mask(state.tokens_since_active, settings.dead_tokens)
    dead = is_dead.nonzero().squeeze(1) if losses.aux_coefficient > 0 else is_dead.new_empty(0, dtype=torch.int64)
    x_centered = x - sae.b_pre
    k_widest = 4 * sae.config.k if losses.multi_topk else sae.config.k
    chosen = kernels.encode_topk(x_centered, parameters["W_enc"], sae.b_enc.detach(), k_widest, dead, losses.k_aux)
    main = _reconstruction_terms(kernels, sae, x_centered, chosen, settings)
    squared_errors = [square_sum(term.residual) for term in main]
    loss = sum(term.weight * squared for term, squared in zip(main, squared_errors, strict=True))
    auxiliary, terms = 0.0, main
    if len(dead):
        term = _auxiliary_term(kernels, sae, main[0].residual, chosen, losses.aux_coefficient)
        found = term.weight * square_sum(term.residual)
        if math.isfinite(found):
            auxiliary, terms = found, [*main, term]
    is_finite = math.isfinite(loss) and _update(kernels, sae, state, x_centered, main, terms, settings, adam)
    if is_finite:
        count_activity(state.tokens_since_active, main[0].values, main[0].indices)
    return StepReport(
        loss=loss + auxiliary,
        auxiliary_loss=auxiliary / losses.aux_coefficient if auxiliary else 0.0,
        squared_error=squared_errors[0],
        spread=_spread(x_centered),
        l0=float((main[0].values > 0).sum() / len(x)),
        dead_share=float(is_dead.float().mean()),
        is_finite=is_finite,
    )


def _reconstruction_terms(
    kernels: Kernels, sae: TopKAutoencoder, x_centered: Tensor, chosen: Chosen, settings: StepSettings
) -> list[ErrorTerm]:
    """L(k), and L(4k)/8 for Multi-TopK."""
    k, nonlinearity = sae.config.k, sae.config.nonlinearity
    weight = 1 / (len(x_centered) * settings.losses.variance)
    shares = ((k, weight), (4 * k, weight / 8)) if settings.losses.multi_topk else ((k, weight),)
    values = activate(chosen.values, nonlinearity)
    return [
        error_term(
            kernels,
            sae,
            x_centered,
            values[:, :kept].contiguous(),
            chosen.indices[:, :kept].contiguous(),
            share,
            relu=nonlinearity == "relu",
        )
        for kept, share in shares
    ]


def _auxiliary_term(
    kernels: Kernels, sae: TopKAutoencoder, residual: Tensor, chosen: Chosen, coefficient: float
) -> ErrorTerm:
    """AuxK: α · MSE(e, ê) / Var(e), the residual being the target."""
    weight = coefficient / _spread(residual)
    values = torch.relu(chosen.dead_values)
    return error_term(kernels, sae, residual, values, chosen.dead_indices, weight, relu=True)


def error_term(
    kernels: Kernels,
    sae: TopKAutoencoder,
    target: Float[Tensor, "batch d_model"],
    values: Float[Tensor, "batch k"],
    indices: Tensor,
    weight: float,
    *,
    relu: bool,
) -> ErrorTerm:
    """weight · Σ‖target − decoded‖², ready for its gradients."""
    residual, products = kernels.subtract_decoded(target, values, indices, sae.W_dec.detach())
    if relu:
        products = products * (values > 0)
    return ErrorTerm(weight, values, indices, residual, products)


def _update(
    kernels: Kernels,
    sae: TopKAutoencoder,
    state: TrainingState,
    x_centered: Tensor,
    main: list[ErrorTerm],
    terms: list[ErrorTerm],
    settings: StepSettings,
    adam: AdamStep,
) -> bool:
    """Move all parameters; False, and nothing moves, if the gradient is not finite. AuxK's does not reach b_pre."""
    W_enc, W_dec, b_pre = (state.parameters[name] for name in ("W_enc", "W_dec", "b_pre"))
    b_enc = state.parameters.get("b_enc")
    pull = kernels.pull_on_b_pre(main, W_enc.weight)
    if not all(bool(gradient.isfinite().all()) for gradient in (pull, *(term.products for term in terms))):
        return False
    if settings.clip_norm is not None:
        of_W_enc, of_b_enc, of_W_dec = kernels.gradient_square_sums(terms, x_centered, W_dec.weight)
        norm = math.sqrt(of_W_enc + (of_b_enc if b_enc else 0) + of_W_dec + square_sum(pull))
        adam = adam._replace(gradient_scale=clipping(norm, settings.clip_norm))
    kernels.update_latents(W_enc, b_enc, W_dec, terms, x_centered, adam)
    adam_step(b_pre, pull, adam)
    update_copies(b_pre, adam.ema_decay)
    return True


def square_sum(x: Tensor) -> float:
    """Σ of the squares of all entries."""
    return float(torch.linalg.vector_norm(x)) ** 2


def _spread(x: Float[Tensor, "batch d_model"]) -> float:
    """Σ‖x − x̄‖² over the batch."""
    return square_sum(x) - len(x) * square_sum(x.mean(dim=0))
