"""The settings that stand in where a user leaves them open."""

import pytest

from monosem.training.schedules import auto_learning_rate, default_warmup_tokens, warmup_factor


def test_the_rate_falls_with_the_dictionary_and_the_budget_and_rises_with_the_batch() -> None:
    rate = auto_learning_rate(4096, 2048, 1_000_000)
    assert rate == pytest.approx(4.2e-3)
    assert auto_learning_rate(16_384, 2048, 1_000_000) == pytest.approx(rate / 2)
    assert auto_learning_rate(4096, 20_480, 1_000_000) == pytest.approx(rate * 10**0.3)
    assert auto_learning_rate(4096, 2048, 10_000_000) == pytest.approx(rate * 10**-0.3)


def test_the_warm_up_rises_in_a_straight_line_and_ends() -> None:
    assert [warmup_factor(tokens, 400) for tokens in (100, 200, 400, 500)] == [0.25, 0.5, 1, 1]
    assert warmup_factor(100, 0) == 1


def test_the_warm_up_is_a_thousand_steps_or_a_tenth_of_the_run() -> None:
    assert default_warmup_tokens(100_000_000, 2048) == 2_048_000
    assert default_warmup_tokens(2_000_000, 2048) == 200_000
