"""The best learning rate of a sweep, and sweeps that have none."""

import numpy as np
import pytest

from monosem.errors import UserError
from monosem.laws.law import UndeterminedError
from monosem.laws.optimum import optimum

RATES = 1e-4 * 2.0 ** np.arange(-3, 5)


def valley(rate: np.ndarray, best: float = 1.3e-4) -> np.ndarray:
    return 0.1 * np.exp(0.07 * np.log(rate / best) ** 2)


def test_the_least_point_of_a_parabola_is_found_exactly() -> None:
    found = optimum(RATES, valley(RATES))
    assert found.x == pytest.approx(1.3e-4)
    assert found.loss == pytest.approx(0.1)
    assert found.curvature == pytest.approx(0.14)
    assert found.runs == 5
    assert optimum(RATES[::-1], valley(RATES)[::-1]) == pytest.approx(found)


def test_seeds_are_fitted_together() -> None:
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal((8, 3)))
    rates, losses = np.repeat(RATES, 3), (valley(RATES)[:, None] * noise).ravel()
    found = optimum(rates, losses)
    near = np.abs(np.log2(rates / 1e-4)) < 2.5
    quadratic, linear, _ = np.polyfit(np.log(rates[near]), np.log(losses[near]), 2)
    assert found.x == pytest.approx(float(np.exp(-linear / (2 * quadratic))))
    assert found.runs == 15


def test_what_happens_far_from_the_optimum_does_not_matter() -> None:
    losses = valley(RATES)
    losses[-1] = 100.0  # diverged
    assert optimum(RATES, losses).x == pytest.approx(1.3e-4)


@pytest.mark.parametrize(("end", "words"), [(slice(None, 4), "highest .* measure higher"), (slice(3, None), "lowest")])
def test_an_optimum_that_was_not_bracketed_is_refused(end: slice, words: str) -> None:
    with pytest.raises(UndeterminedError, match=words):
        optimum(RATES[end], valley(RATES, 1e-4)[end])


def test_what_is_no_valley_is_refused() -> None:
    with pytest.raises(UndeterminedError, match="no valley"):
        optimum([1, 2, 4, 8, 16], [1.0, 1.5, 0.99, 1.5, 1.0])
    with pytest.raises(UndeterminedError, match="needs 3 different values of x, not 2"):
        optimum([1, 1, 2], [1, 2, 3])
    with pytest.raises(UserError, match="loss=inf is no point"):
        optimum([1, 2, 3], [1, 0.5, float("inf")])
    with pytest.raises(UserError, match="3 values of x, 2 of loss"):
        optimum([1, 2, 3], [1, 2])
