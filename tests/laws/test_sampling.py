"""Noise that is drawn again: from where, with which size, and what stays together."""

import numpy as np
import pytest

from monosem.laws.fitting import jacobian, robust_fit
from monosem.laws.sampling import draw_noise, leverages, sample_coefficients, student_inflation, visible
from monosem.randomness import derive_generator

ALONE = np.arange(5)


def test_the_leverage_is_the_diagonal_of_the_hat_matrix() -> None:
    slopes = np.random.default_rng(0).standard_normal((7, 3))
    hat = slopes @ np.linalg.inv(slopes.T @ slopes) @ slopes.T
    np.testing.assert_allclose(leverages(slopes), np.diag(hat))
    twice = np.concatenate([slopes, slopes[:, :1]], axis=1)
    np.testing.assert_allclose(leverages(twice), np.diag(hat), atol=1e-9)


def test_noise_is_each_runs_own_enlarged_residual_with_either_sign() -> None:
    residuals, leverage = np.array([0.1, -0.2, 0.3, 0.0, -0.1]), np.array([0.75, 0.0, 0.2, 0.36, 0.99])
    noise = draw_noise(residuals, leverage, ALONE, 400, derive_generator(0))
    np.testing.assert_allclose(np.abs(noise), np.tile(np.abs(residuals) / [0.25, 1, 0.8, 0.64, 0.05], (400, 1)))
    assert np.abs((noise > 0).mean(axis=0)[[0, 1, 2, 4]] - 0.5).max() < 0.1
    signs = np.sign(noise[:, [0, 1, 2, 4]])
    assert np.abs(np.corrcoef(signs.T) - np.eye(4)).max() < 0.2


def test_what_all_seeds_of_a_setting_share_stays_shared() -> None:
    group = np.array([0, 0, 1, 1, 2, 2])
    shared = np.array([0.1, 0.1, -0.3, -0.3, 0.2, 0.2])
    noise = draw_noise(shared, np.full(6, 0.25), group, 50, derive_generator(0))
    np.testing.assert_array_equal(noise[:, ::2], noise[:, 1::2])
    np.testing.assert_allclose(np.abs(noise), np.tile(2 * np.abs(shared), (50, 1)))  # a group's leverage is 0.5


def test_inflated_normal_noise_is_students() -> None:
    draws = student_inflation(3, 40_000, derive_generator(0))
    normal = np.random.default_rng(0).standard_normal(40_000)
    assert np.quantile(np.abs(draws * normal), 0.95) == pytest.approx(3.182, abs=0.08)  # t of 3 at 97.5%


def test_samples_of_a_line_spread_as_a_sandwich_covariance_says() -> None:
    log_x = np.linspace(0, 5, 60)
    terms = [np.stack([np.ones(60), log_x], axis=1)]
    log_y = 1 - 0.5 * log_x + 0.1 * np.random.default_rng(5).standard_normal(60)
    fit = robust_fit(terms, log_y, np.linalg.lstsq(terms[0], log_y)[0][None])
    samples = sample_coefficients(terms, fit, np.arange(60), samples=2000, seed=0)
    bread = np.linalg.inv(terms[0].T @ terms[0])
    left_out = fit.residuals / (1 - np.diag(terms[0] @ bread @ terms[0].T))
    covariance = bread @ (terms[0].T * left_out**2) @ terms[0] @ bread * 58 / 56  # Student's variance, of 58
    np.testing.assert_allclose(np.cov(samples.T), covariance, rtol=0.15)
    again = sample_coefficients(terms, fit, np.arange(60), samples=2000, seed=0)
    assert (samples == again).all()
    assert (samples != sample_coefficients(terms, fit, np.arange(60), samples=2000, seed=1)).all()


def test_a_vanished_term_is_raised_where_samples_begin() -> None:
    terms = [np.stack([np.ones(4), np.arange(4.0)], axis=1), np.ones((4, 1))]
    begin = visible(terms, np.array([0.0, -1.0, -50.0]))
    assert begin[:2].tolist() == [0.0, -1.0]
    assert np.abs(jacobian(terms, begin[None])[0, :, 2]).max() == pytest.approx(0.05, rel=0.06)
    assert (visible(terms, np.array([0.0, -1.0, -3.0])) == [0.0, -1.0, -3.0]).all()
