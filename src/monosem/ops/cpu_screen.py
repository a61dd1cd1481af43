"""Searching a rounded product on the CPU: bounds say which latents may count, exact pre-activations decide.

The product is ``[tokens, n_latents]``, of integers or float32. Latent i's pre-activation at token t lies within
``lengths[t] * reach[i]`` of ``product[t, i] * x_steps[t] * steps[i] + b[i]``. A token's row of the product stays in the
processor's nearest caches while it is searched.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from monosem.ops.compiled import inner, kernel
from monosem.ops.cpu_choose import kth_largest

# Tokens for which memory is taken together.
TOKENS_A_CHUNK = 8
# Latents of which it is first asked whether any may count.
_TOGETHER = 32


class Bounds(NamedTuple):
    """What makes bounds of a product; all float32."""

    steps: Any
    """``[n_latents]``."""
    reach: Any
    """``[n_latents]``."""
    x_steps: Any
    """``[tokens]``."""
    lengths: Any
    """``[tokens]``."""


@inner
def bound(row: Any, i: int, scale: Any, length: Any, steps: Any, reach: Any, offsets: Any) -> Any:
    """An upper bound for latent i, or with the length's negative a lower one."""
    return np.float32(row[i]) * (scale * steps[i]) + (offsets[i] + length * reach[i])


@inner
def floor_of_largest(row: Any, scale: Any, length: Any, steps: Any, reach: Any, b: Any, k: int, groups: Any) -> Any:
    """What the k-th largest pre-activation of a token is not below.

    The latents fall into groups. Of each the largest lower bound is taken, and of these the k-th largest: k latents, or
    more, are not below it.
    """
    n, count = len(row), len(groups)
    for g in range(count):
        groups[g] = bound(row, g, scale, -length, steps, reach, b)
    for first in range(count, n, count):
        here = slice(first, min(first + count, n))
        mine, its_steps, its_reach, biases = row[here], steps[here], reach[here], b[here]
        for g in range(len(mine)):
            groups[g] = max(groups[g], bound(mine, g, scale, -length, its_steps, its_reach, biases))
    return kth_largest(groups, count, k, np.empty(count, np.int32))


@inner
def screen(
    row: Any, scale: Any, length: Any, steps: Any, reach: Any, offsets: Any, floor: Any, places: Any, upper: Any
) -> Any:
    """Write the latents whose upper bounds are not below a floor, and these bounds; return how many they are."""
    n, count = len(row), 0
    whole = n // _TOGETHER * _TOGETHER
    for first in range(0, whole, _TOGETHER):
        hits = np.int32(0)
        for i in range(first, first + _TOGETHER):
            hits += np.int32(bound(row, i, scale, length, steps, reach, offsets) >= floor)
        if hits > 0:
            for i in range(first, first + _TOGETHER):
                highest = bound(row, i, scale, length, steps, reach, offsets)
                if highest >= floor:
                    places[count], upper[count] = i, highest
                    count += 1
    for i in range(whole, n):
        highest = bound(row, i, scale, length, steps, reach, offsets)
        if highest >= floor:
            places[count], upper[count] = i, highest
            count += 1
    return count


@inner
def pre_activation(x: Any, weights: Any, bias: Any) -> Any:
    total = np.float32(0)
    for c in range(len(weights)):
        total += x[c] * weights[c]
    return total + bias


@inner
def decide(x: Any, W: Any, b: Any, k: int, places: Any, upper: Any, count: int, found: Any, keys: Any) -> Any:
    """Write the pre-activations of latents, where they may be among the k largest, else −∞; return the k-th largest.

    First come the k or more with the highest upper bounds. Below the k-th of these no latent counts.
    """
    likely = kth_largest(upper, count, k, keys)
    for j in range(count):
        found[j] = pre_activation(x, W[places[j]], b[places[j]]) if upper[j] >= likely else -np.inf
    floor = kth_largest(found, count, k, keys)
    for j in range(count):
        if floor <= upper[j] < likely:
            found[j] = pre_activation(x, W[places[j]], b[places[j]])
    return kth_largest(found, count, k, keys)


@kernel
def keep_largest(
    product: Any, bounds: Any, low_b: Any, high_b: Any, groups: int, W: Any, b: Any, x: Any, values: Any, indices: Any
) -> None:
    """Every token's k largest pre-activations, strongest first, of equal ones the lower latent; NaN where there is one.

    ``low_b`` and ``high_b`` are the biases less, and more, what sums in float32 may lose beside them.
    """
    tokens, n = product.shape
    steps, reach, x_steps, lengths = bounds
    k = indices.shape[1]
    for chunk in prange((tokens + TOKENS_A_CHUNK - 1) // TOKENS_A_CHUNK):
        first = chunk * TOKENS_A_CHUNK
        largest, keys = np.empty(groups, np.float32), np.empty(n, np.int32)
        places, upper, found = np.empty(n, np.int32), np.empty(n, np.float32), np.empty(n, np.float32)
        for t in range(first, min(first + TOKENS_A_CHUNK, tokens)):
            row, scale, length = product[t], x_steps[t], lengths[t]
            floor = floor_of_largest(row, scale, length, steps, reach, low_b, k, largest)
            count = screen(row, scale, length, steps, reach, high_b, floor, places, upper)
            if count < k:  # NaN is at least nothing
                values[t] = np.nan
                indices[t] = np.arange(k)
                continue
            floor, kept = decide(x[t], W, b, k, places, upper, count, found, keys), 0
            for j in range(count):
                if found[j] >= floor:
                    found[kept], places[kept] = -found[j], places[j]
                    kept += 1
            order = np.argsort(found[:kept], kind="mergesort")
            for j in range(k):
                values[t, j] = -found[order[j]]
                indices[t, j] = places[order[j]]


@kernel
def keep_above(
    product: Any, bounds: Any, high_b: Any, W: Any, b: Any, x: Any, floors: Any, values: Any, indices: Any, counts: Any
) -> None:
    """Every token's pre-activations above their latents' floors, by latent: the first ``counts[t]`` of its row.

    ``high_b`` is the biases less the floors, and more by what sums in float32 may lose beside them.
    """
    steps, reach, x_steps, lengths = bounds
    for t in prange(len(product)):
        places, found, kept = indices[t], values[t], 0
        count = screen(product[t], x_steps[t], lengths[t], steps, reach, high_b, np.float32(0), places, found)
        for j in range(count):
            i = places[j]
            value = pre_activation(x[t], W[i], b[i])
            if value > floors[i]:
                places[kept], found[kept] = i, value
                kept += 1
        counts[t] = kept
