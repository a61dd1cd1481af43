"""The fused step's operations on the CPU: torch's matrix product in blocks, and numba kernels for all the rest.

Each function is the one of the same name in ``ops/reference``, on float32 tensors. Sums run in an order that does not
depend on the number of threads, so the same input gives the same bits.

The encoder's product is taken in bfloat16 where the processor has instructions for it, a block of tokens at a time.
While a block is in cache, latents are chosen from it: one maximum a bucket of latents, the k buckets with the largest
maxima (the k largest values cannot lie elsewhere), and in them the k largest values, with those as near to the k-th as
rounding can bring them. The exact float32 pre-activations of these few decide.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np
import torch
from numba import prange
from torch import Tensor

from monosem.ops.reference import BETAS, EPSILON, AdamStep, Chosen, ErrorTerm, Optimized

BUCKET = 16
# A block of pre-activations is at most this many bytes: large enough for the product, small enough for the cache.
BLOCK_BYTES = 16 << 20
# Latents a thread updates at a time; sums over latents are cut at the same places whatever the number of threads.
LATENTS_A_CHUNK = 64
# Tokens whose bfloat16 pre-activations of a latent are one line of the cache.
TOKENS_A_CHUNK = 32


def _kernel(function: Any, *, parallel: bool = True) -> Any:
    """Compile at first use, kept on disk. Sums may be reordered; infinities and NaN keep their meaning."""
    fastmath = {"reassoc", "contract", "nsz", "arcp"}
    function = inspect.unwrap(function)  # a type checker's import hook may have wrapped it
    return numba.njit(function, parallel=parallel, fastmath=fastmath, cache=True, nogil=True, error_model="numpy")


def _inner(function: Any) -> Any:
    return _kernel(function, parallel=False)


def use_as_many_threads_as_torch() -> None:
    """Let the kernels follow torch.set_num_threads and OMP_NUM_THREADS."""
    most: int = numba.config.NUMBA_NUM_THREADS  # pyright: ignore (numba fills its configuration at import)
    numba.set_num_threads(min(torch.get_num_threads(), most))


def rounds_products() -> bool:
    """Whether the processor multiplies bfloat16 natively; if not, torch's bfloat16 product is slower than float32's."""
    capabilities = torch.cpu.get_capabilities()
    return any(bool(capabilities.get(name)) for name in ("amx_bf16", "avx512_bf16", "bf16"))


def encode_topk(x_centered: Tensor, W_enc: Optimized, b_enc: Tensor, k: int, dead: Tensor, k_aux: int) -> Chosen:
    """See ``reference.encode_topk``. Dead latents are chosen, and valued, by the product as it is rounded."""
    batch, n_latents = len(x_centered), len(W_enc.weight)
    k_aux = min(k_aux, len(dead))
    weight = W_enc.weight if W_enc.rounded is None else W_enc.rounded
    chosen = Chosen(
        torch.empty(batch, k),
        torch.empty(batch, k, dtype=torch.int32),
        torch.empty(batch, k_aux),
        torch.empty(batch, k_aux, dtype=torch.int32),
    )
    inputs = x_centered.to(weight.dtype)
    tokens = max(TOKENS_A_CHUNK, BLOCK_BYTES // (n_latents * weight.element_size()) // TOKENS_A_CHUNK * TOKENS_A_CHUNK)
    block = torch.empty(n_latents * min(tokens, batch), dtype=weight.dtype)
    maxima = np.empty((-(-n_latents // BUCKET), min(tokens, batch)), np.float32)
    W, b, dead_latents = W_enc.weight.numpy(), b_enc.numpy(), dead.to(torch.int32).numpy()
    for start in range(0, batch, tokens):
        here = slice(start, min(start + tokens, batch))
        # [n_latents, tokens]: the product that way round is the faster one.
        product = block[: n_latents * (here.stop - start)].view(n_latents, -1)
        torch.mm(weight, inputs[here].T, out=product)
        numbers = _numbers(product)
        _find_maxima(numbers, b, maxima)
        _choose(
            numbers, maxima, x_centered[here].numpy(), W, b, chosen.values[here].numpy(), chosen.indices[here].numpy()
        )
        if k_aux:
            _choose_dead(numbers, b, dead_latents, chosen.dead_values[here].numpy(), chosen.dead_indices[here].numpy())
    return chosen


def _numbers(tensor: Tensor) -> Any:
    """A tensor as numpy's; bfloat16, which numpy does not know, as its bits."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@_inner
