"""Lines of tokens cut into blocks for the subject model, and the rows that are kept of them.

A row is one kept token position: all but the special ones. Training sees an endless sequence of rows, epoch after
epoch; every epoch cuts the line at another offset and takes the blocks in another order. What rows ``start`` to
``stop`` are follows from the text and the seed alone, so that a run can go on from any row.
"""

from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from monosem.errors import UserError
from monosem.randomness import derive_seed
from monosem.subject.tokens import TokenSplit

_SCAN_TOKENS = 1 << 24


class Blocks(NamedTuple):
    """Blocks of tokens, and which of their positions are kept; rows run along each block, block after block."""

    tokens: Int64[Tensor, "blocks context_length"]
    kept: Bool[Tensor, "blocks context_length"]
    positions: Int64[Tensor, "blocks context_length"]
    """Position in the split's line of tokens; −1 at an added BOS."""


class _Line:
    """A split's line of tokens, and how blocks are cut from it."""

    def __init__(
        self,
        split: TokenSplit,
        context_length: int,
        special_ids: frozenset[int],
        bos_id: int | None,
        keep_special: bool,
    ) -> None:
        self.split, self.bos_id, self.keep_special = split, bos_id, keep_special
        self.text_length = context_length - (bos_id is not None)
        if self.text_length < 1:
            needed = "1" if bos_id is None else "2, one of them for the BOS token"
            raise UserError(f"context_length={context_length} is too short; it must be at least {needed}.")
        count = len(split.tokens)
        if count < self.text_length:
            raise UserError(
                f"The text has {count:,} tokens and at least {self.text_length:,} are needed to fill one block of "
                f"context_length={context_length}; give more text with --text."
            )
        largest = np.iinfo(split.tokens.dtype).max
        dropped = () if keep_special else sorted(token_id for token_id in special_ids if token_id <= largest)
        self._special = np.array(dropped, dtype=split.tokens.dtype)
        self._special_positions = self._find_special()
        if len(self._special_positions) == count:
            raise UserError(
                f"All of the text's {count:,} tokens are special ones, which are left out; "
                "give more text with --text, or keep them with --keep-special."
            )

    def _find_special(self) -> Int64[np.ndarray, " special"]:
        """Sorted positions of the special tokens: few, where the line is too long to hold anything for each token."""
        tokens = self.split.tokens
        pieces = (tokens[start : start + _SCAN_TOKENS] for start in range(0, len(tokens), _SCAN_TOKENS))
        found = [np.flatnonzero(self._is_special(piece)) + i * _SCAN_TOKENS for i, piece in enumerate(pieces)]
        return np.concatenate(found)

    def _is_special(self, tokens: np.ndarray) -> Any:
        return np.isin(tokens, self._special)

    @property
    def rows_of_full_block(self) -> int:
        return self.text_length + (self.bos_id is not None and self.keep_special)

    def cut(self, offset: int) -> tuple[int, Int64[np.ndarray, " special"]]:
        """How many blocks there are when the first starts at ``offset``, and the special positions inside them."""
        n_blocks = (len(self.split.tokens) - offset) // self.text_length
        ends = np.searchsorted(self._special_positions, (offset, offset + n_blocks * self.text_length))
        return n_blocks, self._special_positions[slice(*ends)]

    def kept_counts(self, offset: int) -> Int64[np.ndarray, " blocks"]:
        """Rows of each block when the first starts at ``offset``."""
        n_blocks, special = self.cut(offset)
        return self.rows_of_full_block - np.bincount((special - offset) // self.text_length, minlength=n_blocks)

    def blocks(self, starts: Int64[np.ndarray, " blocks"]) -> Blocks:
        """The blocks whose text starts at these positions, with all that is kept of them."""
        positions = starts[:, None] + np.arange(self.text_length)
        tokens = self.split.tokens[positions]
        kept = ~self._is_special(tokens)
        tokens = tokens.astype(np.int64)
        if self.bos_id is not None:
            front = ((0, 0), (1, 0))
            tokens = np.pad(tokens, front, constant_values=self.bos_id)
            kept = np.pad(kept, front, constant_values=self.keep_special)
            positions = np.pad(positions, front, constant_values=-1)
        return Blocks(torch.from_numpy(tokens), torch.from_numpy(kept), torch.from_numpy(positions))


class _Epoch(NamedTuple):
    """One epoch's blocks that hold any row, in their shuffled order."""

    number: int
    starts: Int64[np.ndarray, " blocks"]
    first_rows: Int64[np.ndarray, " blocks_and_one"]
    """Row of the epoch at which each block begins, and behind them the number of rows."""


class BlockStream:
    """The training text as an endless sequence of rows, any range of which can be asked for.

    Holds 16 bytes for each block of the epoch last used, and 8 for each special token of the text.

    Raises:
        UserError: the text has fewer tokens than one block, or special ones alone.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        context_length: int,
        seed: int,
        special_ids: frozenset[int],
        bos_id: int | None = None,
        keep_special: bool = False,
    ) -> None:
        self.context_length = context_length
        self._line = _Line(split, context_length, special_ids, bos_id, keep_special)
        self._seed = seed
        text_length = self._line.text_length
        n_offsets = min(text_length, len(split.tokens) - text_length + 1)  # each leaves room for one block at least
        self._offsets = _shuffled(n_offsets, derive_seed(seed, "block offsets"))
        self._first_rows = [0]  # of each epoch met so far, and of the next one
        self._epoch: _Epoch | None = None

    def rows_in_epoch(self, epoch: int) -> int:
        """Rows of one epoch; it varies a little, because the offset does."""
        n_blocks, special = self._line.cut(self._offset(epoch))
        return n_blocks * self._line.rows_of_full_block - len(special)

    def rows(self, start: int, stop: int) -> Blocks:
        """The blocks that hold rows ``start`` to ``stop`` of the endless sequence, with exactly these kept.

        The first and the last block may hold other rows too: their tokens stay, as context, and are not kept.
        """
        assert 0 <= start <= stop
        parts = [self._line.blocks(np.empty(0, dtype=np.int64))]
        while start < stop:
            while self._first_rows[-1] <= start:
                self._first_rows.append(self._first_rows[-1] + self.rows_in_epoch(len(self._first_rows) - 1))
            epoch = bisect_right(self._first_rows, start) - 1
            begin, end = self._first_rows[epoch : epoch + 2]
            part_stop = min(stop, end)
            parts.append(self._rows_of_epoch(epoch, start - begin, part_stop - begin))
            start = part_stop
        return Blocks(*map(torch.cat, zip(*parts, strict=True)))

    def _offset(self, epoch: int) -> int:
        """Where the epoch's first block starts: each place in a block's length comes once before any comes again."""
        return int(self._offsets[epoch % len(self._offsets)])

    def _rows_of_epoch(self, number: int, start: int, stop: int) -> Blocks:
        if self._epoch is None or self._epoch.number != number:
            self._epoch = self._shuffled_epoch(number)
        first_rows = self._epoch.first_rows
        first, last = np.searchsorted(first_rows, (start, stop - 1), side="right") - 1
        blocks = self._line.blocks(self._epoch.starts[first : last + 1])
        rows = blocks.kept.flatten().nonzero()[start - first_rows[first] : stop - first_rows[first], 0]
        kept = torch.zeros_like(blocks.kept).flatten().index_fill_(0, rows, True)
        return blocks._replace(kept=kept.view_as(blocks.kept))

    def _shuffled_epoch(self, number: int) -> _Epoch:
        offset = self._offset(number)
        counts = self._line.kept_counts(offset)
        with_rows = np.flatnonzero(counts)
        order = with_rows[_shuffled(len(with_rows), derive_seed(self._seed, "block order", number))]
        first_rows = np.concatenate(([0], np.cumsum(counts[order])))
        return _Epoch(number, offset + order * self._line.text_length, first_rows)


class EvenBlocks:
    """Blocks cut from a line's beginning, in its order, all that is kept of each; any range of them can be asked for.

    With ``max_tokens``, and more rows than that in the line, as many whole blocks as can never hold more rows, spread
    evenly over the line so that many documents are met. Blocks without a single row are passed over.

    Raises:
        UserError: there is not one block of text, or ``max_tokens`` is less than one block.
    """

    def __init__(
        self,
        split: TokenSplit,
        *,
        context_length: int,
        special_ids: frozenset[int],
        bos_id: int | None = None,
        keep_special: bool = False,
        max_tokens: int | None,
    ) -> None:
        self.split, self.context_length = split, context_length
        self._line = line = _Line(split, context_length, special_ids, bos_id, keep_special)
        counts = line.kept_counts(0)
        chosen = np.flatnonzero(counts)
        if max_tokens is not None and counts.sum() > max_tokens:
            n_blocks = max_tokens // line.rows_of_full_block
            if n_blocks == 0:
                raise UserError(
                    f"At most {max_tokens} tokens were asked for, which is less than one block of "
                    f"{line.rows_of_full_block}; ask for more, or lower context_length={context_length}."
                )
            chosen = chosen[np.arange(n_blocks) * len(chosen) // n_blocks]
        self.starts: Int64[np.ndarray, " blocks"] = chosen * line.text_length
        """Position in the line of each block's first token of text."""
        self.text_length = line.text_length
        """Tokens of text in a block."""
        self.rows = int(counts[chosen].sum())
        """Rows in all."""

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, which: slice | Int64[np.ndarray, " some"]) -> Blocks:
        """Some of them, by number."""
        return self._line.blocks(self.starts[which])

    def all(self) -> Blocks:
        """All of them."""
        return self.take(slice(None))


def _shuffled(count: int, seed: int) -> Int64[np.ndarray, " count"]:
    """The numbers below ``count`` in random order."""
    # By raw bits: numpy promises that those stay the same from version to version, and not that permutations do.
    return np.argsort(np.random.Philox(seed).random_raw(count), kind="stable")
