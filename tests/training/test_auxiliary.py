"""AuxK by dense products: the padding that keeps their shapes few."""

import pytest

from monosem.training.auxiliary import padded


def test_the_padding_is_at_most_an_eighth_or_63_rows_and_leaves_few_sizes() -> None:
    for count in (0, 1, 63, 64, 65, 999, 1024, 1025, 9830, 100_000):
        assert 0 <= padded(count) - count <= max(63, count / 8)
    assert len({padded(count) for count in range(1024, 32_768)}) <= 45


@pytest.mark.parametrize("count", [64, 128, 1024, 9216])
def test_a_size_that_is_one_already_stays(count: int) -> None:
    assert padded(count) == count
