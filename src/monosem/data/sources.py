"""Where activations come from: anything that gives the rows of a range; here, the source that reads them from disk."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.data.index import DTYPES, ShardPlan
from monosem.data.shards import ShardReader
from monosem.errors import UserError
from monosem.randomness import derive_generator


class Rows(NamedTuple):
    """Consecutive kept tokens: one activation vector a hookpoint, and where each token lies in the training text."""

    activations: dict[str, Float[Tensor, "rows _"]]  # hookpoint → rows; each hookpoint has its own width
    positions: Int64[Tensor, " rows"]  # in the training text's line of tokens


@runtime_checkable
class ActivationSource(Protocol):
    """An endless line of rows.

    ``rows`` is a pure function of the range: the same call gives the same rows, so a resumed run refills its shuffle
    buffer by asking again.
    """

    @property
    def widths(self) -> Mapping[str, int]:
        """Components of an activation vector, by hookpoint."""
        ...

    @property
    def reads_ahead(self) -> bool:
        """Whether rows are worth fetching, by another thread, before they are needed: from a disk, they are."""
        ...

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start … stop - 1``."""
        ...


class CachedActivations:
    """Rows read from complete caches, one directory a hookpoint, all written by the same passes of a subject model.

    The line of rows repeats the cache without end. Its first pass (epoch 0) is in stored order, so it gives the very
    rows of a live run; in every later epoch the shards come in an order drawn from ``seed`` and the epoch, with the
    rows inside a shard as stored. ``verify`` compares each shard's checksum when it is first touched.

    Raises:
        UserError: a cache is missing, incomplete, damaged, or doesn't hold the same rows as the first.
    """

    def __init__(self, paths: Sequence[str | Path], *, seed: int, verify: bool = True):
        assert paths
        self._seed = seed
        self._readers: dict[str, ShardReader] = {}
        for path in paths:
            reader = ShardReader(path, verify=verify)
            _require_complete(reader)
            if twin := self._readers.get(hookpoint := reader.index.plan.hookpoint):
                raise UserError(f"{twin.place.name} and {path} both hold {hookpoint}; name one of them.")
            self._readers[hookpoint] = reader
        self._first, *others = self._readers.values()
        for other in others:
            _require_same_rows(self._first, other)
        self._shard_rows = [shard.rows for shard in self._first.index.shards]

    @property
    def plans(self) -> Mapping[str, ShardPlan]:
        """What each hookpoint's cache was made from."""
        return {hookpoint: reader.index.plan for hookpoint, reader in self._readers.items()}

    @property
    def widths(self) -> Mapping[str, int]:
        """Components of an activation vector, by hookpoint."""
        return {hookpoint: plan.width for hookpoint, plan in self.plans.items()}

    @property
    def reads_ahead(self) -> bool:
        """Yes: the disk works while the processor does."""
        return True

    @property
    def rows_per_epoch(self) -> int:
        """Rows stored; a resumed run needs them to be as many as before (a cache can be extended)."""
        return self._first.index.rows_stored

    def rows(self, start: int, stop: int) -> Rows:
        """Rows ``start … stop - 1`` in the stored dtype, copied from the shards they lie in.

        Raises:
            UserError: a shard is damaged; the message names it.
        """
        assert 0 <= start <= stop
        activations = {
            hookpoint: torch.empty(stop - start, plan.width, dtype=DTYPES[plan.dtype])
            for hookpoint, plan in self.plans.items()
        }
        positions = torch.empty(stop - start, dtype=torch.int64)
        filled = 0
        for shard, first, last in self._pieces(start, stop):
            into = slice(filled, filled + last - first)
            filled = into.stop
            for hookpoint, reader in self._readers.items():
                activations[hookpoint][into], its_positions = reader.rows(shard, first, last)
                if reader is self._first:
                    positions[into] = its_positions
                elif not torch.equal(positions[into], its_positions):
                    raise _other_rows(self._first, reader, f"shard {shard} has other positions")
        return Rows(activations, positions)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The shards that a range lies in, in its order, each with the first and last (exclusive) row inside it."""
        for epoch in range(start // self.rows_per_epoch, -(-stop // self.rows_per_epoch)):
            row = epoch * self.rows_per_epoch
            for shard in self._shard_order(epoch):
                first, last = max(start - row, 0), min(stop - row, self._shard_rows[shard])
                if first < last:
                    yield shard, first, last
                row += self._shard_rows[shard]

    def _shard_order(self, epoch: int) -> list[int]:
        shards = len(self._shard_rows)
        if epoch == 0:
            return list(range(shards))
        return torch.randperm(shards, generator=derive_generator(self._seed, "cache epoch", epoch)).tolist()


def _require_complete(reader: ShardReader) -> None:
    index = reader.index
    if not index.is_complete:
        raise UserError(
            f"{reader.place.name} holds {index.rows_stored:,} of {index.plan.rows_total:,} rows; "
            "run the same `monosem cache` again to write the rest."
        )


def _require_same_rows(first: ShardReader, other: ShardReader) -> None:
    for name in ("subject", "provenance", "rows_total"):
        values = [getattr(reader.index.plan, name) for reader in (first, other)]
        if values[0] != values[1]:
            raise _other_rows(first, other, f"{name} is {values[0]} and {values[1]}")
    if [shard.rows for shard in first.index.shards] != [shard.rows for shard in other.index.shards]:
        raise _other_rows(first, other, "their shards are of other sizes")


def _other_rows(first: ShardReader, other: ShardReader, why: str) -> UserError:
    return UserError(
        f"{first.place.name} and {other.place.name} don't hold the same rows: {why}; "
        "cache their hookpoints together with one `monosem cache`."
    )