def _widen(row: Any, out: Any) -> None:
    """A row of float32 or of bfloat16's bits, as float32."""
    if row.itemsize == 2:
        wide = out.view(np.int32)
        for c in range(len(row)):
            wide[c] = np.int32(row[c]) << 16
    else:
        for c in range(len(row)):
            out[c] = row[c]


@_inner
def _widen_column(product: Any, first: int, count: int, column: int, out: Any) -> None:
    """``_widen`` for a few entries of a column."""
    if product.itemsize == 2:
        wide = out.view(np.int32)
        for j in range(count):
            wide[j] = np.int32(product[first + j, column]) << 16
    else:
        for j in range(count):
            out[j] = product[first + j, column]


@_kernel
def _find_maxima(product: Any, b: Any, maxima: Any) -> None:
    """For every bucket of latents and every token, the largest pre-activation in it."""
    n, tokens = product.shape
    for bucket in prange((n + BUCKET - 1) // BUCKET):
        row = np.empty(tokens, np.float32)
        largest = maxima[bucket]
        first = bucket * BUCKET
        for i in range(first, min(first + BUCKET, n)):
            _widen(product[i], row)
            bias = b[i]
            if i == first:
                for t in range(tokens):
                    largest[t] = row[t] + bias
            else:
                for t in range(tokens):
                    value = row[t] + bias
                    largest[t] = value if value > largest[t] else largest[t]


@_inner
def _kth_largest(values: Any, count: int, k: int, keys: Any) -> Any:
    """The k-th largest of the first ``count`` ≥ k values, by halving the range of their keys.

    A float's bits, with all but the sign flipped where the sign is set, compare as integers as the floats do.
    """
    bits = values.view(np.int32)
    low, high = np.int32(0x7FFFFFFF), np.int32(-0x80000000)
    for i in range(count):
        key = np.int32(bits[i] ^ ((bits[i] >> 31) & np.int32(0x7FFFFFFF)))
        keys[i] = key
        low = min(low, key)
        high = max(high, key)
    while low < high:
        middle = np.int32((np.int64(low) + np.int64(high) + 1) >> 1)
        at_least = np.int32(0)
        for i in range(count):
            at_least += np.int32(keys[i] >= middle)
        if at_least >= k:
            low = middle
        else:
            high = np.int32(middle - 1)
    for i in range(count):
        if keys[i] == low:
            return values[i]
    return values[0]


@_kernel
def _choose(product: Any, maxima: Any, x: Any, W: Any, b: Any, values: Any, indices: Any) -> None:
    """Choose every token's latents: the buckets that may hold them, the candidates in these, the exact decision."""
    n, tokens = product.shape
    buckets, k = len(maxima), indices.shape[1]
    # The k-th largest of any groups' maxima is a lower bound for the k-th value; of 4k groups it is a close one.
    together = max(1, buckets // (4 * k))
    groups = (buckets + together - 1) // together
    # Two rounded products may have changed places if they are closer than this share of them.
    share = np.float32(2.0**-7 if product.itemsize == 2 else 0)
    greatest_bias = np.float32(0)
    for i in range(n):
        greatest_bias = max(greatest_bias, abs(b[i]))
    for chunk in prange((tokens + TOKENS_A_CHUNK - 1) // TOKENS_A_CHUNK):
        first = chunk * TOKENS_A_CHUNK
        here = min(first + TOKENS_A_CHUNK, tokens) - first
        of_token = np.empty((TOKENS_A_CHUNK, groups), np.float32)
        largest = np.empty(TOKENS_A_CHUNK, np.float32)
        for group in range(groups):
            largest[:] = -np.inf
            for bucket in range(group * together, min(group * together + together, buckets)):
                row = maxima[bucket, first : first + here]
                for t in range(here):
                    largest[t] = row[t] if row[t] > largest[t] else largest[t]
            for t in range(here):
                of_token[t, group] = largest[t]
        column = np.empty(BUCKET, np.float32)
        found_values = np.empty(n, np.float32)
        places = np.empty(n, np.int32)
        keys = np.empty(n, np.int32)
        for t in range(here):
            token = first + t
            floor = np.float32(-np.inf)
            if groups >= k:
                floor = _kth_largest(of_token[t], groups, k, keys)
                floor -= share * (abs(floor) + greatest_bias)
            found = 0
            for group in range(groups):
                if of_token[t, group] < floor:
                    continue
                for bucket in range(group * together, min(group * together + together, buckets)):
                    if maxima[bucket, token] < floor:
                        continue
                    below = bucket * BUCKET
                    latents = min(BUCKET, n - below)
                    _widen_column(product, below, latents, token, column)
                    for j in range(latents):
                        value = column[j] + b[below + j]
                        if value >= floor:
                            found_values[found] = value
                            places[found] = below + j
                            found += 1
            floor = _kth_largest(found_values, found, k, keys)
            floor -= share * (abs(floor) + greatest_bias)
            candidates = 0
            for j in range(found):
                if found_values[j] >= floor:
                    i = places[j]
                    places[candidates] = i
                    exact = np.float32(0)
                    weights, mine = W[i], x[token]
                    for c in range(len(weights)):
                        exact += mine[c] * weights[c]
                    found_values[candidates] = -(exact + b[i])
                    candidates += 1
            if candidates < k:  # NaN is at least nothing; the loss will tell
                for j in range(k):
                    values[token, j] = np.nan
                    indices[token, j] = j
                continue
            order = np.argsort(found_values[:candidates], kind="mergesort")
            for j in range(k):
                values[token, j] = -found_values[order[j]]
                indices[token, j] = places[order[j]]


@_kernel
def _choose_dead(product: Any, b: Any, dead: Any, values: Any, indices: Any) -> None:
    """Choose every token's strongest dead latents; of equal ones the first."""
    tokens, k_aux = indices.shape
    together = max(1, len(dead) // (4 * k_aux))
    groups = (len(dead) + together - 1) // together
    for chunk in prange((tokens + TOKENS_A_CHUNK - 1) // TOKENS_A_CHUNK):
        first = chunk * TOKENS_A_CHUNK
        here = min(first + TOKENS_A_CHUNK, tokens) - first
        of_token = np.empty((TOKENS_A_CHUNK, len(dead)), np.float32)
        row = np.empty(TOKENS_A_CHUNK, np.float32)
        of_group = np.empty(groups, np.float32)
        found_values = np.empty(len(dead), np.float32)
        places = np.empty(len(dead), np.int32)
        keys = np.empty(len(dead), np.int32)
        for j in range(len(dead)):
            _widen(product[dead[j], first : first + here], row)
            for t in range(here):
                of_token[t, j] = row[t] + b[dead[j]]
        for t in range(here):
            mine = of_token[t]
            for group in range(groups):
                largest = mine[group * together]
                for j in range(group * together + 1, min(group * together + together, len(dead))):
                    largest = mine[j] if mine[j] > largest else largest
                of_group[group] = largest
            floor = _kth_largest(of_group, groups, k_aux, keys) if groups >= k_aux else np.float32(-np.inf)
            candidates = 0
            for j in range(len(dead)):
                if mine[j] >= floor:
                    found_values[candidates] = mine[j]
                    places[candidates] = dead[j]
                    candidates += 1
            floor = _kth_largest(found_values, candidates, k_aux, keys)
            at_floor = k_aux
            for j in range(candidates):
                at_floor -= np.int64(found_values[j] > floor)
            found = 0
            for j in range(candidates):
                if found_values[j] > floor or (found_values[j] == floor and at_floor > 0):
                    at_floor -= np.int64(found_values[j] == floor)
                    values[first + t, found] = found_values[j]
                    indices[first + t, found] = places[j]
                    found += 1
            for j in range(found, k_aux):  # NaN
                values[first + t, j] = np.nan
                indices[first + t, j] = dead[j]


def subtract_decoded(
    target: Tensor, latent_values: Tensor, latent_indices: Tensor, W_dec: Tensor
) -> tuple[Tensor, Tensor]:
    """See ``reference.subtract_decoded``; each token's rows are read once and used twice."""
    residual, products = torch.empty_like(target), torch.empty_like(latent_values)
    _subtract_decoded(
        target.numpy(),
        latent_values.numpy(),
        latent_indices.numpy(),
        W_dec.numpy(),
        residual.numpy(),
        products.numpy(),
    )
    return residual, products


@_kernel
def _subtract_decoded(target: Any, values: Any, indices: Any, W: Any, residual: Any, products: Any) -> None:
    tokens, k = indices.shape
    d = target.shape[1]
    for t in prange(tokens):
        left = residual[t]
        left[:] = target[t]
        for j in range(k):
            value = values[t, j]
            if value != 0:
                row = W[indices[t, j]]
                for c in range(d):
                    left[c] -= value * row[c]
        for j in range(k):
            row = W[indices[t, j]]
            product = np.float32(0)
            for c in range(d):
                product += left[c] * row[c]
            products[t, j] = product


def gradient_square_sums(terms: Sequence[ErrorTerm], x_centered: Tensor, W_dec: Tensor) -> tuple[float, float, float]:
    """See ``reference.gradient_square_sums``; no gradient is stored."""
    sums = np.zeros((_chunks(len(W_dec)), 3))
    _square_sums(*_by_latent(terms, len(W_dec)), x_centered.numpy(), *_residuals(terms), W_dec.numpy(), sums)
    of_W_enc, of_b_enc, of_W_dec = sums.sum(axis=0).tolist()
    return of_W_enc, of_b_enc, of_W_dec


def update_latents(
    W_enc: Optimized,
    b_enc: Optimized | None,
    W_dec: Optimized,
    terms: Sequence[ErrorTerm],
    x_centered: Tensor,
    adam: AdamStep,
) -> None:
    """See ``reference.update_latents``; one pass over the latents, in which no weight's gradient is ever stored.

    Per latent: its gradient rows are summed over the tokens that chose it, and used at once.
    """
    n_latents = len(W_dec.weight)
    numbers = np.array(
        [
            adam.gradient_scale,
            adam.learning_rate / (1 - BETAS[0] ** adam.step),
            (1 - BETAS[1] ** adam.step) ** -0.5,
            1 - adam.ema_decay,
        ],
        np.float32,
    )
    frozen = Optimized(*torch.empty(3, 0))
    _update_latents(
        *_by_latent(terms, n_latents),
        x_centered.numpy(),
        *_residuals(terms),
        *_arrays(W_enc),
        *_arrays(b_enc or frozen),
        *_arrays(W_dec),
        numbers,
        np.uint32(adam.step),
    )


def pull_on_b_pre(terms: Sequence[ErrorTerm], W_enc: Tensor) -> Tensor:
    """See ``reference.pull_on_b_pre``."""
    n_latents, d_model = W_enc.shape
    sums, partial = np.zeros(n_latents), np.zeros((_chunks(n_latents), d_model), np.float32)
    pull = torch.zeros(d_model)
    for term in terms:
        _add_at(sums, term.indices.numpy(), term.products.numpy(), 2 * term.weight)
        pull -= 2 * term.weight * term.residual.sum(dim=0)
    _weighted_rows(sums, W_enc.numpy(), partial)
    return pull + torch.from_numpy(partial.sum(axis=0))


def _chunks(n_latents: int) -> int:
    return -(-n_latents // LATENTS_A_CHUNK)


def _residuals(terms: Sequence[ErrorTerm]) -> list[Any]:
    """The residuals of up to three terms; one that is missing has no rows."""
    found = [term.residual.numpy() for term in terms]
    return found + [np.empty((0, found[0].shape[1]), np.float32)] * (3 - len(found))


def _arrays(parameter: Optimized) -> list[Any]:
    """A parameter's tensors, two-dimensional; bfloat16 as its bits, and what is left out as an array without rows."""
    width = parameter.weight.shape[-1] if parameter.weight.ndim == 2 else 1
    average = torch.empty(0) if parameter.average is None else parameter.average
    rounded = torch.empty(0, dtype=torch.bfloat16) if parameter.rounded is None else parameter.rounded
    tensors = (*parameter[:3], average, rounded)
    return [_numbers(tensor.detach().view(-1, width)) for tensor in tensors]


def _by_latent(terms: Sequence[ErrorTerm], n_latents: int) -> tuple[Any, Any, Any, Any]:
    """What every latent owes to which token: sorted by latent, then term, then token.

    Returns:
        Where each latent's and term's entries start, ``[n_latents · terms + 1]``; and each entry's token, coefficient
        of the input (W_enc's gradient) and coefficient of the residual (W_dec's).
    """
    starts = np.zeros(n_latents * len(terms) + 1, np.int64)
    for number, term in enumerate(terms):
        _count(starts, term.indices.numpy(), number, len(terms))
    np.cumsum(starts, out=starts)
    tokens = np.empty(starts[-1], np.int32)
    of_input, of_residual = np.empty(starts[-1], np.float32), np.empty(starts[-1], np.float32)
    ends = starts.copy()
    for number, term in enumerate(terms):
        _place(
            ends,
            term.indices.numpy(),
            term.products.numpy(),
            term.values.numpy(),
            np.float32(-2 * term.weight),
            number,
            len(terms),
            tokens,
            of_input,
            of_residual,
        )
    return starts, tokens, of_input, of_residual


@_inner
def _count(starts: Any, indices: Any, number: int, terms: int) -> None:
    for t in range(indices.shape[0]):
        for j in range(indices.shape[1]):
            starts[indices[t, j] * terms + number + 1] += 1


@_inner
def _place(
    ends: Any,
    indices: Any,
    products: Any,
    values: Any,
    scale: Any,
    number: int,
    terms: int,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
) -> None:
    for t in range(indices.shape[0]):
        for j in range(indices.shape[1]):
            slot = indices[t, j] * terms + number
            entry = ends[slot]
            ends[slot] = entry + 1
            tokens[entry] = t
            of_input[entry] = scale * products[t, j]
            of_residual[entry] = scale * values[t, j]


@_inner
def _add_at(sums: Any, indices: Any, values: Any, scale: float) -> None:
    for t in range(indices.shape[0]):
        for j in range(indices.shape[1]):
            sums[indices[t, j]] += scale * values[t, j]


@_kernel
def _weighted_rows(weights: Any, rows: Any, partial: Any) -> None:
    """Sum the weighted rows of every chunk of 64 latents on its own."""
    n, d = rows.shape
    for chunk in prange(len(partial)):
        for i in range(chunk * 64, min(chunk * 64 + 64, n)):
            weight = np.float32(weights[i])
            if weight != 0:
                for c in range(d):
                    partial[chunk, c] += weight * rows[i, c]


@_inner
def _gradient(
    i: int,
    starts: Any,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
    x: Any,
    first_residual: Any,
    second_residual: Any,
    third_residual: Any,
    W_dec: Any,
    of_W_enc: Any,
    of_W_dec: Any,
) -> Any:
    """Latent i's gradient rows, the decoder's without its component along the decoder row; returns b_enc's."""
    terms = (len(starts) - 1) // len(W_dec)
    d = x.shape[1]
    of_W_enc[:] = 0
    of_W_dec[:] = 0
    of_b_enc = np.float32(0)
    for term in range(terms):
        residual = first_residual if term == 0 else second_residual if term == 1 else third_residual
        for entry in range(starts[i * terms + term], starts[i * terms + term + 1]):
            t = tokens[entry]
            coefficient = of_input[entry]
            if coefficient != 0:
                of_b_enc += coefficient
                row = x[t]
                for c in range(d):
                    of_W_enc[c] += coefficient * row[c]
            coefficient = of_residual[entry]
            if coefficient != 0:
                row = residual[t]
                for c in range(d):
                    of_W_dec[c] += coefficient * row[c]
    along = np.float32(0)
    for c in range(d):
        along += of_W_dec[c] * W_dec[i, c]
    for c in range(d):
        of_W_dec[c] -= along * W_dec[i, c]
    return of_b_enc


@_kernel
def _square_sums(
    starts: Any,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
    x: Any,
    first_residual: Any,
    second_residual: Any,
    third_residual: Any,
    W_dec: Any,
    sums: Any,
) -> None:
    n, d = W_dec.shape
    for chunk in prange(len(sums)):
        of_W_enc = np.empty(d, np.float32)
        of_W_dec = np.empty(d, np.float32)
        for i in range(chunk * 64, min(chunk * 64 + 64, n)):
            of_b_enc = _gradient(
                i,
                starts,
                tokens,
                of_input,
                of_residual,
                x,
                first_residual,
                second_residual,
                third_residual,
                W_dec,
                of_W_enc,
                of_W_dec,
            )
            sums[chunk, 1] += of_b_enc * of_b_enc
            for c in range(d):
                sums[chunk, 0] += of_W_enc[c] * of_W_enc[c]
                sums[chunk, 2] += of_W_dec[c] * of_W_dec[c]


@_inner
def _round(x: Any, bits: Any, offset: int, seed: Any) -> None:
    """See ``reference.round_stochastically``; the row starts at entry ``offset`` of its tensor."""
    wide = x.view(np.int32)
    for c in range(len(bits)):
        noise = np.uint32(np.uint32(offset + c) * np.uint32(0x9E3779B1) + seed * np.uint32(0x85EBCA77))
        noise = np.uint32((noise ^ (noise >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
        noise = np.uint32((noise ^ (noise >> np.uint32(12))) * np.uint32(0x297A2D39))
        noise = (noise ^ (noise >> np.uint32(15))) & np.uint32(0xFFFF)
        bits[c] = np.int16((wide[c] + np.int32(noise)) >> 16)


@_inner
def _adam_in_float32(weight: Any, first: Any, second: Any, gradient: Any, numbers: Any) -> None:
    b1, b2, epsilon = np.float32(BETAS[0]), np.float32(BETAS[1]), np.float32(EPSILON)
    rest1, rest2 = np.float32(1 - BETAS[0]), np.float32(1 - BETAS[1])
    scale, rate, correction = numbers[0], numbers[1], numbers[2]
    for c in range(len(weight)):
        g = scale * gradient[c]
        m = b1 * first[c] + rest1 * g
        v = b2 * second[c] + rest2 * g * g
        first[c] = m
        second[c] = v
        weight[c] -= rate * m / (np.sqrt(v) * correction + epsilon)


@_inner
def _adam(
    weight: Any, first: Any, second: Any, gradient: Any, numbers: Any, scratch: Any, offset: int, seed: Any
) -> None:
    """One step of Adam for a row, in place; moments may be bfloat16's bits."""
    if first.itemsize == 2:
        _widen(first, scratch[0])
        _widen(second, scratch[1])
        _adam_in_float32(weight, scratch[0], scratch[1], gradient, numbers)
        _round(scratch[0], first, offset, np.uint32(2 * seed))
        _round(scratch[1], second, offset, np.uint32(2 * seed + 1))
    else:
        _adam_in_float32(weight, first, second, gradient, numbers)


@_inner
def _copy_row(weight: Any, average: Any, rounded: Any, i: int, share: Any) -> None:
    """Move a row's running average and renew its bfloat16 copy (to nearest, ties to even), where there are any."""
    if len(average) > 0:
        for c in range(len(weight)):
            average[i, c] += share * (weight[c] - average[i, c])
    if len(rounded) > 0:
        bits = weight.view(np.int32)
        for c in range(len(weight)):
            rounded[i, c] = np.int16((bits[c] + 0x7FFF + ((bits[c] >> 16) & 1)) >> 16)


@_kernel
def _update_latents(
    starts: Any,
    tokens: Any,
    of_input: Any,
    of_residual: Any,
    x: Any,
    first_residual: Any,
    second_residual: Any,
    third_residual: Any,
    W_enc: Any,
    W_enc_first: Any,
    W_enc_second: Any,
    W_enc_average: Any,
    W_enc_rounded: Any,
    b_enc: Any,
    b_enc_first: Any,
    b_enc_second: Any,
    b_enc_average: Any,
    b_enc_rounded: Any,
    W_dec: Any,
    W_dec_first: Any,
    W_dec_second: Any,
    W_dec_average: Any,
    W_dec_rounded: Any,
    numbers: Any,
    seed: Any,
) -> None:
    n, d = W_dec.shape
    for chunk in prange((n + 63) // 64):
        of_W_enc = np.empty(d, np.float32)
        of_W_dec = np.empty(d, np.float32)
        of_b_enc = np.empty(1, np.float32)
        scratch = np.empty((2, d), np.float32)
        for i in range(chunk * 64, min(chunk * 64 + 64, n)):
            of_b_enc[0] = _gradient(
                i,
                starts,
                tokens,
                of_input,
                of_residual,
                x,
                first_residual,
                second_residual,
                third_residual,
                W_dec,
                of_W_enc,
                of_W_dec,
            )
            _adam(W_dec[i], W_dec_first[i], W_dec_second[i], of_W_dec, numbers, scratch, i * d, seed)
            length = np.float32(0)
            for c in range(d):
                length += W_dec[i, c] * W_dec[i, c]
            if length > 0:
                length = np.float32(1) / np.sqrt(length)
                for c in range(d):
                    W_dec[i, c] *= length
            _copy_row(W_dec[i], W_dec_average, W_dec_rounded, i, numbers[3])
            _adam(W_enc[i], W_enc_first[i], W_enc_second[i], of_W_enc, numbers, scratch, i * d, seed)
            _copy_row(W_enc[i], W_enc_average, W_enc_rounded, i, numbers[3])
            if len(b_enc) > 0:
                _adam(b_enc[i], b_enc_first[i], b_enc_second[i], of_b_enc, numbers, scratch, i, seed)
                _copy_row(b_enc[i], b_enc_average, b_enc_rounded, i, numbers[3])
