"""The fused step's operations on the CPU: torch's matrix product in blocks, and numba kernels for all the rest.

Each function is the one of the same name in ``ops/reference``, on float32 tensors. Sums run in an order that does not
depend on the number of threads, so the same input gives the same bits.

The encoder's product is taken in bfloat16 where the processor has instructions for it, a block of tokens at a time.
While a block is in cache, latents are chosen from it: one maximum a bucket of latents, the k buckets with the largest
maxima (the k largest values cannot lie elsewhere), and in them the k largest values, with those as near to the k-th as
rounding can bring them. The exact float32 pre-activations of these few decide. Where not k but a floor decides, the
latents are those above it or as near.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from monosem.ops.compiled import kernel
from monosem.ops.cpu_above import compact, count_above, keep_above
from monosem.ops.cpu_auxiliary import find_floors, gather, keep_strongest, mask_and_sum
from monosem.ops.cpu_choose import BUCKET, TOKENS_A_CHUNK, choose, find_maxima
from monosem.ops.cpu_update import LATENTS_A_CHUNK, count, move_latents, place, place_values, square_sums
from monosem.ops.reference import (
    BETAS,
    AdamStep,
    Chosen,
    DeadLatents,
    LatentGradients,
    Optimized,
    TokenGradients,
    even_rows,
    joined,
)

# A block of pre-activations is at most this many bytes: large enough for the product, small enough for the cache.
BLOCK_BYTES = 16 << 20


def rounds_products() -> bool:
    """Whether the processor multiplies bfloat16 natively; if not, torch's bfloat16 product is slower than float32's."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def encode_topk(x_centered: Tensor, W_enc: Optimized, b_enc: Tensor, k: int, dead: DeadLatents) -> Chosen:
    """See ``reference.encode_topk``. Dead latents are chosen, and valued, by the product as it is rounded.

    Those are looked at that are as near to the k-th as rounding usually brings them.
    """
    values, indices = torch.empty(len(x_centered), k), torch.empty(len(x_centered), k, dtype=torch.int32)
    maxima = np.empty((-(-len(b_enc) // BUCKET), len(x_centered)), np.float32)
    W, b = W_enc.weight.numpy(), b_enc.numpy()
    for here, product in _blocks(x_centered, W_enc):
        of_buckets = maxima[:, : product.shape[1]]
        find_maxima(product, b, of_buckets)
        tokens = (each[here].numpy() for each in (x_centered, values, indices))
        choose(product, of_buckets, W, b, *tokens)
        _keep_dead(product, b, dead, here.start)
    return even_rows(values, indices)


def encode_above(x_centered: Tensor, W_enc: Optimized, b_enc: Tensor, floors: Tensor, dead: DeadLatents) -> Chosen:
    """See ``reference.encode_above``. The exact pre-activations decide, of those that the rounded product brings near.

    Near is a hundredth part beyond what rounding usually moves; a value at its floor may be missed.
    """
    W, b = W_enc.weight.numpy(), b_enc.numpy()
    limits = (floors - b_enc - _margins(x_centered, W_enc, floors - b_enc)).numpy()
    pieces: list[Chosen] = []
    for here, product in _blocks(x_centered, W_enc):
        counts = np.zeros(product.shape[1], np.int64)
        count_above(product, limits, counts)
        starts = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        values, indices = torch.empty(starts[-1]), torch.empty(starts[-1], dtype=torch.int32)
        keep_above(
            product,
            limits,
            x_centered[here].numpy(),
            W,
            b,
            floors.numpy(),
            starts,
            values.numpy(),
            indices.numpy(),
            counts,
        )
        pieces.append(_compacted(values, indices, starts, counts))
        _keep_dead(product, b, dead, here.start)
    return joined(pieces)


def _margins(x_centered: Tensor, W_enc: Optimized, limits: Tensor) -> Tensor:
    """How far below a latent's limit a product may lie that rounding has moved there; zero for exact products.

    bfloat16 keeps 8 bits. Rounding the product moves it by up to a 256th of itself; rounding the factors moves it by a
    sum of d_model random parts, about ‖x‖‖w‖ / (600 √d_model).
    """
    if W_enc.rounded is None:
        return torch.zeros_like(limits)
    d_model = x_centered.shape[1]
    lengths = W_enc.weight.norm(dim=1) * x_centered.norm(dim=1).max() / d_model**0.5
    return (limits.abs() + lengths) / 128


def _compacted(values: Tensor, indices: Tensor, starts: Any, counts: Any) -> Chosen:
    """Rows that begin at ``starts`` and hold ``counts`` entries, without the gaps between them."""
    row_offsets = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
    out = torch.empty(row_offsets[-1]), torch.empty(row_offsets[-1], dtype=torch.int32)
    compact(values.numpy(), indices.numpy(), starts, row_offsets, out[0].numpy(), out[1].numpy())
    return Chosen(*out, torch.from_numpy(row_offsets))


def _blocks(x_centered: Tensor, W_enc: Optimized) -> Iterator[tuple[slice, Any]]:
    """The encoder's product without the bias, ``[n_latents, tokens]``, for a block of tokens at a time.

    That way round the product is the faster one. Each block takes the place of the last.
    """
    batch, n_latents = len(x_centered), len(W_enc.weight)
    weight = W_enc.weight if W_enc.rounded is None else W_enc.rounded
    inputs = x_centered.to(weight.dtype)
    tokens = max(TOKENS_A_CHUNK, BLOCK_BYTES // (n_latents * weight.element_size()) // TOKENS_A_CHUNK * TOKENS_A_CHUNK)
    block = torch.empty(n_latents * min(tokens, batch), dtype=weight.dtype)
    for start in range(0, batch, tokens):
        here = slice(start, min(start + tokens, batch))
        product = block[: n_latents * (here.stop - start)].view(n_latents, -1)
        torch.mm(weight, inputs[here].T, out=product)
        yield here, _numbers(product)


def _keep_dead(product: Any, b: Any, dead: DeadLatents, start: int) -> None:
    """See ``reference.keep_dead``; of a block of the product that begins at token ``start``."""
    tokens = min(product.shape[1], dead.codes.shape[1] - start)
    if not len(dead.latents) or tokens <= 0:
        return
    latents, codes = dead.latents.to(torch.int32).numpy(), _bits(dead.codes)
    floors, last_ties = np.empty(tokens, codes.dtype), np.empty(tokens, np.int32)
    find_floors(product, b, latents, min(dead.k_aux, len(latents)), floors, last_ties)
    keep_strongest(product, b, latents, floors, last_ties, codes, start)


def dense_rows(W_dec: Tensor, latents: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """See ``reference.dense_rows``."""
    n, d_model = len(latents), W_dec.shape[1]
    rows, columns = torch.empty(n, d_model, dtype=dtype), torch.empty(d_model, n, dtype=dtype)
    gather(_bits(W_dec), latents.numpy(), _bits(rows), _bits(columns))
    return rows, columns


def code_gradients(rows: Tensor, pull: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
    """See ``reference.code_gradients``."""
    gradients, sums = rows @ pull.T, torch.empty(len(rows))
    mask_and_sum(_numbers(gradients), _numbers(codes), sums.numpy())
    return gradients, sums


def _bits(tensor: Tensor) -> Any:
    """A float tensor's numbers as integers."""
    return tensor.view(torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32).numpy()


def _numbers(tensor: Tensor) -> Any:
    """A tensor as numpy's; bfloat16, which numpy does not know, as its bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def subtract_decoded(target: Tensor, latents: Chosen, W_dec: Tensor) -> tuple[Tensor, Tensor]:
    """See ``reference.subtract_decoded``; each token's rows are read once and used twice."""
    residual, products = torch.empty_like(target), torch.empty_like(latents.values)
    arrays = (tensor.numpy() for tensor in (target, *latents, W_dec, residual, products))
    subtract_rows(*arrays)
    return residual, products


@kernel
def subtract_rows(
    target: Any, values: Any, indices: Any, row_offsets: Any, W: Any, residual: Any, products: Any
) -> None:
    tokens, d = target.shape
    for t in prange(tokens):
        left = residual[t]
        left[:] = target[t]
        for j in range(row_offsets[t], row_offsets[t + 1]):
            value = values[j]
            if value != 0:
                row = W[indices[j]]
                for c in range(d):
                    left[c] -= value * row[c]
        for j in range(row_offsets[t], row_offsets[t + 1]):
            row = W[indices[j]]
            product = np.float32(0)
            for c in range(d):
                product += left[c] * row[c]
            products[j] = product


def gradient_square_sums(
    batch: TokenGradients, auxiliary: LatentGradients | None, W_enc: Tensor, W_dec: Tensor
) -> tuple[float, float, float, Tensor]:
    """See ``reference.gradient_square_sums``; no gradient is stored."""
    sums = np.zeros((_chunks(len(W_dec)), 3))
    of_inputs = np.zeros((_chunks(len(W_dec)), W_dec.shape[1]), np.float32)
    square_sums(*_by_latent(batch, len(W_dec)), *_rows(auxiliary, W_dec), W_enc.numpy(), W_dec.numpy(), sums, of_inputs)
    of_W_enc, of_b_enc, of_W_dec = sums.sum(axis=0).tolist()
    return of_W_enc, of_b_enc, of_W_dec, torch.from_numpy(of_inputs.sum(axis=0))


def update_latents(
    W_enc: Optimized,
    b_enc: Optimized | None,
    W_dec: Optimized,
    batch: TokenGradients,
    auxiliary: LatentGradients | None,
    adam: AdamStep,
) -> Tensor:
    """See ``reference.update_latents``; one pass over the latents, in which no weight's gradient is ever stored.

    Per latent: its gradient rows are summed over the tokens that chose it, and used at once.
    """
    n_latents, d_model = W_dec.weight.shape
    numbers = np.array(
        [
            adam.gradient_scale,
            adam.learning_rate / (1 - BETAS[0] ** adam.step),
            (1 - BETAS[1] ** adam.step) ** -0.5,
            1 - adam.ema_decay,
        ],
        np.float32,
    )
    of_inputs = np.zeros((_chunks(n_latents), d_model), np.float32)
    frozen = Optimized(*torch.empty(3, 0))
    move_latents(
        *_by_latent(batch, n_latents),
        *_rows(auxiliary, W_dec.weight),
        *_arrays(W_enc),
        *_arrays(b_enc or frozen),
        *_arrays(W_dec),
        numbers,
        np.uint32(adam.step),
        of_inputs,
    )
    return torch.from_numpy(of_inputs.sum(axis=0))


def _chunks(n_latents: int) -> int:
    return -(-n_latents // LATENTS_A_CHUNK)


def _rows(auxiliary: LatentGradients | None, W_dec: Tensor) -> list[Any]:
    """Which row of the auxiliary gradients each latent has, or -1; and these gradients."""
    row_of = torch.full((len(W_dec),), -1, dtype=torch.int32)
    if auxiliary is None:
        none = W_dec.new_empty(0, W_dec.shape[1])
        auxiliary = LatentGradients(torch.empty(0, dtype=torch.int64), none, none[:, 0], none)
    latents, of_W_enc, of_b_enc, of_W_dec = auxiliary
    row_of[latents] = torch.arange(len(latents), dtype=torch.int32)
    return [row_of.numpy(), _numbers(of_W_enc), of_b_enc.numpy(), _numbers(of_W_dec)]


def _arrays(parameter: Optimized) -> list[Any]:
    """A parameter's tensors, two-dimensional; bfloat16 as its bits, and what is left out as an array without rows."""
    width = parameter.weight.shape[-1] if parameter.weight.ndim == 2 else 1
    average = torch.empty(0) if parameter.average is None else parameter.average
    rounded = torch.empty(0, dtype=torch.bfloat16) if parameter.rounded is None else parameter.rounded
    tensors = (*parameter[:3], average, rounded)
    return [_numbers(tensor.detach().view(-1, width)) for tensor in tensors]


def _by_latent(batch: TokenGradients, n_latents: int) -> tuple[Any, ...]:
    """What every latent owes to which token, sorted by latent, then token.

    Returns:
        Where each latent's entries start, ``[n_latents + 1]``; each entry's token, coefficient of the input (W_enc's
        gradient) and, ``[entries, terms]``, of each term's residual (W_dec's); the inputs; ``[terms, batch, d_model]``,
        the residuals.
    """
    coefficients, indices, row_offsets = (tensor.numpy() for tensor in batch.of_pre_activations)
    starts = np.zeros(n_latents + 1, np.int64)
    count(starts, indices)
    np.cumsum(starts, out=starts)
    tokens, of_input = np.empty(starts[-1], np.int32), np.empty(starts[-1], np.float32)
    of_residual = np.empty((starts[-1], len(batch.terms)), np.float32)
    values = [term.values.numpy() for term in batch.terms]
    scales = np.array([-2 * term.weight for term in batch.terms], np.float32)
    place(starts.copy(), indices, row_offsets, coefficients, tokens, of_input)
    for number, (mine, scale) in enumerate(zip(values, scales, strict=True)):
        place_values(starts.copy(), indices, mine, scale, of_residual[:, number])
    residuals = [term.residual for term in batch.terms]
    stacked = residuals[0][None] if len(residuals) == 1 else torch.stack(residuals)
    return starts, tokens, of_input, of_residual, batch.x_centered.numpy(), stacked.numpy()
