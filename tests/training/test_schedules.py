"""The settings that stand in where a user leaves them open."""

import pytest

from monosem.training.schedules import auto_learning_rate


def test_the_rate_falls_with_the_dictionary_and_the_budget_and_rises_with_the_batch() -> None:
    rate = auto_learning_rate(4096, 2048, 1_000_000)
    assert rate == pytest.approx(2.8e-3)
    assert auto_learning_rate(16_384, 2048, 1_000_000) == pytest.approx(rate / 2)
    assert auto_learning_rate(4096, 8192, 1_000_000) == pytest.approx(rate * 2)
    assert auto_learning_rate(4096, 2048, 16_000_000) == pytest.approx(rate / 2)
