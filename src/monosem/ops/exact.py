"""A batch's largest pre-activations, or those above floors, by the CPU's kernels, with none missed.

The product is taken of whole numbers from −127 to 127, of which processors multiply four in the time of one float32;
exact pre-activations decide among what is near. With x̃ and w̃ for the rounded factors,

    |x̃ · w̃ − x · w| ≤ ‖x̃ − x‖ ‖w̃‖ + ‖x‖ ‖w̃ − w‖,

about a 70th of ‖x‖ ‖w‖. So the latents are those of the float32 product, to a tie in float32. Of a TopK of 16,384
latents on the bundled subject 101 a token are looked at for k = 32, and 59 multiplied exactly.

Both factors are turned by the same random rotation first, which changes no product. Each vector is rounded to 127ths of
its largest coordinate, and after the rotation none is far above the others, as some of a language model's are.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32
from torch import Tensor

from monosem.ops.cpu_screen import GROUP, WIDEST, Groups, Inputs, keep_above, keep_largest
from monosem.ops.reference import Chosen, even_rows, joined

# Rows that are rounded at once.
_ROWS = 1 << 12
# A block of the product. For 32 MiB the C library would take new pages every time; few tokens are not worth reading the
# weights for.
_BLOCK_BYTES, _FEWEST_TOKENS = 24 << 20, 32
_FINEST = torch.finfo(torch.float32).tiny
# The step of W_enc's row is at least this share of the longest row, so that no bias is beyond float32 in steps.
_FINEST_SHARE = 1e-9
# What is beyond the bound: sums in float32, of the lengths' products and of the biases.
_SAFETY, _RELATIVE, _EPSILON = 1.05, 1e-5, 1e-6


def multiplies_bytes() -> bool:
    """Whether the processor has instructions for sums of products of 8-bit numbers."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_int8", "avx512_vnni", "avx_vnni"))


class Rounded(NamedTuple):
    """Vectors as multiples of a step, each of its own."""

    levels: Tensor
    """``[vectors, d_model]``: int8, or float32 where nothing is rounded and steps are 1."""
    steps: Float[Tensor, " vectors"]
    lengths: Float[Tensor, " vectors"]
    """Of levels times steps."""
    errors: Float[Tensor, " vectors"]
    """Lengths of what rounding changes."""


def as_they_are(vectors: Float[Tensor, "vectors d_model"]) -> Rounded:
    """Not rounded."""
    lengths = vectors.norm(dim=1)
    return Rounded(vectors, torch.ones_like(lengths), lengths, torch.zeros_like(lengths))


def to_bytes(
    vectors: Float[Tensor, "vectors d_model"], rotation: Float[Tensor, "d_model d_model"], finest: float = _FINEST
) -> Rounded:
    """Turn vectors, and round each to 127 steps on either side of zero, none finer than ``finest``."""
    pieces = [_to_bytes(piece @ rotation, finest) for piece in vectors.split(_ROWS)]
    return Rounded(*map(torch.cat, zip(*pieces, strict=True)))


def _to_bytes(turned: Float[Tensor, "vectors d_model"], finest: float) -> Rounded:
    steps = (turned.abs().amax(dim=1) / 127).clamp(min=finest)
    levels = (turned / steps[:, None]).round_()
    near = levels * steps[:, None]
    return Rounded(levels.to(torch.int8), steps, near.norm(dim=1), turned.sub_(near).norm(dim=1))


def random_rotation(d: int) -> Float[Tensor, "d d"]:
    """The same at each call."""
    normal = torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.linalg.qr(normal).Q.float()


class Places(NamedTuple):
    """Which latent stands where in the product."""

    latent_at: Int32[Tensor, " places"]
    """Some latent where there is none."""
    is_empty: Bool[Tensor, " places"]
    width: int
    """Of a strip."""

    def by_group(self, values: Float[Tensor, " places"]) -> Float[Tensor, "groups members"]:
        return values.view(-1, GROUP, self.width).mT.reshape(-1, GROUP)


