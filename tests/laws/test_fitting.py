"""Fits of many sums of power laws at once, against SciPy's of one, and the literal definitions."""

import math

import numpy as np
import pytest
from scipy.optimize import least_squares

from monosem.laws.fitting import HUBER, huber, jacobian, log_values, minimise, residual_scale, robust_fit

generator = np.random.default_rng(0)
LOG_N, LOG_K = generator.uniform(7, 14, 31), generator.uniform(2, 6, 31)
ONE = np.ones(31)
TERMS = [np.stack([ONE, LOG_K, LOG_N, LOG_K * LOG_N], axis=1), np.stack([ONE, LOG_K], axis=1)]
TRUE = np.array([-0.50, 0.26, -0.017, -0.042, -1.32, -0.085])


def literal_log_values(theta: np.ndarray) -> list[float]:
    values: list[float] = []
    for point in range(31):
        first = math.exp(sum(theta[i] * TERMS[0][point, i] for i in range(4)))
        second = math.exp(sum(theta[4 + i] * TERMS[1][point, i] for i in range(2)))
        values.append(math.log(first + second))
    return values


def noisy(scale: float, seed: int) -> np.ndarray:
    return np.array(literal_log_values(TRUE)) + scale * np.random.default_rng(seed).standard_normal(31)


def test_a_law_is_the_sum_of_its_terms_exponentials() -> None:
    np.testing.assert_allclose(log_values(TERMS, TRUE[None])[0], literal_log_values(TRUE), rtol=1e-13)


def test_the_jacobian_is_what_differences_give() -> None:
    steps = 1e-6 * np.eye(6)
    differences = (log_values(TERMS, TRUE + steps) - log_values(TERMS, TRUE - steps)) / 2e-6
    np.testing.assert_allclose(jacobian(TERMS, TRUE[None])[0], differences.T, rtol=1e-7, atol=1e-9)


def test_hubers_loss_is_a_parabola_that_goes_on_as_its_tangent() -> None:
    u = np.array([[-3.0, -HUBER, -0.5, 0.0, 1.0, 2.0]])
    expected = [HUBER * (3 - HUBER / 2), HUBER**2 / 2, 0.125, 0, 0.5, HUBER * (2 - HUBER / 2)]
    np.testing.assert_allclose(huber(u)[0], expected)


def test_many_fits_at_once_are_scipys_one_by_one() -> None:
    scales = np.array([0.01, 0.02, 0.003])
    log_y = np.stack([noisy(0.02, seed) for seed in range(3)])
    log_y[:, 5] += 0.2  # Huber's loss is not a parabola here
    found, cost = minimise(TERMS, log_y, np.repeat(TRUE[None], 3, axis=0), scales)
    for row, mine, my_cost, scale in zip(log_y, found, cost, scales, strict=True):
        other = least_squares(
            lambda theta, row=row: np.array(literal_log_values(theta)) - row,
            TRUE,
            loss="huber",
            f_scale=HUBER * scale,
            x_scale="jac",
            xtol=1e-13,
            ftol=1e-13,
            gtol=1e-13,
            max_nfev=500,
        )
        assert my_cost <= other.cost / scale**2 * (1 + 1e-8)
        np.testing.assert_allclose(log_values(TERMS, mine[None])[0], literal_log_values(other.x), atol=2e-5)


def test_the_scale_is_the_median_of_what_a_fit_could_not_make_vanish() -> None:
    residuals = np.array([0.0, -1e-9, 3.0, -1.0, 2.0, 100.0, -5.0])
    assert residual_scale(residuals, 2) == pytest.approx(3.0 / 0.6744897501960817)


def test_the_scale_of_normal_noise_is_its_standard_deviation() -> None:
    noise = 0.3 * np.random.default_rng(0).standard_normal(20_000)
    assert residual_scale(noise, 3) == pytest.approx(0.3, rel=0.03)


def test_a_fit_finds_the_law_from_far_starts() -> None:
    starts = np.array([[0.0, 0, 0, 0, -3, 0], [-1.0, 0.2, 0.1, 0, -1, 0.1], [0.0, 0, 0, -0.01, -2, -0.3]])
    found = robust_fit(TERMS, noisy(0.0, 0), starts)
    np.testing.assert_allclose(found.coefficients, TRUE, atol=1e-3)
    assert np.abs(found.residuals).max() < 1e-6


def test_an_outlier_does_not_set_the_scale() -> None:
    log_y = noisy(0.01, 3)
    log_y[7] += 2.0
    found = robust_fit(TERMS, log_y, TRUE[None])
    assert 0.005 < found.scale < 0.02
    assert found.residuals[7] == pytest.approx(2.0, abs=0.1)
