"""Which latents are dead: those not active for a number of tokens (Gao et al. 2024, §A.2)."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def dead_mask(tokens_since_active: Int[Tensor, " n_latents"], dead_tokens: int) -> Bool[Tensor, " n_latents"]:
    """The dead set, to be fixed before a step."""
    return tokens_since_active >= dead_tokens


@torch.no_grad()
def count_activity(
    tokens_since_active: Int[Tensor, " n_latents"], tokens: int, is_active: Bool[Tensor, " n_latents"]
) -> None:
    """Add a batch's tokens to every latent's silence, in place, and end it where one of them found it active."""
    tokens_since_active += tokens
    tokens_since_active[is_active] = 0
