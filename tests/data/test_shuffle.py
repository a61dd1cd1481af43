import threading
import weakref
from itertools import islice

import pytest
import torch

from monosem.data.shuffle import shuffled_batches
from monosem.data.sources import Rows
from monosem.errors import UserError
from monosem.randomness import derive_seed


class CountingSource:
    """Row i is the vector (i, -i) at hookpoint a and (2i,) at b, at position i + 10."""

    reads_ahead = False

    def __init__(self):
        self.asked = []
        self.given = []

    @property
    def widths(self):
        return {"a": 2, "b": 1}

    def rows(self, start, stop):
        assert all(given() is None for given in self.given), "an earlier chunk still lies in memory"
        self.asked.append((start, stop))
        i = torch.arange(start, stop)
        rows = Rows({"a": torch.stack([i, -i], dim=1).float(), "b": (2 * i).bfloat16()[:, None]}, i + 10)
        self.given = [weakref.ref(tensor) for tensor in [*rows.activations.values(), rows.positions]]
        return rows


def take(count, start=0, **settings):
    settings = {"batch_size": 5, "seed": 7, "buffer_batches": 3} | settings
    return list(islice(shuffled_batches(CountingSource(), start=start, **settings), count))


def assert_same(found, expected):
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.index == b.index
        assert torch.equal(a.positions, b.positions)
        assert a.activations.keys() == b.activations.keys()
        assert all(torch.equal(a.activations[name], b.activations[name]) for name in b.activations)


def test_batches_are_those_of_the_definition():
    """Chunk c holds rows [15c, 15c + 15); batch p of it the rows at places 5p … 5p + 4 of its permutation."""
    for batch in take(11):
        chunk, place = divmod(batch.index, 3)
        generator = torch.Generator().manual_seed(derive_seed(7, "shuffle", chunk))
        order = torch.randperm(15, generator=generator).tolist()
        rows = [15 * chunk + order[5 * place + j] for j in range(5)]
        assert batch.positions.tolist() == [row + 10 for row in rows]
        assert batch.activations["a"].tolist() == [[row, -row] for row in rows]
        assert batch.activations["b"].tolist() == [[2 * row] for row in rows]
        assert batch.activations["b"].dtype == torch.bfloat16


def test_every_row_of_a_chunk_is_served_once():
    batches = take(12)
    assert [batch.index for batch in batches] == list(range(12))
    for chunk in range(4):
        served = torch.cat([batch.positions for batch in batches[3 * chunk : 3 * chunk + 3]])
        assert sorted(served.tolist()) == list(range(15 * chunk + 10, 15 * chunk + 25))
        assert served.tolist() != sorted(served.tolist())


@pytest.mark.parametrize("start", range(11))
def test_a_resumed_run_sees_what_an_uninterrupted_one_would_have(start):
    assert_same(take(12 - start, start=start), take(12)[start:])


def test_seeds_and_chunks_have_their_own_order():
    def orders(**settings):
        served = torch.cat([batch.positions for batch in take(6, **settings)])
        return (served[:15] - 10).tolist(), (served[15:] - 25).tolist()

    assert orders(seed=1) == orders(seed=1)
    assert len({tuple(order) for seed in (1, 2) for order in orders(seed=seed)}) == 4


def test_only_one_chunk_lies_in_memory_and_each_is_fetched_once():
    source = CountingSource()
    for _ in islice(shuffled_batches(source, batch_size=5, seed=7, buffer_batches=3, start=4), 8):
        pass
    assert source.asked == [(15, 30), (30, 45), (45, 60)]


def test_a_batch_outlives_its_chunk():
    batches = take(9)
    assert_same(batches, take(9))


def test_a_buffer_of_one_batch_shuffles_inside_it():
    assert [sorted(batch.positions.tolist()) for batch in take(2, buffer_batches=1)] == [
        [10, 11, 12, 13, 14],
        [15, 16, 17, 18, 19],
    ]


@pytest.mark.parametrize(("field", "value"), [("batch_size", 0), ("buffer_batches", 0), ("buffer_batches", -3)])
def test_an_empty_buffer_is_refused_at_once(field, value):
    settings = {"batch_size": 5, "buffer_batches": 3} | {field: value}
    with pytest.raises(UserError, match=f"{field}={value} must be at least 1"):
        shuffled_batches(CountingSource(), seed=7, **settings)


class SlowSource(CountingSource):
    """Reads ahead; says when a chunk is being fetched, and fails at the chunk of row 45."""

    reads_ahead = True

    def __init__(self):
        super().__init__()
        self.fetching = {start: threading.Event() for start in range(0, 60, 15)}

    def rows(self, start, stop):
        self.given = []
        self.fetching[start].set()
        if start == 45:
            raise UserError("shard 3 is damaged")
        return super().rows(start, stop)


def test_a_source_that_reads_ahead_is_asked_while_the_last_chunk_is_in_use():
    source = SlowSource()
    batches = shuffled_batches(source, batch_size=5, seed=7, buffer_batches=3)
    first = next(batches)
    assert first.index == 0
    assert source.fetching[15].wait(timeout=10)
    assert_same([first, *islice(batches, 8)], take(9))


def test_an_error_while_reading_ahead_comes_when_its_chunk_is_due():
    batches = shuffled_batches(SlowSource(), batch_size=5, seed=7, buffer_batches=3)
    assert len(list(islice(batches, 9))) == 9
    with pytest.raises(UserError, match="shard 3 is damaged"):
        next(batches)


def test_reading_ahead_ends_with_its_batches():
    before = threading.active_count()
    batches = shuffled_batches(SlowSource(), batch_size=5, seed=7, buffer_batches=3)
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before