def find_places(steps: Float[Tensor, " n_latents"]) -> Places:
    """Put latents of about the same step into groups."""
    n = len(steps)
    strips = -(-n // (GROUP * WIDEST))
    width = -(-n // (strips * GROUP * 8)) * 8  # the search looks at eight groups at once
    by_step = steps.argsort(stable=True)
    padded = torch.cat([by_step, by_step[-1:].expand(strips * width * GROUP - n)])
    is_empty = torch.arange(len(padded)) >= n
    latent_at, is_empty = (each.view(strips, width, GROUP).mT.flatten() for each in (padded, is_empty))
    return Places(latent_at.int(), is_empty, width)


class ExactWeights(NamedTuple):
    """An encoder to be searched for many batches, float32 on the CPU."""

    W_enc: Float[Tensor, "n_latents d_model"]
    b_enc: Float[Tensor, " n_latents"]
    rotation: Float[Tensor, "d_model d_model"] | None
    """None where the product is of float32."""
    places: Places
    rows: Rounded
    """Those of W_enc, at their places."""


def exact_weights(
    W_enc: Float[Tensor, "n_latents d_model"], b_enc: Float[Tensor, " n_latents"], *, rounds: bool | None = None
) -> ExactWeights:
    """Prepare an encoder. ``rounds`` says whether to multiply whole numbers; by default where the processor does."""
    W_enc, b_enc = W_enc.detach().contiguous(), b_enc.detach().contiguous()
    if not (multiplies_bytes() if rounds is None else rounds):
        rotation, rows = None, as_they_are(W_enc)
    else:
        rotation = random_rotation(W_enc.shape[1])
        longest = float(W_enc.norm(dim=1).max())
        rows = to_bytes(W_enc, rotation, max(_FINEST, _FINEST_SHARE * longest))
    places = find_places(rows.steps)
    return ExactWeights(W_enc, b_enc, rotation, places, Rounded(*(each[places.latent_at] for each in rows)))


class ExactProducts:
    """A batch's pre-activations, to be searched."""

    def __init__(self, weights: ExactWeights, x_centered: Float[Tensor, "batch d_model"]) -> None:
        self._weights, self._x = weights, x_centered.contiguous()

    def largest(self, k: int) -> Chosen:
        """Every token's k largest, strongest first, of equal ones the lower latent."""
        W, b = self._weights.W_enc, self._weights.b_enc
        values, indices = torch.empty(len(self._x), k), torch.empty(len(self._x), k, dtype=torch.int32)
        for here, product, inputs, groups in self._blocks(b, b.abs()):
            its = (each[here].numpy() for each in (self._x, values, indices))
            keep_largest(product, inputs, groups, W.numpy(), b.numpy(), *its)
        return even_rows(values, indices)

    def above(self, floors: Float[Tensor, " n_latents"]) -> Chosen:
        """All that are above their latent's floor, by latent."""
        W, b = self._weights.W_enc, self._weights.b_enc
        pieces: list[Chosen] = []
        for here, product, inputs, groups in self._blocks(b - floors, b.abs() + floors.abs().nan_to_num(posinf=0)):
            values, indices = np.empty(product.shape, np.float32), np.empty(product.shape, np.int32)
            counts = np.empty(len(product), np.int64)
            its = self._x[here].numpy(), floors.numpy(), values, indices, counts
            keep_above(product, inputs, groups, W.numpy(), b.numpy(), *its)
            pieces.append(_first_of_rows(values, indices, counts))
        return joined(pieces) if pieces else self.largest(1)  # of no tokens

    def _blocks(
        self, biases: Float[Tensor, " n_latents"], sizes: Float[Tensor, " n_latents"]
    ) -> Iterator[tuple[slice, Any, Inputs, Groups]]:
        """The product for a block of tokens at a time, and its bounds. Each block takes the place of the last.

        Args:
            biases: what is added to the product.
            sizes: those of the numbers that the biases come from.
        """
        weights, x = self._weights, self._x
        if len(x) == 0:
            return
        columns = as_they_are(x) if weights.rotation is None else to_bytes(x, weights.rotation)
        bounds = columns.steps, x.norm(dim=1), columns.errors
        groups = _groups(weights, biases, sizes)
        places = len(weights.places.latent_at)
        tokens = min(len(x), max(_FEWEST_TOKENS, _BLOCK_BYTES // (4 * places)))
        block = torch.empty(tokens, places, dtype=torch.float32 if weights.rotation is None else torch.int32)
        multiply = torch.mm if weights.rotation is None else torch._int_mm  # pyright: ignore (torch has no public product of bytes)
        for start in range(0, len(x), tokens):
            here = slice(start, min(start + tokens, len(x)))
            product = multiply(columns.levels[here], weights.rows.levels.T, out=block[: here.stop - start])
            yield here, product.numpy(), Inputs(*(each[here].numpy() for each in bounds)), groups


def _groups(weights: ExactWeights, biases: Float[Tensor, " n_latents"], sizes: Float[Tensor, " n_latents"]) -> Groups:
    """What bounds a product with biases."""
    rows, places = weights.rows, weights.places
    errors = _SAFETY * rows.errors + _RELATIVE * rows.lengths
    greatest = rows.steps, _SAFETY * rows.lengths, errors, _EPSILON * sizes[places.latent_at]
    return Groups(
        places.width,
        places.latent_at.numpy(),
        (biases[places.latent_at] / rows.steps).masked_fill(places.is_empty, torch.nan).numpy(),
        places.by_group(rows.steps).amin(dim=1).numpy(),
        *(places.by_group(each).amax(dim=1).numpy() for each in greatest),
    )


def _first_of_rows(values: Any, indices: Any, counts: Any) -> Chosen:
    """The first ``counts`` entries of each row."""
    row_offsets = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    rows = np.repeat(np.arange(len(counts)), counts)
    columns = np.arange(row_offsets[-1]) - np.repeat(row_offsets[:-1], counts)
    return Chosen(*map(torch.from_numpy, (values[rows, columns], indices[rows, columns], row_offsets)))
