"""Searching a rounded product on the CPU: bounds say which latents may count, exact pre-activations decide.

The product is ``[tokens, places]``, of integers or float32. A place holds a latent or nothing, and latents whose rows
were rounded to about the same step form a group, for whose largest pre-activation there is one bound. A strip is
``GROUP`` lines of places; group g of a strip has the g-th place of each line, so that one instruction compares members
of many groups. A token's row of the product stays in the processor's nearest caches while it is searched.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from monosem.ops.compiled import inner, kernel
from monosem.ops.cpu_choose import kth_largest

GROUP = 16
# Groups in a strip at most: a strip should fit in the first cache, and its lines should be long.
WIDEST = 128
# Tokens for which memory is taken together.
TOKENS_A_CHUNK = 8


class Groups(NamedTuple):
    """What bounds pre-activations; float32 and of every group, unless said otherwise.

    With v = product · x's step + offset at a place, its latent's pre-activation is v times the latent's step, which is
    one of those from ``fine`` to ``coarse``, but for x's error · length + x's length · error + slack.
    """

    width: int
    """Groups in a strip, a multiple of 8."""
    latent_at: Any
    """``[places]``, int32: some latent where there is none."""
    offsets: Any
    """``[places]``: the biases in steps, NaN where there is no latent."""
    fine: Any
    coarse: Any
    lengths: Any
    errors: Any
    slack: Any


class Inputs(NamedTuple):
    """Of every token; float32."""

    steps: Any
    lengths: Any
    errors: Any


@inner
def find_margins(length: Any, error: Any, groups: Any, margins: Any) -> None:
    """How far pre-activations may lie from the rounded ones in every group."""
    lengths, errors, slack = groups.lengths, groups.errors, groups.slack
    for g in range(len(margins)):
        margins[g] = error * lengths[g] + length * errors[g] + slack[g]


@inner
def find_maxima(row: Any, x_step: Any, groups: Any, maxima: Any) -> None:
    """Every group's largest v."""
    maxima[:] = -np.inf
    width = groups.width
    for strip in range(len(maxima) // width):
        largest = maxima[strip * width : (strip + 1) * width]
        for line in range(strip * GROUP, (strip + 1) * GROUP):
            here = slice(line * width, (line + 1) * width)
            products, offsets = row[here], groups.offsets[here]
            for g in range(width):
                v = np.float32(products[g]) * x_step + offsets[g]
                largest[g] = v if v > largest[g] else largest[g]


@inner
def find_floor(maxima: Any, margins: Any, groups: Any, k: int, lower: Any, keys: Any) -> Any:
    """What the k-th largest pre-activation is not below: k groups have a latent that is not."""
    if len(maxima) < k:
        return np.float32(-np.inf)
    fine, coarse = groups.fine, groups.coarse
    for g in range(len(maxima)):
        lower[g] = maxima[g] * (fine[g] if maxima[g] > 0 else coarse[g]) - margins[g]
    return kth_largest(lower, len(maxima), k, keys)


@inner
def screen(
    row: Any, x_step: Any, groups: Any, margins: Any, maxima: Any, floor: Any, hits: Any, found: Any, upper: Any
) -> Any:
    """Write the latents whose upper bounds are not below a floor, and these bounds; return how many they are."""
    fine, coarse, offsets, width = groups.fine, groups.coarse, groups.offsets, groups.width
    for g in range(len(maxima)):
        hits[g] = np.uint8(maxima[g] * (coarse[g] if maxima[g] > 0 else fine[g]) + margins[g] >= floor)
    count, eights = 0, hits.view(np.uint64)
    for eight in range(len(eights)):
        if eights[eight] == 0:
            continue
        for g in range(8 * eight, 8 * eight + 8):
            if hits[g] == 0:
                continue
            first, place, least = count, g // width * width * GROUP + g % width, floor - margins[g]
            least /= coarse[g] if least > 0 else fine[g]
            for _ in range(GROUP):
                v = np.float32(row[place]) * x_step + offsets[place]
                found[count], upper[count] = place, v
                count += np.int64(v >= least)
                place += width
            for j in range(first, count):
                v = upper[j]
                found[j], upper[j] = groups.latent_at[found[j]], v * (coarse[g] if v > 0 else fine[g]) + margins[g]
    return count


@inner
def pre_activation(x: Any, weights: Any, bias: Any) -> Any:
    total = np.float32(0)
    for c in range(len(weights)):
        total += x[c] * weights[c]
    return total + bias


@inner
def bring_forward(latents: Any, upper: Any, first: int, count: int, floor: Any) -> Any:
    """From ``first`` on, bring the latents whose bounds are not below a floor before the others; return their end."""
    end = first
    for j in range(first, count):
        if upper[j] >= floor:
            latents[end], latents[j] = latents[j], latents[end]
            upper[end], upper[j] = upper[j], upper[end]
            end += 1
    return end


@inner
def decide(x: Any, W: Any, b: Any, k: int, latents: Any, upper: Any, count: int, values: Any, keys: Any) -> Any:
    """Write the pre-activations of all latents that may be among the k largest, these first; return how many they are.

    First come the k or more with the highest upper bounds. Below the k-th of these no latent counts.
    """
    first = bring_forward(latents, upper, 0, count, kth_largest(upper, count, k, keys))
    for j in range(first):
        values[j] = pre_activation(x, W[latents[j]], b[latents[j]])
    end = bring_forward(latents, upper, first, count, kth_largest(values, first, k, keys))
    for j in range(first, end):
        values[j] = pre_activation(x, W[latents[j]], b[latents[j]])
    return end


@inner
def write_largest(
    values: Any, latents: Any, count: int, floor: Any, order: Any, to_values: Any, to_indices: Any
) -> None:
    """Write those not below a floor, strongest first, of equal ones the lower latent, as many as there is room for.

    Sorted as whole numbers: above the bits of a value, turned so that they fall as it grows, below the latent.
    """
    bits, kept = values.view(np.int32), 0
    for j in range(count):
        if values[j] >= floor:
            order[kept] = (np.int64(~(bits[j] ^ ((bits[j] >> 31) & 0x7FFFFFFF))) << 32) | np.int64(latents[j])
            kept += 1
    order[:kept].sort()
    to_bits = to_values.view(np.int32)
    for j in range(len(to_indices)):
        key = np.int32(~(order[j] >> 32))
        to_bits[j] = key ^ ((key >> 31) & 0x7FFFFFFF)
        to_indices[j] = np.int32(order[j] & 0x7FFFFFFF)


@kernel
def keep_largest(product: Any, inputs: Any, groups: Any, W: Any, b: Any, x: Any, values: Any, indices: Any) -> None:
    """Every token's k largest pre-activations, strongest first, of equal ones the lower latent; else NaN."""
    (tokens, places), n_groups, k = product.shape, len(groups.slack), indices.shape[1]
    for chunk in prange((tokens + TOKENS_A_CHUNK - 1) // TOKENS_A_CHUNK):
        of_groups = np.empty((3, n_groups), np.float32)
        maxima, margins, lower = of_groups[0], of_groups[1], of_groups[2]
        hits, keys, order = np.empty(n_groups, np.uint8), np.empty(places, np.int32), np.empty(places, np.int64)
        found, upper, exact = np.empty(places, np.int32), np.empty(places, np.float32), np.empty(places, np.float32)
        for t in range(chunk * TOKENS_A_CHUNK, min((chunk + 1) * TOKENS_A_CHUNK, tokens)):
            row, x_step, count = product[t], inputs.steps[t], 0
            if inputs.lengths[t] < np.inf:
                find_margins(inputs.lengths[t], inputs.errors[t], groups, margins)
                find_maxima(row, x_step, groups, maxima)
                floor = find_floor(maxima, margins, groups, k, lower, keys)
                count = screen(row, x_step, groups, margins, maxima, floor, hits, found, upper)
            if count < k:
                values[t] = np.nan
                indices[t] = np.arange(k)
                continue
            count = decide(x[t], W, b, k, found, upper, count, exact, keys)
            write_largest(exact, found, count, kth_largest(exact, count, k, keys), order, values[t], indices[t])


@kernel
def keep_above(
    product: Any, inputs: Any, groups: Any, W: Any, b: Any, x: Any, floors: Any, values: Any, indices: Any, counts: Any
) -> None:
    """Every token's pre-activations above their latents' floors, by latent: the first ``counts[t]`` of its row.

    The offsets are the biases less the floors.
    """
    places, n_groups = product.shape[1], len(groups.slack)
    for t in prange(len(product)):
        of_groups, hits = np.empty((2, n_groups), np.float32), np.empty(n_groups, np.uint8)
        maxima, margins = of_groups[0], of_groups[1]
        found, upper, order = np.empty(places, np.int32), np.empty(places, np.float32), np.empty(places, np.int64)
        row, x_step, count, kept = product[t], inputs.steps[t], 0, 0
        if inputs.lengths[t] < np.inf:
            find_margins(inputs.lengths[t], inputs.errors[t], groups, margins)
            find_maxima(row, x_step, groups, maxima)
            count = screen(row, x_step, groups, margins, maxima, np.float32(0), hits, found, upper)
        for j in range(count):
            i = found[j]
            value = pre_activation(x[t], W[i], b[i])
            if value > floors[i]:
                order[kept], values[t, i] = i, value
                kept += 1
        order[:kept].sort()
        for j in range(kept):
            i = order[j]
            values[t, j], indices[t, j] = values[t, i], i
        counts[t] = kept
