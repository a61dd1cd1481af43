"""What is said of single latents: against plain loops, on codes with ties, duplicates and latents that never fire."""

import math
from fractions import Fraction
from typing import Any

import literal_index as literal
import numpy as np
import pytest

from monosem.viewer import latents
from monosem.viewer.codes import StoredCodes, count_fired
from monosem.viewer.config import IndexConfig
from monosem.viewer.latents import Examples, Range, Statistics, choose, measure, order, plan_ranges, read_firings
from monosem.viewer.schema import BANDS, HISTOGRAM_BINS

N_LATENTS, LENGTH, BLOCKS, VOCABULARY, SEED = 13, 9, 40, 7, 5
CONFIG = IndexConfig(examples_top=6, examples_band=3, tokens_per_latent=4)
CODES = {
    "any": literal.random_codes(0),
    "ties": literal.random_codes(1, levels=3),
    "all alike": literal.random_codes(2, levels=1, contexts=1),
    "few contexts": literal.random_codes(3, contexts=4, levels=20),
    "few tokens": literal.random_codes(4, blocks=3),
}


@pytest.fixture(params=CODES.values(), ids=CODES)
def codes(request: pytest.FixtureRequest) -> StoredCodes:
    return request.param


def described(codes: StoredCodes, where: Range, config: IndexConfig = CONFIG) -> tuple[Statistics, Examples]:
    firings = read_firings(codes, count_fired(codes, N_LATENTS), where)
    keys = order(firings)
    found = choose(firings, keys, codes, config, length=LENGTH, n_blocks=BLOCKS, seed=SEED)
    return measure(firings, keys, codes, VOCABULARY, config.tokens_per_latent), found


def rows_of(found: Examples) -> list[tuple[Any, ...]]:
    """Rows with their activations as plain pairs."""
    inside = [found.activations[a:b].tolist() for a, b in zip(found.ends, found.ends[1:], strict=False)]
    columns = (each.tolist() for each in found[:6])
    return list(zip(*columns, inside, strict=True))


def test_every_number_is_that_of_the_plain_loop(codes: StoredCodes) -> None:
    expected = literal.activations(codes, N_LATENTS)
    found, _ = described(codes, Range(0, N_LATENTS))
    assert count_fired(codes, N_LATENTS).tolist() == [len(mine) for mine in expected]
    assert not expected[0] and (found.tokens[0] == -1).all() and found.histogram[0].sum() == 0
    for latent, mine in enumerate(expected[1:], start=1):
        values = [each.value for each in mine]
        if not values:
            continue
        assert found.mean[latent] == pytest.approx(math.fsum(values) / len(values), rel=1e-12)
        assert found.largest[latent] == max(values)
        assert found.quantiles[latent].tolist() == [literal.quantile(values, share) for share in literal.BANDS]
        assert found.histogram[latent].tolist() == literal.histogram(values, HISTOGRAM_BINS)
        shown = literal.fires_on(mine, CONFIG.tokens_per_latent)
        assert found.tokens[latent].tolist() == [token for token, _, _ in shown] + [-1] * (4 - len(shown))
        assert found.counts[latent].tolist()[: len(shown)] == [count for _, count, _ in shown]
        assert found.sums[latent].tolist()[: len(shown)] == pytest.approx([sum_ for *_, sum_ in shown], rel=1e-12)


def test_quantiles_are_numpys_inverted_cdf() -> None:
    assert [float(share) for share in literal.BANDS] == list(BANDS)
    codes = CODES["any"]
    found, _ = described(codes, Range(0, N_LATENTS))
    for latent, mine in enumerate(literal.activations(codes, N_LATENTS)):
        if mine:
            values = [each.value for each in mine]
            expected = np.quantile(values, [0, 0.25, 0.5, 0.75, 1], method="inverted_cdf")  # 0.95 n is rounded there
            assert found.quantiles[latent][[0, 1, 2, 3, 5]].tolist() == expected.tolist()


def test_the_quantile_of_a_share_is_exact_where_floating_point_is_not() -> None:
    """19/20 of 20, 40, … are whole numbers."""
    for count in (1, 19, 20, 21, 40, 60, 100, 140, 180):
        codes = one_latent(np.arange(1, count + 1))
        found = measure(*_parts(codes), codes, VOCABULARY, 1)
        assert found.quantiles[0, 4] == math.ceil(Fraction(19, 20) * count)


def one_latent(values: np.ndarray, contexts: np.ndarray | None = None, places: np.ndarray | None = None) -> StoredCodes:
    """A latent that fires on every token."""
    count = len(values)
    return StoredCodes(
        offsets=np.arange(count + 1),
        places=(np.arange(count) if places is None else places).astype(np.uint32),
        tokens=np.zeros(count, np.uint32),
        contexts=(np.arange(count) if contexts is None else contexts).astype(np.uint64),
        latents=np.zeros(count, np.uint32),
        values=values.astype(np.float32),
    )


def _parts(codes: StoredCodes) -> Any:
    firings = read_firings(codes, count_fired(codes, 1), Range(0, 1))
    return firings, order(firings)


