"""Choosing latents on the CPU: the k largest pre-activations of every token, from the product in cache.

The product is ``[n_latents, tokens]``, in float32 or as bfloat16's bits, without the bias.
"""

from typing import Any

import numpy as np
from numba import prange

from monosem.ops.compiled import inner, kernel, widen

BUCKET = 16
# Tokens whose bfloat16 pre-activations of a latent are one line of the cache.
TOKENS_A_CHUNK = 32


@inner
def widen_column(product: Any, first: int, count: int, column: int, out: Any) -> None:
    """``_widen`` for a few entries of a column."""
    if product.itemsize == 2:
        wide = out.view(np.int32)
        for j in range(count):
            wide[j] = np.int32(product[first + j, column]) << 16
    else:
        for j in range(count):
            out[j] = product[first + j, column]


@kernel
def find_maxima(product: Any, b: Any, maxima: Any) -> None:
    """For every bucket of latents and every token, the largest pre-activation in it."""
    n, tokens = product.shape
    for bucket in prange((n + BUCKET - 1) // BUCKET):
        row = np.empty(tokens, np.float32)
        largest = maxima[bucket]
        first = bucket * BUCKET
        for i in range(first, min(first + BUCKET, n)):
            widen(product[i], row)
            bias = b[i]
            if i == first:
                for t in range(tokens):
                    largest[t] = row[t] + bias
            else:
                for t in range(tokens):
                    value = row[t] + bias
                    largest[t] = value if value > largest[t] else largest[t]


@inner
def kth_largest(values: Any, count: int, k: int, keys: Any) -> Any:
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


@kernel
def choose(product: Any, maxima: Any, x: Any, W: Any, b: Any, values: Any, indices: Any) -> None:
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
                floor = kth_largest(of_token[t], groups, k, keys)
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
                    widen_column(product, below, latents, token, column)
                    for j in range(latents):
                        value = column[j] + b[below + j]
                        if value >= floor:
                            found_values[found] = value
                            places[found] = below + j
                            found += 1
            floor = kth_largest(found_values, found, k, keys)
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


@kernel
def choose_dead(product: Any, b: Any, dead: Any, values: Any, indices: Any) -> None:
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
            widen(product[dead[j], first : first + here], row)
            for t in range(here):
                of_token[t, j] = row[t] + b[dead[j]]
        for t in range(here):
            mine = of_token[t]
            for group in range(groups):
                largest = mine[group * together]
                for j in range(group * together + 1, min(group * together + together, len(dead))):
                    largest = mine[j] if mine[j] > largest else largest
                of_group[group] = largest
            floor = kth_largest(of_group, groups, k_aux, keys) if groups >= k_aux else np.float32(-np.inf)
            candidates = 0
            for j in range(len(dead)):
                if mine[j] >= floor:
                    found_values[candidates] = mine[j]
                    places[candidates] = dead[j]
                    candidates += 1
            floor = kth_largest(found_values, candidates, k_aux, keys)
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
