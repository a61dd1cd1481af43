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


def test_noise_of_single_runs_is_their_enlarged_residuals_about_their_mean() -> None:
    residuals, leverage = np.array([0.1, -0.2, 0.3, 0.0, -0.1]), np.array([0.75, 0.0, 0.19, 0.36, 0.99])
    enlarged = residuals / np.sqrt([0.25, 1, 0.81, 0.64, 0.05])
    noise = draw_noise(residuals, leverage, ALONE, 400, derive_generator(0))
    np.testing.assert_allclose(np.unique(noise.round(12)), np.unique((enlarged - enlarged.mean()).round(12)))


def test_what_all_seeds_of_a_setting_share_stays_shared() -> None:
    group = np.array([0, 0, 1, 1, 2, 2])
    shared = np.array([0.1, 0.1, -0.3, -0.3, 0.2, 0.2])
    noise = draw_noise(shared, np.zeros(6), group, 50, derive_generator(0))
    np.testing.assert_allclose(noise[:, ::2], noise[:, 1::2], atol=1e-12)
    assert noise.std() > 0.1


def test_noise_of_seeds_alone_keeps_its_size() -> None:
    group = np.repeat(np.arange(300), 3)
    residuals = np.random.default_rng(0).standard_normal(900)
    noise = draw_noise(residuals, np.zeros(900), group, 40, derive_generator(0))
    assert noise.std() == pytest.approx(1.0, abs=0.03)
    assert noise.reshape(40, 300, 3).mean(axis=2).std() == pytest.approx(3**-0.5, abs=0.02)


def test_inflated_normal_noise_is_students() -> None:
    draws = student_inflation(3, 40_000, derive_generator(0))
    normal = np.random.default_rng(0).standard_normal(40_000)
    assert np.quantile(np.abs(draws * normal), 0.95) == pytest.approx(3.182, abs=0.08)  # t of 3 at 97.5%


def test_samples_of_a_line_spread_as_regression_says() -> None:
    log_x = np.linspace(0, 5, 60)
    terms = [np.stack([np.ones(60), log_x], axis=1)]
    log_y = 1 - 0.5 * log_x + 0.1 * np.random.default_rng(5).standard_normal(60)
    fit = robust_fit(terms, log_y, np.linalg.lstsq(terms[0], log_y)[0][None])
    samples = sample_coefficients(terms, fit, np.arange(60), samples=2000, seed=0)
    covariance = np.linalg.inv(terms[0].T @ terms[0]) * fit.residuals.var(ddof=2)
    np.testing.assert_allclose(np.cov(samples.T), covariance, rtol=0.2)
    again = sample_coefficients(terms, fit, np.arange(60), samples=2000, seed=0)
    assert (samples == again).all()
    assert (samples != sample_coefficients(terms, fit, np.arange(60), samples=2000, seed=1)).all()


def test_a_vanished_term_is_raised_where_samples_begin() -> None:
    terms = [np.stack([np.ones(4), np.arange(4.0)], axis=1), np.ones((4, 1))]
    begin = visible(terms, np.array([0.0, -1.0, -50.0]))
    assert begin[:2].tolist() == [0.0, -1.0]
    assert np.abs(jacobian(terms, begin[None])[0, :, 2]).max() == pytest.approx(0.05, rel=0.06)
    assert (visible(terms, np.array([0.0, -1.0, -3.0])) == [0.0, -1.0, -3.0]).all()
