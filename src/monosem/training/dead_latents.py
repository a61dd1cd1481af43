"""Which latents are dead: those not active for a number of tokens (Gao et al. 2024, §A.2)."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def dead_mask(tokens_since_active: Int[Tensor, " n_latents"], dead_tokens: int) -> Bool[Tensor, " n_latents"]:
    """The dead set, to be fixed before a step."""
    return tokens_since_active >= dead_tokens


@torch.no_grad()
def count_activity(
    tokens_since_active: Int[Tensor, " n_latents"],
    latent_values: Float[Tensor, "batch k"],
    latent_indices: Int[Tensor, "batch k"],
) -> None:
    """Add the batch's tokens to every latent's silence, in place, and end it where a kept value is positive.

    A kept value that the ReLU zeroed is not active.
    """
    tokens_since_active += len(latent_values)
    tokens_since_active[latent_indices[latent_values > 0]] = 0
