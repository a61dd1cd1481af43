"""The same step as ``step.train_step`` for TopK, with gradients by hand: no weight's gradient is ever stored.

The losses are squared errors of sparse reconstructions, so each is an ``ErrorTerm``: a target, the chosen latents and
what they leave of it. AuxK, dense over the dead latents, gives rows of gradients instead (``training/auxiliary``).
Kernels for the device choose the latents, reconstruct, and move every latent in one pass.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.ops.reference import AdamStep, Chosen, ErrorTerm, LatentGradients, adam_step, update_copies
from monosem.ops.sparse import Kernels
from monosem.sae.activations import activate
from monosem.sae.topk import TopKAutoencoder
from monosem.training.auxiliary import auxk, padded
from monosem.training.dead_latents import count_activity, dead_mask
from monosem.training.losses import spread, square_sum
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
    k_widest = 4 * sae.config.k if sae.config.multi_topk else sae.config.k
    W_enc, W_dec = parameters["W_enc"], parameters["W_dec"].weight
    multiplied = W_enc.weight if W_enc.rounded is None else W_enc.rounded
    size = (padded(len(dead)), losses.aux_tokens(len(x)))
    codes = state.dead_codes.take(size, multiplied.dtype, x.device)
    codes[len(dead) :] = 0
    dead_codes = codes[: len(dead)]
    chosen = kernels.encode_topk(x_centered, W_enc, sae.b_enc.detach(), k_widest, dead, losses.k_aux, dead_codes)
    terms = _reconstruction_terms(kernels, sae, x_centered, chosen, settings)
    squared_errors = [square_sum(term.residual) for term in terms]
    loss = sum(term.weight * squared for term, squared in zip(terms, squared_errors, strict=True))
    auxiliary, gradients = 0.0, None
    if len(dead):
        residual = terms[0].residual
        auxiliary, gradients = auxk(kernels, residual, codes, dead, x_centered, W_dec, losses.aux_coefficient)
    is_finite = math.isfinite(loss) and _update(kernels, sae, state, x_centered, terms, gradients, settings, adam)
    if is_finite:
        is_active = torch.zeros_like(is_dead)
        is_active[terms[0].indices[terms[0].values > 0]] = True
        count_activity(state.tokens_since_active, len(x), is_active)
    return StepReport(
        loss=loss + auxiliary,
        auxiliary_loss=auxiliary / losses.aux_coefficient if auxiliary else 0.0,
        squared_error=squared_errors[0],
        spread=spread(x_centered),
        l0=float((terms[0].values > 0).sum() / len(x)),
        dead_share=float(is_dead.float().mean()),
        is_finite=is_finite,
    )


def _reconstruction_terms(
    kernels: Kernels, sae: TopKAutoencoder, x_centered: Tensor, chosen: Chosen, settings: StepSettings
) -> list[ErrorTerm]:
    """L(k), and L(4k)/8 for Multi-TopK."""
    k, nonlinearity = sae.config.k, sae.config.nonlinearity
    weight = 1 / (len(x_centered) * settings.losses.variance)
    shares = ((k, weight), (4 * k, weight / 8)) if sae.config.multi_topk else ((k, weight),)
    terms: list[ErrorTerm] = []
    for kept, share in shares:
        values = activate(chosen.values[:, :kept], nonlinearity).contiguous()
        indices = chosen.indices[:, :kept].contiguous()
        residual, products = kernels.subtract_decoded(x_centered, values, indices, sae.W_dec.detach())
        if nonlinearity == "relu":
            products = products * (values > 0)
        terms.append(ErrorTerm(share, values, indices, residual, products))
    return terms


def _update(
    kernels: Kernels,
    sae: TopKAutoencoder,
    state: TrainingState,
    x_centered: Tensor,
    terms: list[ErrorTerm],
    auxiliary: LatentGradients | None,
    settings: StepSettings,
    adam: AdamStep,
) -> bool:
    """Move all parameters; False, and nothing moves, if the gradient is not finite."""
    W_enc, W_dec, b_pre = (state.parameters[name] for name in ("W_enc", "W_dec", "b_pre"))
    b_enc = state.parameters.get("b_enc")
    telling = [*(term.products for term in terms), *([] if auxiliary is None else [auxiliary.biases])]
    if not all(bool(gradient.isfinite().all()) for gradient in telling):
        return False
    if settings.clip_norm is not None:
        sums = kernels.gradient_square_sums(terms, auxiliary, x_centered, W_enc.weight, W_dec.weight)
        of_W_enc, of_b_enc, of_W_dec, of_b_pre = sums
        norm = math.sqrt(of_W_enc + (of_b_enc if b_enc else 0) + of_W_dec + of_b_pre)
        adam = adam._replace(gradient_scale=clipping(norm, settings.clip_norm))
    gradient = kernels.update_latents(W_enc, b_enc, W_dec, terms, auxiliary, x_centered, adam)
    adam_step(b_pre, gradient, adam)
    update_copies(b_pre, adam.ema_decay)
    return True
