"""What turns a token's pre-activations into its few kept latents."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.ops import sparse

Nonlinearity = Literal["relu", "identity"]


class KeptLatents(NamedTuple):
    """The latents kept for each token, strongest first; rows shorter than the longest end in zeros."""

    latent_values: Float[Tensor, "batch longest"]
    latent_indices: Int[Tensor, "batch longest"]


def activate(kept: Float[Tensor, "..."], nonlinearity: Nonlinearity) -> Float[Tensor, "..."]:
    """Apply the nonlinearity to kept pre-activations. A value that the ReLU zeroes is kept but not active."""
    return torch.relu(kept) if nonlinearity == "relu" else kept


def keep_topk(pre_activations: Float[Tensor, "batch n_latents"], k: int, nonlinearity: Nonlinearity) -> KeptLatents:
    """TopK (Gao et al. 2024, §2.3): keep exactly the k largest pre-activations of each token."""
    values, indices = sparse.topk(pre_activations, k)
    return KeptLatents(activate(values, nonlinearity), indices)


def keep_positive(latents: Float[Tensor, "batch n_latents"]) -> KeptLatents:
    """The positive ones of dense latents that are never negative; one a row at least, perhaps zero."""
    longest = max(1, int((latents > 0).sum(dim=1).max())) if len(latents) else 1
    return KeptLatents(*sparse.topk(latents, longest))
