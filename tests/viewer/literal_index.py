"""What the index says, written out as plain loops over plain numbers."""

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from monosem.randomness import derive_seed
from monosem.viewer.codes import StoredCodes
from monosem.viewer.config import IndexConfig

BANDS = (Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(19, 20), Fraction(1))
MASK = (1 << 64) - 1


class Activation(NamedTuple):
    """Of a latent at a token."""

    place: int
    """Among all of the blocks' tokens."""
    token: int
    context: int
    value: float


def activations(codes: StoredCodes, n_latents: int) -> list[list[Activation]]:
    """Each latent's, in the order of the text."""
    found: list[list[Activation]] = [[] for _ in range(n_latents)]
    for row in range(len(codes.places)):
        for j in range(codes.offsets[row], codes.offsets[row + 1]):
            place, token, context = (int(each[row]) for each in (codes.places, codes.tokens, codes.contexts))
            found[codes.latents[j]].append(Activation(place, token, context, float(codes.values[j])))
    return found


def quantile(values: Sequence[float], share: Fraction) -> float:
    """The least value that at least this share of all does not exceed."""
    return next(v for v in sorted(values) if Fraction(sum(w <= v for w in values), len(values)) >= share)


def histogram(values: Sequence[float], bins: int) -> list[int]:
    counts = [0] * bins
    for value in values:
        counts[min(bins - 1, math.floor(value * bins / max(values)))] += 1
    return counts


def fires_on(mine: Sequence[Activation], shown: int) -> list[tuple[int, int, float]]:
    """Token, how often, and the summed activation; the largest sum first."""
    by_token: dict[int, list[float]] = {}
    for each in mine:
        by_token.setdefault(each.token, []).append(each.value)
    ranked = sorted(by_token.items(), key=lambda item: (-math.fsum(item[1]), item[0]))
    return [(token, len(values), math.fsum(values)) for token, values in ranked[:shown]]


def top_examples(mine: Sequence[Activation], length: int, count: int) -> list[Activation]:
    blocks: dict[int, Activation] = {}
    for each in mine:
        block = each.place // length
        if block not in blocks or each.value > blocks[block].value:
            blocks[block] = each
    chosen: list[Activation] = []
    for each in sorted(blocks.values(), key=lambda each: (-each.value, each.place)):
        if len(chosen) < count and all(each.context != other.context for other in chosen):
            chosen.append(each)
    return chosen


def splitmix(state: int, number: int) -> int:
    state = ((state ^ number) + 0x9E3779B97F4A7C15) & MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def band_examples(
    mine: Sequence[Activation], top: Sequence[Activation], latent: int, length: int, count: int, seed: int
) -> list[list[Activation]]:
    shown = list(top)
    strongest_first = sorted(mine, key=lambda each: (-each.value, each.place))
    state = splitmix(derive_seed(seed, "viewer", "examples"), latent)
    drawn = sorted(range(len(mine)), key=lambda i: (splitmix(state, strongest_first[i].place) >> 32, i))
    values = [each.value for each in mine]
    bands: list[list[Activation]] = []
    for low, high in itertools.pairwise(BANDS):
        between = quantile(values, low), quantile(values, high)
        inside = [strongest_first[i] for i in drawn if between[0] <= strongest_first[i].value <= between[1]]
        chosen: list[Activation] = []
        for met in (shown + chosen, []):
            for each in inside:
                if len(chosen) < count and not any(alike(each, other, length) for other in [*met, *chosen]):
                    chosen.append(each)
        chosen.sort(key=lambda each: (-each.value, each.place))
        bands.append(chosen)
        shown += chosen
    return bands


def alike(one: Activation, other: Activation, length: int) -> bool:
    return one.context == other.context or one.place // length == other.place // length


def examples(
    mine: Sequence[Activation], latent: int, config: IndexConfig, length: int, seed: int
) -> list[tuple[Any, ...]]:
    """Rows of the table: latent, band, rank, block, position, value, and all activations in the block."""
    top = top_examples(mine, length, config.examples_top)
    bands = band_examples(mine, top, latent, length, config.examples_band, seed) if mine else []
    rows: list[tuple[Any, ...]] = []
    for band, chosen in enumerate([top, *bands], start=-1):
        for rank, peak in enumerate(chosen):
            block = peak.place // length
            inside = [(each.place % length, each.value) for each in mine if each.place // length == block]
            rows.append((latent, band, rank, block, peak.place % length, peak.value, inside))
    return rows


def firing_neighbours(found: Sequence[Sequence[Activation]], latent: int, count: int) -> list[tuple[int, float]]:
    """Latent and similarity, the nearest first."""
    places = [{each.place for each in mine} for mine in found]
    near: list[tuple[int, float]] = []
    for other, theirs in enumerate(places):
        both = len(places[latent] & theirs)
        if other != latent and both:
            near.append((other, both / math.sqrt(len(places[latent]) * len(theirs))))
    return sorted(near, key=lambda pair: (-pair[1], pair[0]))[:count]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return product / math.sqrt(math.fsum(x * x for x in a) * math.fsum(y * y for y in b))


def random_codes(
    seed: int, *, n_latents: int = 13, blocks: int = 40, length: int = 9, contexts: int = 30, levels: int = 0
) -> StoredCodes:
    """Codes of made-up tokens, with latents of very different density, the first of which never fires.

    Args:
        contexts: how many there are; few of them make duplicates.
        levels: how many different activations there are; 0 for no limit.
    """
    generator = np.random.default_rng(seed)
    places = np.flatnonzero(generator.random(blocks * length) < 0.9)
    density = np.concatenate([[0.0], generator.random(n_latents - 1) ** 4])
    fires = generator.random((len(places), n_latents)) < density
    rows, latents = np.nonzero(fires)
    values = generator.random(len(rows)) + 1e-3
    if levels:
        values = np.ceil(values * levels) / levels
    return StoredCodes(
        offsets=np.concatenate([[0], np.cumsum(fires.sum(axis=1))]).astype(np.int64),
        places=places.astype(np.uint32),
        tokens=generator.integers(0, 7, len(places)).astype(np.uint32),
        contexts=generator.integers(0, contexts, len(places)).astype(np.uint64),
        latents=latents.astype(np.uint32),
        values=values.astype(np.float32),
    )
