"""What the index says of single latents, from their activations: numba kernels, a latent at a time.

The activations of a range of latents come latent by latent: those of the range's i-th are at ``starts[i]`` to
``starts[i + 1]``, each with its row (an indexed token, by number) and its value. ``keys`` holds the same activations in
the order of strength: in its upper half what falls as the value rises, in its lower half the activation's number within
the latent.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import prange

from monosem.ops.compiled import inner, kernel
from monosem.viewer.schema import BANDS

# Latents are dealt out in turn to so many chunks, each with scratch memory of its own.
CHUNKS = 64
# Rows whose places are looked up before any is read. Each look-up waits for memory; side by side they wait together,
# which takes a third off the time: 0.68 s instead of 0.96 s for 2 M rows of 32 latents, n = 16384, one core.
TOGETHER = 64
_PERCENT = np.array([round(100 * share) for share in BANDS], np.int64)
_LOW_HALF = np.uint64(0xFFFFFFFF)


@inner
def select(
    offsets: Any, latents: Any, values: Any, first: int, last: int, ends: Any, out_rows: Any, out_values: Any
) -> None:
    """Write the activations of latents ``first … last - 1``; ``ends`` says where each latent's begin, and moves on."""
    for row in range(len(offsets) - 1):
        for j in range(offsets[row], offsets[row + 1]):
            latent = latents[j]
            if first <= latent < last:
                place = ends[latent - first]
                out_rows[place] = row
                out_values[place] = values[j]
                ends[latent - first] = place + 1


@kernel
def describe(
    starts: Any,
    rows: Any,
    values: Any,
    tokens: Any,
    vocabulary: int,
    mean: Any,
    largest: Any,
    histogram: Any,
    fires_on: Any,
    counts: Any,
    sums: Any,
) -> None:
    """Means, maxima, histograms, and the tokens with the largest summed activation; −1 where there are no more."""
    n, bins, shown = len(starts) - 1, histogram.shape[1], fires_on.shape[1]
    for chunk in prange(CHUNKS):
        of_token, count_of = np.zeros(vocabulary), np.zeros(vocabulary, np.int64)
        met = np.empty(vocabulary, np.int64)
        for latent in range(chunk, n, CHUNKS):
            total, most, found = 0.0, np.float32(0), 0
            for j in range(starts[latent], starts[latent + 1]):
                value, token = values[j], tokens[rows[j]]
                total += value
                most = max(most, value)
                if count_of[token] == 0:
                    met[found] = token
                    found += 1
                of_token[token] += value
                count_of[token] += 1
            largest[latent], mean[latent] = most, total / (starts[latent + 1] - starts[latent])
            for j in range(starts[latent], starts[latent + 1]):
                place = np.int64(np.float64(values[j]) * bins / np.float64(most))
                histogram[latent, min(place, bins - 1)] += 1
            fires_on[latent] = -1
            for i in range(found):
                token = met[i]
                insert(fires_on[latent], sums[latent], token, of_token[token])
            for rank in range(shown):
                if fires_on[latent, rank] >= 0:
                    counts[latent, rank] = count_of[fires_on[latent, rank]]
            for i in range(found):
                of_token[met[i]], count_of[met[i]] = 0.0, 0


@inner
def insert(numbers: Any, scores: Any, number: int, score: float) -> None:
    """Put a number among the best so far, if it is one: by score, of equal ones the lower; −1 is none."""
    place = len(numbers)
    while place > 0:
        other = numbers[place - 1]
        if other >= 0 and (scores[place - 1] > score or (scores[place - 1] == score and other < number)):
            break
        place -= 1
    if place == len(numbers):
        return
    for i in range(len(numbers) - 1, place, -1):
        numbers[i], scores[i] = numbers[i - 1], scores[i - 1]
    numbers[place], scores[place] = number, score


@kernel
def fill_keys(starts: Any, bits: Any, keys: Any) -> None:
    """Numbers that, once sorted, order each latent's activations by strength, and of equal ones the earlier first.

    ``bits`` are the values' own, as integers; of positive numbers these have the order of the values.
    """
    for i in prange(len(starts) - 1):
        for j in range(starts[i], starts[i + 1]):
            keys[j] = ((_LOW_HALF - np.uint64(bits[j])) << np.uint64(32)) | np.uint64(j - starts[i])


@kernel
def fill_draws(starts: Any, keys: Any, rows: Any, places: Any, latent: int, seed: int, draws: Any) -> None:
    """Numbers that, once sorted, give each latent's activations, by place in the order of strength, at random.

    In the upper half a hash of the seed, the latent and the place in the text (SplitMix64: Steele et al. 2014), so that
    it does not matter which latents come together. ``latent`` is the range's first.
    """
    for i in prange(len(starts) - 1):
        state = mixed(np.uint64(seed), np.uint64(latent + i))
        for j in range(starts[i], starts[i + 1]):
            row = rows[starts[i] + np.int64(keys[j] & _LOW_HALF)]
            draws[j] = (mixed(state, np.uint64(places[row])) & ~_LOW_HALF) | np.uint64(j - starts[i])


@inner
def mixed(state: Any, number: Any) -> Any:
    state = (state ^ number) + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@inner
