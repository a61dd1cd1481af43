"""AuxK on the CPU: dead latents' codes as a dense matrix by latent, from the product in cache, and what goes with it.

Numbers are in the product's precision, float32 or bfloat16 (as its bits).
"""

from typing import Any

import numpy as np
from numba import prange

from monosem.ops.compiled import float_of, inner, kernel, rounded_bits
from monosem.ops.cpu_choose import TOKENS_A_CHUNK

LATENTS_A_CHUNK = 32


@inner
def key_of(number: Any, bias: Any, keys: Any) -> Any:
    """A pre-activation with its bias, rounded as the product is, as an integer of ``keys``' type.

    Keys compare as the numbers do, and that of a positive number is its bits.
    """
    bits = rounded_bits(np.float32(float_of(number, keys) + bias).view(np.int32), keys)
    if keys.itemsize == 2:
        return np.int16(bits ^ ((bits >> 15) & 0x7FFF))
    return np.int32(bits ^ ((bits >> 31) & 0x7FFFFFFF))


@inner
def kth_largest_keys(keys: Any, k: int, low: Any, high: Any, above: Any) -> None:
    """The k-th largest key of every column, by halving the range from ``low`` to ``high``, which both end there.

    ``above`` becomes the number of larger keys.
    """
    n, columns = keys.shape
    middle, some = np.empty(columns, keys.dtype), np.empty(columns, keys.dtype)
    at_least = np.empty(columns, np.int64)
    above[:] = 0
    while True:
        undecided = 0
        for t in range(columns):
            undecided += np.int64(low[t] < high[t])
            middle[t] = (low[t] + high[t] + 1) >> 1
        if undecided == 0:
            return
        at_least[:] = 0
        for start in range(0, n, 16384):  # a short integer counts no further than twice that
            end = min(start + 16384, n)
            some[:] = 0
            whole = start + (end - start) // 4 * 4
            for j in range(start, whole, 4):
                for t in range(columns):
                    floor = middle[t]
                    some[t] += (
                        (keys[j, t] >= floor)
                        + (keys[j + 1, t] >= floor)
                        + (keys[j + 2, t] >= floor)
                        + (keys[j + 3, t] >= floor)
                    )
            for j in range(whole, end):
                for t in range(columns):
                    some[t] += keys[j, t] >= middle[t]
            for t in range(columns):
                at_least[t] += some[t]
        for t in range(columns):
            if low[t] < high[t]:
                if at_least[t] >= k:
                    low[t] = middle[t]
                else:
                    high[t] = middle[t] - 1
                    above[t] = at_least[t]


@kernel
def find_floors(product: Any, b: Any, dead: Any, k: int, floors: Any, last_ties: Any) -> None:
    """For every token, the key of its k-th strongest dead latent, and the last latent of that key that is kept."""
    n, tokens = len(dead), len(floors)
    least = -(np.int64(1) << (8 * floors.itemsize - 1))
    columns = max(TOKENS_A_CHUNK, min(128, tokens // 2))
    together = max(1, n // (4 * k))
    groups = (n + together - 1) // together
    for chunk in prange((tokens + columns - 1) // columns):
        first = chunk * columns
        here = min(first + columns, tokens) - first
        keys = np.empty((n, here), floors.dtype)
        maxima = np.empty((groups, here), floors.dtype)
        for j in range(n):
            row, bias = product[dead[j], first : first + here], b[dead[j]]
            largest, key = maxima[j // together], keys[j]
            for t in range(here):
                key[t] = key_of(row[t], bias, floors)
            if j % together == 0:
                largest[:] = key
            else:
                for t in range(here):
                    largest[t] = key[t] if key[t] > largest[t] else largest[t]
        low, high, above = np.empty(here, np.int64), np.empty(here, np.int64), np.empty(here, np.int64)
        low[:], high[:] = least, least
        for group in range(groups):
            for t in range(here):
                high[t] = max(high[t], maxima[group, t])
        if groups >= k:  # the k-th largest of groups' maxima is a lower bound
            top = high.copy()
            kth_largest_keys(maxima, k, low, high, above)
            high[:] = top
        kth_largest_keys(keys, k, low, high, above)
        floor, left, last = floors[first : first + here], np.empty(here, np.int32), last_ties[first : first + here]
        for t in range(here):
            floor[t] = low[t]
            left[t] = k - above[t]
        last[:] = n
        for j in range(n):
            key = keys[j]
            for t in range(here):
                tied = np.int32(key[t] == floor[t])
                left[t] -= tied
                last[t] = j if tied and left[t] == 0 else last[t]


@kernel
def keep_strongest(product: Any, b: Any, dead: Any, floors: Any, last_ties: Any, codes: Any, start: int) -> None:
    """Write the tokens' codes, from column ``start``: keys at least the floor, if positive; else zero."""
    n, tokens = len(dead), len(floors)
    for j in prange(n):
        row, bias, out = product[dead[j], :tokens], b[dead[j]], codes[j, start : start + tokens]
        for t in range(tokens):
            key = key_of(row[t], bias, floors)
            floor = max(floors[t] + np.int16(j > last_ties[t]), 1)
            out[t] = key if key >= floor else 0


@kernel
def gather(W: Any, latents: Any, rows: Any, columns: Any) -> None:
    """Some rows of float32's bits, rounded, and the same transposed."""
    n, d = rows.shape
    for chunk in prange((n + LATENTS_A_CHUNK - 1) // LATENTS_A_CHUNK):
        first = chunk * LATENTS_A_CHUNK
        end = min(first + LATENTS_A_CHUNK, n)
        for i in range(first, end):
            row, bits = rows[i], W[latents[i]]
            for c in range(d):
                row[c] = rounded_bits(bits[c], rows)
        for c in range(d):
            out = columns[c, first:end]
            for i in range(end - first):
                out[i] = rows[first + i, c]


@kernel
def mask_and_sum(gradients: Any, codes: Any, sums: Any) -> None:
    """Zero the gradients of codes that are zero, in place, and add up each latent's."""
    n, tokens = codes.shape
    for i in prange(n):
        gradient, code = gradients[i], codes[i]
        total = np.float32(0)
        for t in range(tokens):
            kept = gradient[t] if code[t] > 0 else 0
            gradient[t] = kept
            total += float_of(kept, gradients)
        sums[i] = total
