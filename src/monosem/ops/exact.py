"""A batch's largest pre-activations, or those above floors, by the CPU's kernels, with none missed.

The kernels multiply in bfloat16, and let exact pre-activations decide among what is near. In training near is what
rounding usually moves; here it is what rounding can move at most. With x̃ and w̃ for the rounded factors,

    |x̃ · w̃ − x · w| ≤ ‖x̃ − x‖ ‖w̃‖ + ‖x‖ ‖w̃ − w‖,

about a 240th of ‖x‖ ‖w‖. So the latents are those of the float32 product, to a tie in float32. Of a TopK of 16,384
latents on the bundled subject 50 a token are looked at for k = 32; training's margin takes 32.2.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.ops import cpu
from monosem.ops.reference import Chosen, DeadLatents, Optimized

# Rows whose rounding errors are held at once.
_ROWS = 1 << 14
# What the kernels hold of a batch, a number for every sixteenth latent, stays below 64 MB.
_ELEMENTS = 1 << 28
_FEWEST_TOKENS, _MOST_TOKENS = 32, 4096
# What is beyond the bound: sums in float32, and products of two roundings.
_SAFETY = 1.05


class ExactWeights(NamedTuple):
    """An encoder to be searched for many batches, float32 on the CPU."""

    W_enc: Optimized
    b_enc: Float[Tensor, " n_latents"]
    rounded_norms: Float[Tensor, " n_latents"]
    """Lengths of the rows of W_enc, rounded."""
    errors: Float[Tensor, " n_latents"]
    """Lengths of what rounding changes in them."""


def exact_weights(
    W_enc: Float[Tensor, "n_latents d_model"], b_enc: Float[Tensor, " n_latents"], *, rounds: bool | None = None
) -> ExactWeights:
    """Prepare an encoder. ``rounds`` says whether to multiply in bfloat16; by default where the processor does."""
    W_enc = W_enc.detach()
    rounds = cpu.rounds_products() if rounds is None else rounds
    pieces = [_norms(piece) for piece in W_enc.split(_ROWS)]
    return ExactWeights(
        Optimized(W_enc, W_enc, W_enc, None, W_enc.bfloat16() if rounds else None),
        b_enc.detach(),
        *map(torch.cat, zip(*pieces, strict=True)),
    )


def tokens_at_once(n_latents: int) -> int:
    """How many tokens to search in one batch."""
    return min(_MOST_TOKENS, max(_FEWEST_TOKENS, _ELEMENTS // n_latents))


class ExactProducts:
    """A batch's pre-activations, to be searched."""

    def __init__(self, weights: ExactWeights, x_centered: Float[Tensor, "batch d_model"]) -> None:
        self._weights, self._x = weights, x_centered.contiguous()

    def largest(self, k: int) -> Chosen:
        """Every token's k largest, strongest first."""
        W, b, rounded_norms, row_errors = self._weights
        lengths, errors = self._lengths()
        moved = errors * rounded_norms.max() + lengths * row_errors.max()
        return cpu.encode_topk(self._x, W, b, k, _no_dead(), None if W.rounded is None else _SAFETY * moved)

    def above(self, floors: Float[Tensor, " n_latents"]) -> Chosen:
        """All that are above their latent's floor."""
        W, b, rounded_norms, row_errors = self._weights
        lengths, errors = self._lengths()
        moved = errors.max() * rounded_norms + lengths.max() * row_errors
        return cpu.encode_above(self._x, W, b, floors, _no_dead(), None if W.rounded is None else _SAFETY * moved)

    def _lengths(self) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """The length of each token's input, and of what rounding changes in it."""
        return self._x.norm(dim=1), (self._x.bfloat16().float() - self._x).norm(dim=1)


def _norms(W: Float[Tensor, "rows d_model"]) -> tuple[Float[Tensor, " rows"], Float[Tensor, " rows"]]:
    """The length of each row when rounded, and of what rounding changes."""
    rounded = W.bfloat16().float()
    return rounded.norm(dim=1), (rounded - W).norm(dim=1)


def _no_dead() -> DeadLatents:
    return DeadLatents(torch.empty(0, dtype=torch.int64), 1, torch.empty(0, 0))
