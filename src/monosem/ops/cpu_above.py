"""Choosing latents on the CPU: all whose pre-activation is above a floor, from the product in cache.

The product is ``[n_latents, tokens]``, in float32 or as bfloat16's bits, without the bias; ``limits`` say, for every
latent, what it must exceed to be looked at more closely.
"""

from typing import Any

import numpy as np
from numba import prange

from monosem.ops.compiled import float_of, kernel

# Tokens whose bfloat16 pre-activations of a latent are one line of the cache.
TOKENS_A_CHUNK = 32


@kernel
def count_above(product: Any, limits: Any, counts: Any) -> None:
    """Add to ``counts`` how many latents of each token exceed their limits."""
    n, tokens = product.shape
    for chunk in prange((tokens + TOKENS_A_CHUNK - 1) // TOKENS_A_CHUNK):
        first = chunk * TOKENS_A_CHUNK
        here = min(first + TOKENS_A_CHUNK, tokens) - first
        found = np.zeros(here, np.int32)
        for i in range(n):
            row, limit = product[i, first : first + here], limits[i]
            for t in range(here):
                found[t] += np.int32(float_of(row[t], product) > limit)
        counts[first : first + here] += found


@kernel
def keep_above(
    product: Any,
    limits: Any,
    x: Any,
    W: Any,
    b: Any,
    floors: Any,
    starts: Any,
    values: Any,
    indices: Any,
    counts: Any,
) -> None:
    """Write every token's latents whose exact pre-activation is above the floor, by latent, from ``starts`` on.

    ``counts`` gets how many they are; no more than exceed the limits.
    """
    n, tokens = product.shape
    for chunk in prange((tokens + TOKENS_A_CHUNK - 1) // TOKENS_A_CHUNK):
        first = chunk * TOKENS_A_CHUNK
        here = min(first + TOKENS_A_CHUNK, tokens) - first
        hits = np.zeros((here + 7) // 8 * 8, np.uint8)
        eights = hits.view(np.uint64)
        ends = starts[first : first + here].copy()
        for i in range(n):
            row, limit = product[i, first : first + here], limits[i]
            for t in range(here):
                hits[t] = np.uint8(float_of(row[t], product) > limit)
            for eight in range(len(eights)):
                if eights[eight] == 0:
                    continue
                for t in range(8 * eight, min(8 * eight + 8, here)):
                    if hits[t] != 0:
                        indices[ends[t]] = i
                        ends[t] += 1
        for t in range(here):
            kept = starts[first + t]
            mine = x[first + t]
            for j in range(starts[first + t], ends[t]):
                i = indices[j]
                weights = W[i]
                exact = np.float32(0)
                for c in range(len(weights)):
                    exact += mine[c] * weights[c]
                exact += b[i]
                if exact > floors[i]:
                    values[kept] = exact
                    indices[kept] = i
                    kept += 1
            counts[first + t] = kept - starts[first + t]


@kernel
def compact(values: Any, indices: Any, starts: Any, row_offsets: Any, out_values: Any, out_indices: Any) -> None:
    """Close the gaps between rows that begin at ``starts``."""
    for t in prange(len(row_offsets) - 1):
        shift = starts[t] - row_offsets[t]
        for j in range(row_offsets[t], row_offsets[t + 1]):
            out_values[j] = values[j + shift]
            out_indices[j] = indices[j + shift]
