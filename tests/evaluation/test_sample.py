import pytest
import torch

from monosem.errors import UserError
from monosem.evaluation.sample import take_sample, with_successor
from monosem.subject.blocks import Blocks


def make_blocks(n_blocks: int, length: int = 4) -> Blocks:
    positions = torch.arange(n_blocks * length).view(n_blocks, length)
    return Blocks(positions % 7, torch.ones_like(positions, dtype=torch.bool), positions)


def test_all_blocks_are_taken_when_they_hold_no_more_tokens_than_wanted():
    blocks = make_blocks(5)
    for wanted in (20, 21, 10**9):
        sample = take_sample(blocks, blocks.positions, blocks.kept, wanted)
        assert torch.equal(sample.blocks.positions, blocks.positions)
        assert sample.tokens == 20


def test_fewer_blocks_lie_evenly_spread():
    blocks = make_blocks(100)
    sample = take_sample(blocks, blocks.positions, blocks.kept, 40)
    assert sample.blocks.positions[:, 0].div(4, rounding_mode="floor").tolist() == list(range(5, 100, 10))


def test_documents_are_numbered_from_zero_and_only_if_they_count():
    blocks = make_blocks(2)
    documents = torch.tensor([[7, 7, 3, 3], [90, 4, 4, 7]])
    kept = torch.tensor([[True, True, False, True], [False, False, True, True]])
    sample = take_sample(blocks, documents, kept, 100)
    assert sample.n_documents == 3
    assert sample.documents[kept].tolist() == [2, 2, 0, 1, 2]


def test_a_kept_bos_counts_to_the_document_behind_it():
    blocks = make_blocks(2)
    documents = torch.tensor([[-1, 5, 5, 6], [-1, 6, 8, 8]])
    sample = take_sample(blocks, documents, blocks.kept, 100)
    assert sample.documents.tolist() == [[0, 0, 0, 1], [1, 1, 2, 2]]


def test_batches_are_the_blocks_in_order():
    blocks = make_blocks(5)
    sample = take_sample(blocks, blocks.positions, blocks.kept, 100)
    batches = list(sample.batches(2))
    assert [len(batch.tokens) for batch, _ in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([batch.positions for batch, _ in batches]), blocks.positions)
    assert torch.equal(torch.cat([documents for _, documents in batches]), sample.documents)


def test_the_last_position_of_a_block_has_no_successor():
    kept = torch.tensor([[True, False, True], [True, True, False]])
    assert with_successor(kept).tolist() == [[True, False, False], [True, True, False]]


def test_nothing_to_evaluate_is_refused():
    blocks = make_blocks(2)
    with pytest.raises(UserError, match=r"no token to evaluate.*--text"):
        take_sample(blocks, blocks.positions, torch.zeros_like(blocks.kept), 10)
