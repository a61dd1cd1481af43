"""Choosing latents on the CPU: the k largest pre-activations of every token, from the product in cache.

The product is ``[n_latents, tokens]``, in float32 or as bfloat16's bits, without the bias.
"""

from typing import Any

import numpy as np
from numba import prange

from monosem.ops.compiled import float_of, inner, kernel

BUCKET = 16
# Tokens whose bfloat16 pre-activations of a latent are one line of the cache.
TOKENS_A_CHUNK = 32


@kernel
def find_maxima(product: Any, b: Any, maxima: Any) -> None:
    """For every bucket of latents and every token, the largest pre-activation in it."""
    n, tokens = product.shape
    for bucket in prange((n + BUCKET - 1) // BUCKET):
        largest = maxima[bucket]
        first = bucket * BUCKET
        end = min(first + BUCKET, n)
        largest[:] = -np.inf
        whole = first + (end - first) // 4 * 4
        for i in range(first, whole, 4):
            row0, row1, row2, row3 = product[i], product[i + 1], product[i + 2], product[i + 3]
            b0, b1, b2, b3 = b[i], b[i + 1], b[i + 2], b[i + 3]
            for t in range(tokens):
                v0, v1 = float_of(row0[t], product) + b0, float_of(row1[t], product) + b1
                v2, v3 = float_of(row2[t], product) + b2, float_of(row3[t], product) + b3
                v0 = v0 if v0 > v1 else v1
                v2 = v2 if v2 > v3 else v3
                v0 = v0 if v0 > v2 else v2
                largest[t] = v0 if v0 > largest[t] else largest[t]
        for i in range(whole, end):
            row0, b0 = product[i], b[i]
            for t in range(tokens):
                v0 = float_of(row0[t], product) + b0
                largest[t] = v0 if v0 > largest[t] else largest[t]


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
        if at_least == k:
            break
    found = np.int32(0x7FFFFFFF)
    for i in range(count):
        found = min(found, keys[i] if keys[i] >= low else np.int32(0x7FFFFFFF))
    return np.int32(found ^ ((found >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


@inner
def find_groups_maxima(maxima: Any, first: int, of_token: Any) -> None:
    """For some tokens from ``first``, the largest maximum of every group of buckets."""
    buckets, groups = len(maxima), of_token.shape[1]
    together = (buckets + groups - 1) // groups
    here = len(of_token)
    largest = np.empty(here, np.float32)
    for group in range(groups):
        largest[:] = -np.inf
        for bucket in range(group * together, min(group * together + together, buckets)):
            row = maxima[bucket, first : first + here]
            for t in range(here):
                largest[t] = row[t] if row[t] > largest[t] else largest[t]
        for t in range(here):
            of_token[t, group] = largest[t]


@inner
def collect(product: Any, maxima: Any, b: Any, first: int, floors: Any, values: Any, places: Any, found: Any) -> None:
    """For some tokens from ``first``, all pre-activations at or above each token's floor, by latent."""
    n, here = len(product), len(floors)
    hits = np.zeros((here + 7) // 8 * 8, np.uint8)
    eights = hits.view(np.uint64)
    found[:] = 0
    for bucket in range(len(maxima)):
        row = maxima[bucket, first : first + here]
        for t in range(here):
            hits[t] = np.uint8(row[t] >= floors[t])
        for eight in range(len(eights)):
            if eights[eight] == 0:
                continue
            for t in range(8 * eight, min(8 * eight + 8, here)):
                if hits[t] == 0:
                    continue
                floor, mine, latents, count = floors[t], values[t], places[t], found[t]
                for i in range(bucket * BUCKET, min(bucket * BUCKET + BUCKET, n)):
                    value = float_of(product[i, first + t], product) + b[i]
                    if value >= floor:
                        mine[count] = value
                        latents[count] = i
                        count += 1
                found[t] = count


@kernel
def choose(product: Any, maxima: Any, W: Any, b: Any, x: Any, values: Any, indices: Any) -> None:
    """Choose every token's latents: the buckets that may hold them, the candidates in these, the exact decision.

    Candidates are those that are not below the k-th by more than rounding the product can make it.
    """
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
        keys = np.empty(n, np.int32)
        floors = np.full(here, -np.inf, np.float32)
        if groups >= k:
            of_token = np.empty((here, groups), np.float32)
            find_groups_maxima(maxima, first, of_token)
            for t in range(here):
                floor = kth_largest(of_token[t], groups, k, keys)
                floors[t] = floor - share * (abs(floor) + greatest_bias)
        found_values, found_places = np.empty((here, n), np.float32), np.empty((here, n), np.int32)
        counts = np.empty(here, np.int64)
        collect(product, maxima, b, first, floors, found_values, found_places, counts)
        for t in range(here):
            token, found, places = first + t, found_values[t], found_places[t]
            floor = kth_largest(found, counts[t], k, keys)
            floor -= share * (abs(floor) + greatest_bias)
            candidates = 0
            for j in range(counts[t]):
                if found[j] >= floor:
                    i = places[j]
                    places[candidates] = i
                    exact = np.float32(0)
                    weights, mine = W[i], x[token]
                    for c in range(len(weights)):
                        exact += mine[c] * weights[c]
                    found[candidates] = -(exact + b[i])
                    candidates += 1
            if candidates < k:  # NaN is at least nothing; the loss will tell
                for j in range(k):
                    values[token, j] = np.nan
                    indices[token, j] = j
                continue
            order = np.argsort(found[:candidates], kind="mergesort")
            for j in range(k):
                values[token, j] = -found[order[j]]
                indices[token, j] = places[order[j]]