def quantile_place(count: int, percent: int) -> int:
    """In the order of strength, the place of the least of so many values that this percentage does not exceed."""
    return count - max((percent * count + 99) // 100, 1)


@kernel
def find_quantiles(starts: Any, keys: Any, bits: Any) -> None:
    """For each latent that fires the quantiles of its activations, as the bits of the values."""
    for i in prange(len(starts) - 1):
        count = starts[i + 1] - starts[i]
        if count > 0:
            for band in range(len(_PERCENT)):
                key = keys[starts[i] + quantile_place(count, _PERCENT[band])]
                bits[i, band] = _LOW_HALF - (key >> np.uint64(32))


class Text(NamedTuple):
    """Where activations stand, and in what context."""

    rows: Any
    """Of each activation of the range of latents."""
    places: Any
    """Of each row, among all of the blocks' tokens."""
    contexts: Any
    """Of each row."""
    length: int
    """Of a block."""


@kernel
def choose_examples(starts: Any, keys: Any, draws: Any, text: Text, n_blocks: int, per_band: int, chosen: Any) -> None:
    """Choose each latent's examples, by number within the latent; −1 where there are no more.

    ``chosen`` has the strongest in front, then ``per_band`` of each band, the strongest first. Of equal contexts the
    stronger stays.
    """
    n, bands = len(starts) - 1, len(_PERCENT) - 1
    top = chosen.shape[1] - bands * per_band
    for chunk in prange(CHUNKS):
        block_seen = np.full(n_blocks, -1, np.int64)
        for i in range(chunk, n, CHUNKS):
            first, mine = starts[i], chosen[i]
            mine[:] = -1
            found = 0
            for j in range(starts[i], starts[i + 1]):
                number = np.int64(keys[j] & _LOW_HALF)
                block = text.places[text.rows[first + number]] // text.length
                if block_seen[block] != i:
                    block_seen[block] = i
                    if not is_met(mine[:found], first, number, text):
                        mine[found] = number
                        found += 1
                        if found == top:
                            break
            for band in range(bands):
                ends = band_ends(keys[first : starts[i + 1]], band)
                here = top + band * per_band
                fill_band(first, starts[i + 1], ends, keys, draws, text, mine[: here + per_band], per_band)


@inner
def band_ends(keys: Any, band: int) -> Any:
    """The places, in the order of strength, of the strongest and of the weakest activation between two quantiles."""
    count = len(keys)
    if count == 0:
        return 0, -1
    strongest, weakest = quantile_place(count, _PERCENT[band + 1]), quantile_place(count, _PERCENT[band])
    while strongest > 0 and keys[strongest - 1] >> np.uint64(32) == keys[strongest] >> np.uint64(32):
        strongest -= 1
    while weakest < count - 1 and keys[weakest + 1] >> np.uint64(32) == keys[weakest] >> np.uint64(32):
        weakest += 1
    return strongest, weakest


@inner
def fill_band(first: int, last: int, ends: Any, keys: Any, draws: Any, text: Text, mine: Any, per_band: int) -> None:
    """Draw a band's examples, the last of ``mine``: first such as none before shows; if these are too few, others."""
    here, found = len(mine) - per_band, 0
    drawn = np.empty(per_band, np.int64)
    for begin in (0, here):
        for j in range(first, last):
            if found == per_band:
                break
            place = np.int64(draws[j] & _LOW_HALF)
            if ends[0] <= place <= ends[1]:
                number = np.int64(keys[first + place] & _LOW_HALF)
                if not is_met(mine[begin : here + found], first, number, text):
                    mine[here + found] = number
                    drawn[found] = place
                    found += 1
    by_strength = np.argsort(drawn[:found])
    numbers = mine[here : here + found].copy()
    for rank in range(found):
        mine[here + rank] = numbers[by_strength[rank]]


@inner
def is_met(chosen: Any, first: int, number: int, text: Text) -> bool:
    """Whether one of a latent's examples has the context of an activation, or lies in its block."""
    row = text.rows[first + number]
    block = text.places[row] // text.length
    for other in chosen:
        if other >= 0:
            its = text.rows[first + other]
            if text.contexts[its] == text.contexts[row] or text.places[its] // text.length == block:
                return True
    return False


@kernel
def find_spans(
    starts: Any, rows: Any, places: Any, length: int, latents: Any, numbers: Any, begins: Any, ends: Any
) -> None:
    """For each example, an activation of a latent by number, where the latent's activations in its block lie."""
    for e in prange(len(numbers)):
        first, stop = starts[latents[e]], starts[latents[e] + 1]
        begin = first + numbers[e]
        block = places[rows[begin]] // length
        end = begin + 1
        while begin > first and places[rows[begin - 1]] // length == block:
            begin -= 1
        while end < stop and places[rows[end]] // length == block:
            end += 1
        begins[e], ends[e] = begin, end


@kernel
def find_partners(
    starts: Any, rows: Any, offsets: Any, latents: Any, fired: Any, latent: int, others: Any, similarities: Any
) -> None:
    """For each latent of a range those that fire most with it: tokens with both / √(tokens with one × with the other).

    Args:
        offsets, latents: all codes, row by row.
        fired: tokens with each latent.
        latent: the range's first.
        others: gets the nearest first, −1 where there are no more; of equally near ones the lower first.
    """
    for chunk in prange(CHUNKS):
        both = np.zeros(len(fired), np.uint32)
        begins, ends = np.empty(TOGETHER, np.int64), np.empty(TOGETHER, np.int64)
        for i in range(chunk, len(starts) - 1, CHUNKS):
            for j in range(starts[i], starts[i + 1], TOGETHER):
                here = min(TOGETHER, starts[i + 1] - j)
                for t in range(here):
                    begins[t], ends[t] = offsets[rows[j + t]], offsets[rows[j + t] + 1]
                for t in range(here):
                    for place in range(begins[t], ends[t]):
                        both[latents[place]] += np.uint32(1)
            both[latent + i] = 0
            others[i] = -1
            mine = np.float64(fired[latent + i])
            for other in range(len(fired)):
                if both[other] != 0:
                    similarity = both[other] / np.sqrt(mine * np.float64(fired[other]))
                    insert(others[i], similarities[i], other, similarity)
                    both[other] = 0
