"""What turns a token's pre-activations into its few kept latents."""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.ops import sparse

Nonlinearity = Literal["relu", "identity"]


class KeptLatents(NamedTuple):
    """The k latents kept for each token, strongest first."""

    latent_values: Float[Tensor, "batch k"]
    latent_indices: Int[Tensor, "batch k"]


def activate(kept: Float[Tensor, "batch k"], nonlinearity: Nonlinearity) -> Float[Tensor, "batch k"]:
    """Apply the nonlinearity to kept pre-activations. A value that the ReLU zeroes is kept but not active."""
    return torch.relu(kept) if nonlinearity == "relu" else kept


def keep_topk(pre_activations: Float[Tensor, "batch n_latents"], k: int, nonlinearity: Nonlinearity) -> KeptLatents:
    """TopK (Gao et al. 2024, §2.3): keep exactly the k largest pre-activations of each token."""
    values, indices = sparse.topk(pre_activations, k)
    return KeptLatents(activate(values, nonlinearity), indices)
