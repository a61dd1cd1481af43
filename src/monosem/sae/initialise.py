"""How an autoencoder starts (Gao et al. 2024, §A.1): geometric median, unit decoder rows, tied encoder."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.ops.reference import normalize_rows
from monosem.sae.autoencoder import Autoencoder


@dataclass(frozen=True, kw_only=True)
class InitialiseConfig:
    """The start of training."""

    tied_init: bool = True
    """Start the encoder as the decoder's transpose; otherwise as an independent linear layer of torch's."""
    match_magnitude: bool = True
    """Scale the starting encoder so that ‖x̂ − b_pre‖ matches ‖x − b_pre‖ on average."""
    init_from: str | None = None
    """Start from this saved autoencoder's weights instead (a directory; warm start)."""


def geometric_median(
    points: Float[Tensor, "points d_model"], *, tolerance: float = 1e-6, max_iterations: int = 1000
) -> Float[Tensor, " d_model"]:
    """The point with the least summed distance to all others, by Weiszfeld's iterations in float64.

    Iterates until a step is shorter than ``tolerance`` times the mean distance. An iterate that meets a data point
    follows Vardi and Zhang (2000), so it neither divides by zero nor stays on a point that is not the median.
    """
    points = points.cpu().double()  # not every device has float64, and a sample is small
    median = points.mean(dim=0)
    for _ in range(max_iterations):
        distances = (points - median).norm(dim=1)
        elsewhere = distances > 0
        if not bool(elsewhere.any()):
            return median.float()
        weights = torch.where(elsewhere, 1 / distances.where(elsewhere, torch.ones_like(distances)), 0.0)
        target = weights @ points / weights.sum()
        pull = (weights @ (points - median)).norm()
        here = len(points) - int(elsewhere.sum())
        stay = min(1.0, here / float(pull)) if here and pull > 0 else float(here > 0)
        step = (1 - stay) * (target - median)
        median = median + step
        if step.norm() <= tolerance * distances.mean():
            break
    return median.float()


def random_directions(n: int, d_model: int, generator: torch.Generator) -> Float[Tensor, "n d_model"]:
    """Unit vectors, uniform on the sphere."""
    directions = torch.randn(n, d_model, generator=generator)
    return directions / directions.norm(dim=1, keepdim=True)


@torch.no_grad()
def initialise(
    sae: Autoencoder,
    sample: Float[Tensor, "tokens d_model"],
    config: InitialiseConfig,
    generator: torch.Generator,
    target: Float[Tensor, "tokens d_target"] | None = None,
) -> None:
    """Set the starting weights from a sample of preprocessed activations.

    ``b_pre`` is the sample's geometric median, decoder rows are uniform on the sphere, ``b_enc`` is zero. The encoder
    is the decoder's copy or, untied, torch's default for a linear layer, U(−1/√d, 1/√d); then scaled, if asked.

    A transcoder's ``b_dec`` is its target's geometric median, and its skip starts at zero. Input and target are not one
    space, so its tied start draws encoder rows on the sphere, and points each decoder row where the best linear map
    from input to target (by ridge regression on the sample) takes the encoder row.
    """
    n_latents, d_model = sae.W_enc.shape
    sae.b_pre.copy_(geometric_median(sample))
    sae.b_enc.zero_()
    by_map = target is not None and config.tied_init
    rows = random_directions(n_latents, d_model if by_map else sae.d_target, generator)
    if target is not None:
        sae.b_dec.copy_(geometric_median(target))
    if target is not None and by_map:
        sae.W_dec.copy_(rows.double() @ linear_map(sample - sae.b_pre, target - sae.b_dec))
        normalize_rows(sae.W_dec)
    else:
        sae.W_dec.copy_(rows)
    if config.tied_init:
        sae.W_enc.copy_(rows)
    else:
        bound = d_model**-0.5
        sae.W_enc.copy_(torch.empty(n_latents, d_model).uniform_(-bound, bound, generator=generator))
    sae.start()
    if config.match_magnitude:
        # A thousand tokens, spread over the sample, keep the dense [tokens, n_latents] small.
        spread = slice(None, None, max(1, len(sample) // 1024))
        sae.scale_encoder(magnitude_ratio(sae, sample[spread], (sample if target is None else target)[spread]))


def linear_map(
    x: Float[Tensor, "tokens d_model"], y: Float[Tensor, "tokens d_target"]
) -> Float[Tensor, "d_model d_target"]:
    """The matrix M for which x M comes nearest to y, in float64, with a ridge of a thousandth of x's mean variance."""
    x, y = x.cpu().double(), y.cpu().double()
    covariance = x.T @ x
    ridge = 1e-3 * covariance.diagonal().mean() * torch.eye(len(covariance), dtype=torch.float64)
    return torch.linalg.solve(covariance + ridge, x.T @ y)


def magnitude_ratio(
    sae: Autoencoder, sample: Float[Tensor, "tokens d_model"], target: Float[Tensor, "tokens d_target"]
) -> float:
    """Mean length of the target, from the decoder's bias, over that of the decoded latents.

    The latter grows linearly as the encoder is scaled.
    """
    (_, reconstruction), *_ = sae.training_pass(sample).reconstructions
    reconstructed = float((reconstruction - sae.offset(sample)).norm(dim=1).mean())
    return float((target - sae.decoder_bias).norm(dim=1).mean()) / reconstructed if reconstructed > 0 else 1.0
