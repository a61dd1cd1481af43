"""What the index says of single latents, a range of them at a time, so that what is held at once is bounded."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt32, UInt64

from monosem.randomness import derive_seed
from monosem.viewer.codes import StoredCodes
from monosem.viewer.config import IndexConfig
from monosem.viewer.schema import ACTIVATIONS, BANDS, HISTOGRAM_BINS

# A range has no more latents than this, and no more activations if it has more than one latent: 24 bytes each.
MOST_LATENTS, MOST_RECORDS = 1 << 14, 1 << 23


class Range(NamedTuple):
    """Latents ``first … last - 1``."""

    first: int
    last: int


def plan_ranges(fired: Int64[np.ndarray, " n_latents"], start: int = 0) -> Iterator[Range]:
    """The ranges that the latents from ``start`` on fall into."""
    while start < len(fired):
        records = np.cumsum(fired[start : start + MOST_LATENTS])
        stop = start + max(1, int(np.searchsorted(records, MOST_RECORDS, side="right")))
        yield Range(start, stop)
        start = stop


class Firings(NamedTuple):
    """The activations of a range of latents: those of its i-th are ``starts[i] : starts[i + 1]``, token by token."""

    first: int
    """The range's first latent."""
    starts: Int64[np.ndarray, " latents_and_one"]
    rows: UInt32[np.ndarray, " records"]
    """The indexed token."""
    values: Float[np.ndarray, " records"]

    @property
    def counts(self) -> Int64[np.ndarray, " latents"]:
        return np.diff(self.starts)


def read_firings(codes: StoredCodes, fired: Int64[np.ndarray, " n_latents"], where: Range) -> Firings:
    """Look through all codes for those of a range."""
    from monosem.viewer.latent_kernels import select

    starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(fired[where.first : where.last])])
    rows, values = np.empty(starts[-1], np.uint32), np.empty(starts[-1], np.float32)
    select(codes.offsets, codes.latents, codes.values, where.first, where.last, starts[:-1].copy(), rows, values)
    return Firings(where.first, starts, rows, values)


class Statistics(NamedTuple):
    """Of each latent of a range; what is not defined for one that never fires is any number."""

    mean: Float64[np.ndarray, " latents"]
    """Of its positive activations, and so on."""
    largest: Float[np.ndarray, " latents"]
    quantiles: Float[np.ndarray, "latents bands"]
    """At BANDS: the least activation that at least such a share of them does not exceed."""
    histogram: UInt32[np.ndarray, "latents bins"]
    """Bin b holds b ≤ 32 · activation / largest < b + 1, the last one the largest too."""
    tokens: Int64[np.ndarray, "latents shown"]
    """Of the vocabulary, by summed activation, of equal ones the lower first; −1 where there are no more."""
    counts: Int64[np.ndarray, "latents shown"]
    sums: Float64[np.ndarray, "latents shown"]


def measure(
    firings: Firings, keys: UInt64[np.ndarray, " records"], codes: StoredCodes, vocabulary: int, shown: int
) -> Statistics:
    """The statistics of a range; ``keys`` are those of ``order``."""
    from monosem.viewer.latent_kernels import describe, find_quantiles

    n = len(firings.counts)
    found = Statistics(
        mean=np.empty(n),
        largest=np.empty(n, np.float32),
        quantiles=np.zeros((n, len(BANDS)), np.float32),
        histogram=np.zeros((n, HISTOGRAM_BINS), np.uint32),
        tokens=np.empty((n, shown), np.int64),
        counts=np.zeros((n, shown), np.int64),
        sums=np.zeros((n, shown)),
    )
    describe(
        firings.starts,
        firings.rows,
        firings.values,
        codes.tokens,
        vocabulary,
        found.mean,
        found.largest,
        found.histogram,
        found.tokens,
        found.counts,
        found.sums,
    )
    find_quantiles(firings.starts, keys, found.quantiles.view(np.uint32))
    return found


