"""Shuffled batches, in an order that depends on nothing but the seed and a batch's index."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count, islice

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from monosem.data.sources import ActivationSource, Rows
from monosem.errors import UserError
from monosem.randomness import derive_generator


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows drawn from one chunk of a source."""

    activations: dict[str, Float[Tensor, "batch _"]]  # hookpoint → rows
    positions: Int64[Tensor, " batch"]  # in the training text's line of tokens
    index: int  # 0 for a run's first batch


def shuffled_batches(
    source: ActivationSource, *, batch_size: int, seed: int, buffer_batches: int = 8, start: int = 0
) -> Iterator[Batch]:
    """Serve a source's rows in shuffled batches, without end, from batch ``start`` on.

    The rows are taken in chunks of ``buffer_batches`` × ``batch_size``; a generator of the seed and the chunk's number
    permutes each, and it is served batch by batch. So batch i is the same whatever ``start`` is, and a resumed run
    goes on with exactly what an uninterrupted one would have seen. Memory: one chunk and one batch, and the next chunk
    from a source that reads ahead.

    Raises:
        UserError: ``batch_size`` or ``buffer_batches`` is below 1.
    """
    for name, value in (("batch_size", batch_size), ("buffer_batches", buffer_batches)):
        if value < 1:
            raise UserError(f"{name}={value} must be at least 1.")
    assert start >= 0
    return _serve(source, batch_size, seed, buffer_batches, start)


def _serve(source: ActivationSource, batch_size: int, seed: int, buffer_batches: int, start: int) -> Iterator[Batch]:
    chunk_rows = buffer_batches * batch_size
    chunks = _chunks(source, chunk_rows, start // buffer_batches)
    index = start
    while True:
        chunk, served = divmod(index, buffer_batches)
        rows = next(chunks)
        order = torch.randperm(chunk_rows, generator=derive_generator(seed, "shuffle", chunk))
        for chosen in islice(order.split(batch_size), served, None):
            activations = {hookpoint: _select(tensor, chosen) for hookpoint, tensor in rows.activations.items()}
            yield Batch(activations=activations, positions=_select(rows.positions, chosen), index=index)
            del activations  # the receiver decides how long a batch lives
            index += 1
        del rows  # before the next chunk is asked for


def _chunks(source: ActivationSource, chunk_rows: int, first: int) -> Iterator[Rows]:
    """Chunk after chunk; of a source that reads ahead, the next is fetched while the last is in use."""
    ranges = ((chunk * chunk_rows, (chunk + 1) * chunk_rows) for chunk in count(first))
    if not source.reads_ahead:
        yield from (source.rows(*piece) for piece in ranges)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as reader:
        ahead = reader.submit(source.rows, *next(ranges))
        while True:
            rows = ahead.result()
            ahead = reader.submit(source.rows, *next(ranges))
            yield rows
            del rows


def _select(tensor: Tensor, chosen: Int64[Tensor, " batch"]) -> Tensor:
    return tensor.index_select(0, chosen.to(tensor.device))
