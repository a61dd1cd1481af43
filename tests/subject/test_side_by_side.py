"""Two computations at once: each with its share of torch's threads, and nothing left behind."""

import threading
from collections.abc import Generator

import pytest
import torch

from monosem.subject.side_by_side import side_by_side


@pytest.fixture(autouse=True)
def threads() -> Generator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("in_all", "shares"), [(2, [1, 1]), (3, [1, 2]), (4, [2, 2])])
def test_two_pieces_at_once_share_torchs_threads(in_all: int, shares: list[int]) -> None:
    torch.set_num_threads(in_all)
    meeting, seen = threading.Barrier(2), {}

    def work(piece: int) -> None:
        meeting.wait(10)  # passes only if another piece is at work
        seen[piece] = torch.get_num_threads(), torch.is_grad_enabled(), threading.get_ident()

    side_by_side(work, range(4))
    assert sorted(seen) == [0, 1, 2, 3]
    assert sorted({share for share, _, _ in seen.values()}) == sorted(set(shares))
    assert not any(has_gradients for _, has_gradients, _ in seen.values())
    assert len({thread for _, _, thread in seen.values()}) == 2
    assert torch.get_num_threads() == in_all and torch.is_grad_enabled()


def test_with_one_thread_the_pieces_come_in_turn() -> None:
    torch.set_num_threads(1)
    seen: list[tuple[int, int, bool]] = []
    side_by_side(lambda piece: seen.append((piece, threading.get_ident(), torch.is_grad_enabled())), range(3))
    assert seen == [(piece, threading.get_ident(), False) for piece in range(3)]


@pytest.mark.parametrize("in_all", [1, 2])
def test_what_a_piece_raises_comes_out_and_ends_the_work(in_all: int) -> None:
    torch.set_num_threads(in_all)
    begun: list[int] = []
    failed = threading.Event()

    def work(piece: int) -> None:
        begun.append(piece)
        if piece == 0:
            failed.set()
            raise KeyError("mine")
        failed.wait(10)
        torch.randn(300, 300).inverse()

    with pytest.raises(KeyError, match="mine"):
        side_by_side(work, range(10_000))
    assert len(begun) < 10_000
    assert torch.get_num_threads() == in_all


def test_new_threads_get_what_torch_had_before() -> None:
    torch.set_num_threads(2)
    side_by_side(lambda piece: None, range(4))
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert found == [2]