def order(firings: Firings) -> UInt64[np.ndarray, " records"]:
    """Each latent's activations, the strongest first, of equal ones the earlier: see latent_kernels."""
    from monosem.viewer.latent_kernels import fill_keys

    keys = np.empty(len(firings.rows), np.uint64)
    fill_keys(firings.starts, firings.values.view(np.uint32), keys)
    return _sorted_each(keys, firings.starts)


def _sorted_each(keys: UInt64[np.ndarray, " records"], starts: Int64[np.ndarray, " latents_and_one"]) -> Any:
    """Sort each latent's keys in place, the latents dealt out to as many threads as torch has."""
    spans = list(itertools.pairwise(starts.tolist()))
    threads = torch.get_num_threads()

    def sort(first: int) -> None:
        for start, stop in spans[first::threads]:
            if stop - start > 1:
                keys[start:stop].sort()

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(sort, range(threads)))
    return keys


class Examples(NamedTuple):
    """The examples of a range's latents, in the order of latent, band and rank."""

    latents: Int64[np.ndarray, " examples"]
    bands: Int64[np.ndarray, " examples"]
    ranks: Int64[np.ndarray, " examples"]
    blocks: Int64[np.ndarray, " examples"]
    positions: Int64[np.ndarray, " examples"]
    values: Float[np.ndarray, " examples"]
    ends: Int64[np.ndarray, " examples_and_one"]
    """Where each example's activations end, and the next one's begin."""
    activations: Any
    """ACTIVATIONS of all of them."""


def choose(
    firings: Firings,
    keys: UInt64[np.ndarray, " records"],
    codes: StoredCodes,
    config: IndexConfig,
    *,
    length: int,
    n_blocks: int,
    seed: int,
) -> Examples:
    """Choose the examples of a range's latents, and gather what each shows.

    The strongest: of every block in which the latent fires its strongest activation there, the strongest first; of
    those with the same context (codes.context_hashes) only the first. Of a band, the activations between two of the
    quantiles, both included, some drawn at random, no two of a block or a context; such as stand in a block or a
    context shown already, among the strongest or by a lower band, come only where there are too few others.

    Args:
        length: of a block, BOS included.
    """
    from monosem.viewer.latent_kernels import Text, choose_examples, fill_draws

    draws = np.empty(len(keys), np.uint64)
    drawn_by = derive_seed(seed, "viewer", "examples")
    fill_draws(firings.starts, keys, firings.rows, codes.places, firings.first, drawn_by, draws)
    draws = _sorted_each(draws, firings.starts)
    bands = len(BANDS) - 1
    chosen = np.empty((len(firings.counts), config.examples_top + bands * config.examples_band), np.int64)
    text = Text(firings.rows, codes.places, codes.contexts, length)
    choose_examples(firings.starts, keys, draws, text, n_blocks, config.examples_band, chosen)
    return _gather(firings, codes, chosen, config, length)


def _gather(
    firings: Firings, codes: StoredCodes, chosen: Int64[np.ndarray, "latents slots"], config: IndexConfig, length: int
) -> Examples:
    """What the chosen examples show."""
    from monosem.viewer.latent_kernels import find_spans

    latents, slots = np.nonzero(chosen >= 0)
    numbers = chosen[latents, slots]
    begins, stops = np.empty(len(numbers), np.int64), np.empty(len(numbers), np.int64)
    find_spans(firings.starts, firings.rows, codes.places, length, latents, numbers, begins, stops)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(stops - begins)])
    inside = np.arange(ends[-1]) + np.repeat(begins - ends[:-1], stops - begins)
    activations = np.empty(ends[-1], ACTIVATIONS)
    activations["position"] = codes.places[firings.rows[inside]] % length
    activations["value"] = firings.values[inside]
    peaks = firings.starts[latents] + numbers
    places = codes.places[firings.rows[peaks]].astype(np.int64)
    in_bands = slots - config.examples_top
    return Examples(
        latents=firings.first + latents,
        bands=np.where(in_bands < 0, -1, in_bands // config.examples_band),
        ranks=np.where(in_bands < 0, slots, in_bands % config.examples_band),
        blocks=places // length,
        positions=places % length,
        values=firings.values[peaks],
        ends=ends,
        activations=activations,
    )
