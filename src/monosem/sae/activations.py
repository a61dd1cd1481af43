"""What turns a token's pre-activations into its few kept latents."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.ops.reference import Chosen

Nonlinearity = Literal["relu", "identity"]


def activate(kept: Float[Tensor, "..."], nonlinearity: Nonlinearity) -> Float[Tensor, "..."]:
    """Apply the nonlinearity to kept pre-activations. A value that the ReLU zeroes is kept but not active."""
    return torch.relu(kept) if nonlinearity == "relu" else kept


def keep_positive(candidates: Chosen) -> Chosen:
    """Those that are positive, each token's strongest first."""
    is_kept = candidates.values > 0
    values, indices, tokens = candidates.values[is_kept], candidates.indices[is_kept], candidates.tokens()[is_kept]
    by_value = values.argsort(descending=True, stable=True)
    order = by_value[tokens[by_value].argsort(stable=True)]
    counts = torch.bincount(tokens, minlength=len(candidates.row_offsets) - 1)
    return Chosen(values[order], indices[order], torch.nn.functional.pad(counts.cumsum(0), (1, 0)))
