"""One training step, top to bottom: losses and gradients by autograd, then the update."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.ops.reference import AdamStep, adam_step, normalize_rows, project_out_parallel_gradient, update_copies
from monosem.sae.autoencoder import Autoencoder
from monosem.training.dead_latents import count_activity, dead_mask
from monosem.training.losses import EndToEndLoss, LossSettings, compute_losses, spread
from monosem.training.state import TrainingState


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
    """Σ‖y − ŷ‖² over the batch, y being what is to be reconstructed."""
    spread: float
    """Σ‖y − ȳ‖² over the batch, about the batch's own mean; the ratio of the two is the normalised MSE."""
    l0: float
    dead_share: float
    is_finite: bool
    end_to_end_loss: float = 0.0


def train_step(
    sae: Autoencoder,
    state: TrainingState,
    x: Float[Tensor, "batch d_model"],
    settings: StepSettings,
    adam: AdamStep,
    sparsity_coefficient: float = 0.0,
    target: Float[Tensor, "batch d_target"] | None = None,
    end_to_end: EndToEndLoss | None = None,
) -> StepReport:
    """Losses, gradients, constraint, Adam, constraint, average, counters.

    The target is what is to be reconstructed, by default x itself. A batch whose loss or gradient is not finite changes
    nothing: the report says so.
    """
    is_dead = dead_mask(state.tokens_since_active, settings.dead_tokens)
    losses = compute_losses(sae, x, is_dead, settings.losses, sparsity_coefficient, target, end_to_end)
    is_finite = bool(losses.total.isfinite())
    if is_finite:
        losses.total.backward()
        is_finite = _update(sae, state, settings, adam)
        sae.zero_grad()
    if is_finite:
        count_activity(state.tokens_since_active, len(x), losses.passed.active > 0)
        follow(sae, losses.passed.running, settings, adam)
    return StepReport(
        loss=float(losses.total.detach()),
        auxiliary_loss=float(losses.auxiliary),
        squared_error=float(losses.residual.square().sum()),
        spread=spread(x if target is None else target),
        l0=float(losses.passed.active.sum() / len(x)),
        dead_share=float(is_dead.float().mean()),
        is_finite=is_finite,
        end_to_end_loss=float(losses.end_to_end),
    )


@torch.no_grad()
def _update(sae: Autoencoder, state: TrainingState, settings: StepSettings, adam: AdamStep) -> bool:
    """Move all parameters along their gradients; False, and nothing moves, if those are not finite."""
    gradients = {name: parameter.grad for name, parameter in sae.named_parameters() if parameter.grad is not None}
    project_out_parallel_gradient(gradients["W_dec"], sae.W_dec)
    norm = float(nn.utils.get_total_norm(gradients.values()))
    if not norm < float("inf"):
        return False
    adam = adam._replace(gradient_scale=clipping(norm, settings.clip_norm))
    for name, parameter in state.parameters.items():
        adam_step(parameter, gradients[name], adam)
    normalize_rows(sae.W_dec)
    for parameter in state.parameters.values():
        update_copies(parameter, adam.ema_decay)
    return True


@torch.no_grad()
def follow(sae: Autoencoder, running: Mapping[str, Tensor], settings: StepSettings, adam: AdamStep) -> None:
    """Move the running means by this batch's values: at first over all batches, later over the average's horizon."""
    for name, value in running.items():
        if bool(value.isfinite()):
            getattr(sae, name).lerp_(value.to(getattr(sae, name)), max(1 / adam.step, 1 - settings.ema_decay))


def clipping(norm: float, clip_norm: float | None) -> float:
    """What a gradient of this global norm is multiplied by."""
    return 1.0 if clip_norm is None or norm <= clip_norm else clip_norm / norm
