"""Two computations at once on a CPU, each with its share of torch's threads.

A product that two cores share makes each wait for the other; with a product of its own for each they do not.
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

TOGETHER = 2

Piece = TypeVar("Piece")


def side_by_side(work: Callable[[Piece], object], pieces: Iterable[Piece]) -> None:
    """Call ``work`` for every piece, without gradients, two at a time; in turn if torch has only one thread.

    Raises:
        Exception: what ``work`` raised first, in the order of the pieces. Those that were not begun are left out.
    """
    threads = torch.get_num_threads()
    shares = [(threads + number) // TOGETHER for number in range(TOGETHER)]
    if min(shares) == 0:
        with torch.no_grad():
            for piece in pieces:
                work(piece)
        return
    pool = ThreadPoolExecutor(TOGETHER, initializer=lambda: _begin(shares.pop()))
    try:
        for _ in pool.map(work, pieces):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # what a thread sets for itself is also what new threads get


def _begin(threads: int) -> None:
    """Settings of torch that hold in one thread."""
    torch.get_num_threads()  # torch gives a thread the number that was set last when it first asks, which is here
    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
