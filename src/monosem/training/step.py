"""One training step, top to bottom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.sae.autoencoder import TopKAutoencoder
from monosem.training.dead_latents import count_activity, dead_mask
from monosem.training.ema import update_ema
from monosem.training.losses import Losses, LossSettings, compute_losses
from monosem.training.optimizer import normalize_rows, project_out_parallel_gradient


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What does not change from step to step."""

    losses: LossSettings
    dead_tokens: int
    ema_decay: float
    clip_norm: float | None


class StepReport(NamedTuple):
    """What a step saw, for the log."""

    loss: float
    auxiliary_loss: float
    squared_error: float
    """Σ‖x − x̂‖² over the batch."""
    spread: float
    """Σ‖x − x̄‖² over the batch, about the batch's own mean; the ratio of the two is the normalised MSE."""
    l0: float
    dead_share: float
    is_finite: bool


def train_step(
    sae: TopKAutoencoder,
    optimizer: torch.optim.Adam,
    ema: Mapping[str, Tensor],
    tokens_since_active: Tensor,
    x: Float[Tensor, "batch d_model"],
    settings: StepSettings,
) -> StepReport:
    """Losses, gradients, constraint, Adam, constraint, average, counters.

    A batch whose loss or gradient is not finite changes nothing: the report says so.
    """
    is_dead = dead_mask(tokens_since_active, settings.dead_tokens)
    losses = compute_losses(sae, x, is_dead, settings.losses)
    if not bool(losses.total.isfinite()):
        return _report(losses, x, is_dead, is_finite=False)
    losses.total.backward()
    assert sae.W_dec.grad is not None
    project_out_parallel_gradient(sae.W_dec.grad, sae.W_dec)
    gradients = [parameter.grad for parameter in sae.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not bool(norm.isfinite()):
        optimizer.zero_grad()
        return _report(losses, x, is_dead, is_finite=False)
    if settings.clip_norm is not None:
        nn.utils.clip_grads_with_norm_(sae.parameters(), settings.clip_norm, norm)
    optimizer.step()
    optimizer.zero_grad()
    normalize_rows(sae.W_dec)
    update_ema(ema, dict(sae.named_parameters()), settings.ema_decay)
    count_activity(tokens_since_active, losses.latent_values, losses.latent_indices)
    return _report(losses, x, is_dead, is_finite=True)


def _report(losses: Losses, x: Tensor, is_dead: Tensor, *, is_finite: bool) -> StepReport:
    return StepReport(
        loss=float(losses.total.detach()),
        auxiliary_loss=float(losses.auxiliary),
        squared_error=float(losses.residual.square().sum()),
        spread=float((x - x.mean(dim=0)).square().sum()),
        l0=float((losses.latent_values > 0).sum() / len(x)),
        dead_share=float(is_dead.float().mean()),
        is_finite=is_finite,
    )
