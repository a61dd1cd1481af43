"""The sparse form of a batch of latents."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Codes(NamedTuple):
    """A batch of codes in compressed rows, with what undoing the preprocessing needs.

    Token b's kept latents are ``indices[row_offsets[b] : row_offsets[b + 1]]``, strongest first, with their ``values``.
    With a fixed k the rows are even and ``values.view(batch, k)`` is free. A kept value may be zero (TopK keeps exactly
    k, and its ReLU may zero some); only a strictly positive one is active.
    """

    values: Float[Tensor, " nnz"]
    indices: Int[Tensor, " nnz"]
    row_offsets: Int[Tensor, " batch_plus_1"]
    mean: Float[Tensor, "batch ..."]
    """Each token's own mean over d_model, removed before encoding; of a crosscoder at each hookpoint."""
    norm: Float[Tensor, "batch ..."]
    """What each token was divided by before encoding."""
    n_latents: int
    offset: Float[Tensor, "batch d_target"] | None = None
    """What a transcoder with a linear skip adds to the decoded latents."""

    def padded(self) -> tuple[Float[Tensor, "batch longest"], Int[Tensor, "batch longest"]]:
        """Values and indices as rows of one length, the shorter ending in zeros; free where all are of one length."""
        counts = self.row_offsets.diff()
        longest = max(1, int(counts.max())) if len(counts) else 1
        if len(self.values) == len(counts) * longest:
            return self.values.view(len(counts), longest), self.indices.view(len(counts), longest)
        inside = torch.arange(longest, device=counts.device) < counts[:, None]
        values, indices = (each.new_zeros(inside.shape) for each in (self.values, self.indices))
        values[inside], indices[inside] = self.values, self.indices
        return values, indices

    def rows(self) -> Int[Tensor, " nnz"]:
        """The token that each kept value belongs to."""
        tokens = torch.arange(len(self.mean), device=self.indices.device)
        return tokens.repeat_interleave(self.row_offsets.diff())

    def dense(self) -> Float[Tensor, "batch n_latents"]:
        """All latents of every token, ``[batch, n_latents]``: for small batches, on request."""
        out = self.values.new_zeros(len(self.mean), self.n_latents)
        out[self.rows(), self.indices] = self.values
        return out

    def l0(self) -> Int[Tensor, " batch"]:
        """How many latents of each token are strictly positive."""
        counts = self.row_offsets.new_zeros(len(self.mean))
        return counts.index_add_(0, self.rows(), (self.values > 0).to(counts.dtype))
