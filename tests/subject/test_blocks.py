"""Blocks and rows: compared with the same thing written out as a plain loop."""

from collections.abc import Callable, Iterator
from itertools import chain, pairwise

import numpy as np
import pytest
import torch

from monosem.errors import UserError
from monosem.subject import blocks
from monosem.subject.blocks import Blocks, BlockStream, EvenBlocks
from monosem.subject.tokens import TokenSplit

SPECIAL = frozenset({0, 1, 70_000})
BOS = 1


def split_of(tokens: np.ndarray) -> TokenSplit:
    return TokenSplit(tokens=tokens, document_starts=np.array([0]), document_names=["document"])


def random_split(count: int, *, special_share: float = 0.1, dtype: type = np.uint16) -> TokenSplit:
    generator = np.random.default_rng(count)
    ordinary = generator.integers(2, 500, count)
    tokens = np.where(generator.random(count) < special_share, generator.integers(0, 2, count), ordinary)
    return split_of(tokens.astype(dtype))


Row = tuple[int, int]  # token and position
SETTINGS = [
    pytest.param({}, id="text alone"),
    pytest.param({"bos_id": BOS}, id="bos"),
    pytest.param({"keep_special": True}, id="keep special"),
    pytest.param({"bos_id": BOS, "keep_special": True}, id="bos and keep special"),
]


def rows_of(found: Blocks) -> list[Row]:
    return list(zip(found.tokens[found.kept].tolist(), found.positions[found.kept].tolist(), strict=True))


def literal_block(
    split: TokenSplit, start: int, context_length: int, bos_id: int | None = None, keep_special: bool = False
) -> tuple[list[int], list[bool], list[int]]:
    tokens, kept, positions = [], [], []
    if bos_id is not None:
        tokens.append(bos_id)
        kept.append(keep_special)
        positions.append(-1)
    while len(tokens) < context_length:
        token = int(split.tokens[start])
        tokens.append(token)
        kept.append(keep_special or token not in SPECIAL)
        positions.append(start)
        start += 1
    return tokens, kept, positions


def literal_epoch(stream: BlockStream, split: TokenSplit, epoch: int, context_length: int, **settings: int) -> list:
    """One epoch's blocks, one by one, in the order that the stream itself declares."""
    starts = stream._shuffled_epoch(epoch).starts.tolist()
    return [literal_block(split, start, context_length, **settings) for start in starts]


def literal_rows(
    stream: BlockStream, split: TokenSplit, start: int, stop: int, context_length: int, **settings: int
) -> list[tuple[list[int], list[bool], list[int]]]:
    """The blocks that hold the rows, and what is kept of them: every row of every epoch counted from 0."""
    found, row, epoch = [], 0, 0
    while row < stop:
        for tokens, kept, positions in literal_epoch(stream, split, epoch, context_length, **settings):
            chosen = []
            for is_kept in kept:
                chosen.append(is_kept and start <= row < stop)
                row += is_kept
            if any(chosen):
                found.append((tokens, chosen, positions))
        epoch += 1
    return found


def stream_of(split: TokenSplit, context_length: int = 8, seed: int = 0, **settings: int) -> BlockStream:
    return BlockStream(split, context_length=context_length, seed=seed, special_ids=SPECIAL, **settings)


# Training


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
def test_rows_are_those_of_a_plain_loop_over_blocks(settings: dict[str, int], dtype: type) -> None:
    split = random_split(203, dtype=dtype)
    per_epoch = stream_of(split, **settings).rows_in_epoch(0)
    ranges = [
        (0, 1),
        (0, per_epoch),
        (7, 8),
        (5, 93),
        (per_epoch - 1, per_epoch + 1),
        (2 * per_epoch, 4 * per_epoch + 11),
    ]
    for start, stop in ranges:
        stream = stream_of(split, **settings)
        found = stream.rows(start, stop)
        assert found.kept.sum() == stop - start
        expected = literal_rows(stream, split, start, stop, 8, **settings)
        assert list(zip(*(part.tolist() for part in found), strict=True)) == expected


