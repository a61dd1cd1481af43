"""What an autoencoder does to raw activations first, and undoes last. Nothing here is estimated from data.

``unit_norm`` (the paper's, §2.1): subtract each token's own mean over d_model, divide by its own L2 norm.
``layer_norm``: subtract the mean, divide by the unbiased standard deviation plus 1e-5 (foreign autoencoders).
``none``: leave them as they are.
"""

from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

Preprocess = Literal["unit_norm", "layer_norm", "none"]
PREPROCESSES: tuple[str, ...] = get_args(Preprocess)


class Preprocessed(NamedTuple):
    """Preprocessed activations and what was taken away: raw = x × norm + mean."""

    x: Float[Tensor, "batch d_model"]
    mean: Float[Tensor, "batch ..."]
    """Of a crosscoder a column for each hookpoint."""
    norm: Float[Tensor, "batch ..."]


def preprocess(raw: Float[Tensor, "batch d_model"], kind: Preprocess) -> Preprocessed:
    """Normalise each token by itself, in float32 or wider. A constant vector becomes zeros, never NaN."""
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
    if kind == "none":
        return Preprocessed(raw, raw.new_zeros(len(raw)), raw.new_ones(len(raw)))
    mean = raw.mean(dim=1)
    centered = raw - mean[:, None]
    if kind == "layer_norm":
        norm = centered.square().sum(dim=1).div(raw.shape[1] - 1).sqrt() + 1e-5
    else:
        norm = centered.norm(dim=1).clamp_min(torch.finfo(raw.dtype).tiny)
    return Preprocessed(centered / norm[:, None], mean, norm)


def undo_preprocess(
    x: Float[Tensor, "batch d_model"], mean: Float[Tensor, " batch"], norm: Float[Tensor, " batch"]
) -> Float[Tensor, "batch d_model"]:
    """Raw activations again."""
    return x * norm[:, None] + mean[:, None]