def test_the_examples_are_those_of_the_plain_loop(codes: StoredCodes) -> None:
    expected = literal.activations(codes, N_LATENTS)
    _, found = described(codes, Range(0, N_LATENTS))
    assert rows_of(found) == [
        row for latent, mine in enumerate(expected) for row in literal.examples(mine, latent, CONFIG, LENGTH, SEED)
    ]
    assert max(found.bands) == 4 and min(found.bands) == -1


@pytest.mark.parametrize("limits", [(1, 10**6), (3, 10**6), (100, 1), (100, 60), (4, 40)])
def test_ranges_do_not_change_what_is_said(
    codes: StoredCodes, limits: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, examples = described(codes, Range(0, N_LATENTS))
    monkeypatch.setattr(latents, "MOST_LATENTS", limits[0])
    monkeypatch.setattr(latents, "MOST_RECORDS", limits[1])
    fired = count_fired(codes, N_LATENTS)
    ranges = list(plan_ranges(fired))
    assert [number for where in ranges for number in range(*where)] == list(range(N_LATENTS))
    for where in ranges:
        assert where.last - where.first <= limits[0]
        assert where.last - where.first == 1 or fired[where.first : where.last].sum() <= limits[1]
    assert list(plan_ranges(fired, ranges[-1].first)) == ranges[-1:]
    parts = [described(codes, where) for where in ranges]
    assert [row for _, part in parts for row in rows_of(part)] == rows_of(examples)
    for name, expected in whole._asdict().items():
        joined = np.concatenate([getattr(part, name) for part, _ in parts])
        defined = fired > 0
        assert np.array_equal(joined[defined], expected[defined]), name


def test_of_contexts_that_are_the_same_the_strongest_stays() -> None:
    # Blocks of nine: peaks 9, 8, 7 at places 0, 9 and 18; the second has the first's context.
    codes = one_latent(np.array([9, 8, 7.0, 6.5]), contexts=np.array([1, 1, 2, 3]), places=np.array([0, 9, 18, 19]))
    found = rows_of(choose(*_parts(codes), codes, CONFIG, length=LENGTH, n_blocks=3, seed=0))
    top = [row for row in found if row[1] == -1]
    assert [row[5] for row in top] == [9, 7]  # of each block only the peak
    assert top[1][6] == [(0, 7.0), (1, 6.5)]


def test_what_stands_among_the_strongest_comes_in_a_band_only_where_there_is_nothing_else() -> None:
    config = IndexConfig(examples_top=2, examples_band=3)
    codes = one_latent(np.arange(40, 0, -1.0), places=LENGTH * np.arange(40))
    rows = rows_of(choose(*_parts(codes), codes, config, length=LENGTH, n_blocks=40, seed=0))
    by_band = {band: {row[3] for row in rows if row[1] == band} for band in range(-1, 5)}
    assert by_band[-1] == {0, 1}
    assert by_band[4] == {0, 1, 2}  # the quantile of 0.95 is the third largest
    assert all(len(by_band[band]) == 3 and not by_band[band] & {0, 1} for band in range(4))
    assert len(set().union(*(by_band[band] for band in range(4)))) == 12  # and no other band shows any of them


def test_another_seed_draws_others_and_leaves_the_strongest() -> None:
    codes = CODES["any"]
    parts = read_firings(codes, count_fired(codes, N_LATENTS), Range(0, N_LATENTS))
    keys = order(parts)
    one, other = (
        rows_of(choose(parts, keys, codes, CONFIG, length=LENGTH, n_blocks=BLOCKS, seed=seed)) for seed in (0, 1)
    )
    assert [row for row in one if row[1] == -1] == [row for row in other if row[1] == -1]
    assert [row for row in one if row[1] >= 0] != [row for row in other if row[1] >= 0]


def test_random_examples_lie_evenly_in_their_band() -> None:
    """Over 400 latents with the same activations, drawn by their own numbers."""
    config = IndexConfig(examples_top=1, examples_band=1)
    count, n = 41, 400
    rows = np.repeat(np.arange(count), n)
    codes = StoredCodes(
        offsets=np.arange(0, count * n + 1, n),
        places=(np.arange(count) * LENGTH).astype(np.uint32),
        tokens=np.zeros(count, np.uint32),
        contexts=np.arange(count).astype(np.uint64),
        latents=np.tile(np.arange(n), count).astype(np.uint32),
        values=(1.0 + rows).astype(np.float32),
    )
    firings = read_firings(codes, count_fired(codes, n), Range(0, n))
    found = choose(firings, order(firings), codes, config, length=LENGTH, n_blocks=count, seed=0)
    drawn = found.values[found.bands == 0]  # of the values 1 … 11
    counts = np.bincount(drawn.astype(int), minlength=12)[1:]
    assert counts.sum() == n and len(counts) == 11
    assert ((counts - n / 11) ** 2 / (n / 11)).sum() < 30  # χ² with 10 degrees of freedom: beyond 0.9992 of it
