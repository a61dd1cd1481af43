"""Rows of the tables, from what was measured of a range of latents."""

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from monosem.viewer.latents import Examples, Range, Statistics
from monosem.viewer.logit_effects import Effects
from monosem.viewer.neighbours import Nearest
from monosem.viewer.schema import ACTIVATIONS, COUNTS, DECODER, FIRING, QUANTILES

Rows = Iterator[tuple[Any, ...]]


class Described(NamedTuple):
    """All that is known of a range of latents."""

    where: Range
    fired: Int64[np.ndarray, " latents"]
    statistics: Statistics
    examples: Examples
    encoder_cosines: Float64[np.ndarray, " latents"]
    """NaN where not defined."""
    decoder: Nearest
    firing: Nearest
    effects: Effects | None
    """None where there is no direct path to the logits."""


def write_latents(connection: sqlite3.Connection, described: Described, tokens: int) -> None:
    """Insert all rows of a range; ``tokens`` were indexed."""
    first = described.where.first
    insert(connection, "latents", _latents(described, tokens))
    insert(connection, "examples", _examples(described.examples))
    insert(connection, "fires_on", _fires_on(described))
    insert(connection, "neighbours", _neighbours(DECODER, described.decoder, first))
    insert(connection, "neighbours", _neighbours(FIRING, described.firing, first))
    if described.effects is not None:
        insert(connection, "logit_effects", _effects(described.effects, first))


def insert(connection: sqlite3.Connection, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
    """Insert whole rows, in the order of the table's columns."""
    columns = len(connection.execute(f"SELECT * FROM {table} LIMIT 0").description)
    connection.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * columns)})", rows)


def _latents(described: Described, tokens: int) -> Rows:
    found, where = described.statistics, described.where
    quantiles, histograms = (each.tobytes() for each in _little(found))
    totals = found.mean * described.fired
    columns = (
        described.fired.tolist(),
        found.mean.tolist(),
        found.largest.tolist(),
        _defined(described.encoder_cosines),
        _defined(np.where(described.decoder.others[:, 0] >= 0, described.decoder.similarities[:, 0], np.nan)),
        (found.sums[:, 0] / totals).tolist(),
    )
    sizes = [each.dtype.itemsize * each.shape[1] for each in _little(found)]
    for i, (fired, mean, largest, encoder, nearest, share) in enumerate(zip(*columns, strict=True)):
        alive: tuple[Any, ...] = (None, None, None, None)
        if fired:
            blobs = (data[i * size : (i + 1) * size] for data, size in zip((quantiles, histograms), sizes, strict=True))
            alive = (mean, largest, *blobs)
        yield (where.first + i, fired, fired / tokens, *alive, encoder, nearest, share if fired else None)


def _little(found: Statistics) -> tuple[np.ndarray, np.ndarray]:
    return found.quantiles.astype(QUANTILES), found.histogram.astype(COUNTS)


def _defined(numbers: Float64[np.ndarray, " latents"]) -> list[float | None]:
    return [None if number != number else number for number in numbers.tolist()]


def _examples(examples: Examples) -> Rows:
    data, size = examples.activations.tobytes(), ACTIVATIONS.itemsize
    ends = (size * examples.ends).tolist()
    columns = (each.tolist() for each in examples[:6])
    for begin, end, *row in zip(ends, ends[1:], *columns, strict=False):
        yield (*row, data[begin:end])


def _fires_on(described: Described) -> Rows:
    found = described.statistics
    totals = found.mean * described.fired
    columns = (each.tolist() for each in (found.tokens, found.counts, found.sums, totals))
    for latent, (tokens, counts, sums, total) in enumerate(zip(*columns, strict=True), start=described.where.first):
        for rank, (token, count, sum_) in enumerate(zip(tokens, counts, sums, strict=True)):
            if token >= 0:
                yield (latent, rank, token, count, sum_ / count, sum_ / total)


def _neighbours(kind: str, nearest: Nearest, first: int) -> Rows:
    columns = (each.tolist() for each in nearest)
    for latent, (others, similarities) in enumerate(zip(*columns, strict=True), start=first):
        for rank, (other, similarity) in enumerate(zip(others, similarities, strict=True)):
            if other >= 0:
                yield (latent, kind, rank, other, similarity)


def _effects(effects: Effects, first: int) -> Rows:
    columns = (each.tolist() for each in effects)
    for latent, (promoted, raised, suppressed, lowered) in enumerate(zip(*columns, strict=True), start=first):
        for rank, (token, effect) in enumerate(zip(suppressed, lowered, strict=True), start=1):
            yield (latent, -rank, token, effect)
        for rank, (token, effect) in enumerate(zip(promoted, raised, strict=True)):
            yield (latent, rank, token, effect)