@pytest.mark.parametrize("settings", SETTINGS)
def test_consecutive_calls_partition_the_rows(settings: dict[str, int]) -> None:
    split = random_split(311, special_share=0.4)
    stream = stream_of(split, **settings)
    total = sum(stream.rows_in_epoch(epoch) for epoch in range(3))
    whole = rows_of(stream.rows(0, total))
    assert len(whole) == total
    cuts = sorted({0, total, *np.random.default_rng(0).integers(0, total, 40).tolist()})
    pieces = [rows_of(stream.rows(*ends)) for ends in pairwise(cuts)]
    assert [len(piece) for piece in pieces] == np.diff(cuts).tolist()
    assert list(chain.from_iterable(pieces)) == whole


def test_rows_are_the_same_in_whatever_order_they_are_asked_for() -> None:
    split = random_split(311)
    ranges = [(900, 950), (0, 50), (260, 300), (900, 950)]
    together = stream_of(split)
    for ends in ranges:
        for one, other in zip(together.rows(*ends), stream_of(split).rows(*ends), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("bos_id", [None, BOS])
def test_every_epoch_holds_each_of_its_positions_once(bos_id: int | None) -> None:
    split = random_split(1000, special_share=0)
    stream = stream_of(split, bos_id=bos_id)
    start = 0
    for epoch in range(5):
        stop = start + stream.rows_in_epoch(epoch)
        positions = sorted(position for _, position in rows_of(stream.rows(start, stop)))
        assert positions == list(range(positions[0], positions[0] + len(positions)))
        assert positions[0] < 8
        assert positions[-1] >= 1000 - 8
        start = stop


def test_epochs_start_at_offsets_that_all_differ_and_shuffle_anew() -> None:
    split = random_split(1000, special_share=0)
    stream = stream_of(split)
    epochs = [stream._shuffled_epoch(epoch) for epoch in range(8)]
    assert sorted(int(epoch.starts.min()) for epoch in epochs) == list(range(8))
    orders = [tuple((epoch.starts - epoch.starts.min()).tolist()[:100]) for epoch in epochs]
    assert len(set(orders)) == 8
    assert all(list(order) != sorted(order) for order in orders)


def test_the_seed_decides_offsets_and_order() -> None:
    split = random_split(1000)
    one, again, other = (rows_of(stream_of(split, seed=seed).rows(0, 100)) for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_the_order_is_the_same_for_ever() -> None:
    """A known answer: a run must resume on a later version with the same rows."""
    stream = stream_of(split_of(np.arange(100, 140, dtype=np.uint16)), context_length=4, seed=7)
    expected = [[116, 117, 118, 119], [128, 129, 130, 131], [100, 101, 102, 103]]
    assert stream.rows(0, 12).tokens.tolist() == expected


def test_special_tokens_are_never_rows_and_never_lost_as_context() -> None:
    split = random_split(500, special_share=0.5)
    found = stream_of(split, bos_id=BOS).rows(0, 300)
    assert not SPECIAL & set(found.tokens[found.kept].tolist())
    assert (found.tokens[:, 0] == BOS).all()
    assert (found.positions[:, 0] == -1).all()
    text = found.positions[:, 1:]
    assert torch.equal(found.tokens[:, 1:], torch.from_numpy(split.tokens.astype(np.int64))[text])
    assert torch.equal(text - text[:, :1], torch.arange(7).expand_as(text))


def test_no_rows_are_no_blocks() -> None:
    found = stream_of(random_split(100)).rows(5, 5)
    assert [part.shape for part in found] == [(0, 8)] * 3


def test_special_tokens_are_found_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    split = random_split(311)
    whole = rows_of(stream_of(split).rows(0, 600))
    monkeypatch.setattr(blocks, "_SCAN_TOKENS", 7)
    assert rows_of(stream_of(split).rows(0, 600)) == whole


@pytest.mark.parametrize("count", [8, 9, 15, 16])
def test_a_text_of_hardly_more_than_a_block_still_gives_rows(count: int) -> None:
    split = random_split(count, special_share=0)
    stream = stream_of(split)
    found = rows_of(stream.rows(0, 200))
    assert len(found) == 200
    assert {position for _, position in found} == set(range(count))


def test_epochs_without_a_row_are_passed_over() -> None:
    # One ordinary token, at the end, which only some offsets reach.
    split = split_of(np.array([0] * 12 + [9], dtype=np.uint16))
    stream = stream_of(split)
    assert 0 in {stream.rows_in_epoch(epoch) for epoch in range(6)}
    assert rows_of(stream.rows(0, 5)) == [(9, 12)] * 5


# Held out


@pytest.mark.parametrize("settings", SETTINGS)
def test_even_blocks_are_cut_from_the_beginning_in_order(settings: dict[str, int]) -> None:
    split = random_split(203)
    found = EvenBlocks(split, context_length=8, special_ids=SPECIAL, max_tokens=None, **settings).all()
    length = 8 - ("bos_id" in settings)
    expected = [literal_block(split, start, 8, **settings) for start in range(0, 203 - length + 1, length)]
    assert list(zip(*(part.tolist() for part in found), strict=True)) == [b for b in expected if any(b[1])]


@pytest.mark.parametrize("max_tokens", [8, 100, 777, 5000])
def test_a_share_of_the_held_out_text_is_spread_over_all_of_it(max_tokens: int) -> None:
    split = random_split(10_000, special_share=0.05)
    found = EvenBlocks(split, context_length=8, special_ids=SPECIAL, max_tokens=max_tokens).all()
    assert max_tokens * 0.9 - 8 <= found.kept.sum() <= max_tokens
    starts = found.positions[:, 0]
    assert (starts % 8 == 0).all()
    gaps = starts.diff()
    if len(gaps):
        assert gaps.min() >= gaps.max() - 8
        assert starts[-1] >= 10_000 - gaps.max() - 8


def test_a_maximum_that_is_not_reached_takes_every_block() -> None:
    split = random_split(803)
    ends = [
        EvenBlocks(split, context_length=8, special_ids=SPECIAL, max_tokens=max_tokens).all()
        for max_tokens in (None, 803, 10**9)
    ]
    assert all(torch.equal(end.positions, ends[0].positions) for end in ends)
    rows = int(ends[0].kept.sum())
    exact = EvenBlocks(split, context_length=8, special_ids=SPECIAL, max_tokens=rows).all()
    assert torch.equal(exact.positions, ends[0].positions)


@pytest.mark.parametrize("settings", SETTINGS)
def test_any_even_blocks_can_be_asked_for_by_number(settings: dict[str, int]) -> None:
    found = EvenBlocks(random_split(500), context_length=8, special_ids=SPECIAL, max_tokens=90, **settings)
    whole, middle, two = found.all(), found.take(slice(3, 7)), found.take(np.array([5, 1]))
    assert len(found) == len(whole.tokens) > 7
    assert found.rows == int(whole.kept.sum()) <= 90
    assert all(torch.equal(part, all_[3:7]) for part, all_ in zip(middle, whole, strict=True))
    assert all(torch.equal(part, all_[[5, 1]]) for part, all_ in zip(two, whole, strict=True))
    assert found.starts.tolist() == whole.positions[:, -found.text_length].tolist()


def test_a_maximum_below_one_block_is_refused() -> None:
    with pytest.raises(UserError, match="At most 7 tokens were asked for, which is less than one block of 8"):
        EvenBlocks(random_split(100), context_length=8, special_ids=SPECIAL, max_tokens=7).all()


# What cannot be cut


def both(split: TokenSplit, **settings: int) -> Iterator[Callable[[], object]]:
    """Each of the two ways of cutting, expected to be refused alike."""
    options = {"context_length": 8, "special_ids": SPECIAL, **settings}
    yield lambda: BlockStream(split, seed=0, **options)
    yield lambda: EvenBlocks(split, max_tokens=None, **options).all()


def test_a_block_with_a_bos_needs_one_token_less_of_text() -> None:
    for call in both(random_split(7, special_share=0), bos_id=BOS):
        call()


@pytest.mark.parametrize("count", [0, 1, 7])
def test_a_text_shorter_than_a_block_says_what_it_needs(count: int) -> None:
    for call in both(random_split(count)):
        with pytest.raises(UserError, match=f"has {count} tokens and at least 8 are needed .* more text with --text"):
            call()


def test_a_text_of_special_tokens_alone_is_refused() -> None:
    split = split_of(np.zeros(100, dtype=np.uint16))
    for call in both(split):
        with pytest.raises(UserError, match=r"All of the text's 100 tokens are special ones.*--keep-special"):
            call()
    for call in both(split, keep_special=True):
        call()


@pytest.mark.parametrize(("context_length", "bos_id"), [(0, None), (-1, None), (1, BOS)])
def test_a_context_without_room_for_text_is_refused(context_length: int, bos_id: int | None) -> None:
    for call in both(random_split(100), context_length=context_length, bos_id=bos_id):
        with pytest.raises(UserError, match=f"context_length={context_length} is too short; it must be at least"):
            call()
