"""Runs drawn from known laws."""

from collections.abc import Callable

import numpy as np
import pytest

Runs = tuple[np.ndarray, np.ndarray, np.ndarray]

# Gao et al. 2024, the joint law of GPT-4: alpha, beta_k, beta_n, gamma, zeta, eta.
PUBLISHED = (-0.50, 0.26, -0.017, -0.042, -1.32, -0.085)


def _joint_runs(
    seed: int = 0,
    *,
    log2_n: tuple[float, ...] = (11, 13, 15, 17, 19, 21),
    log2_k: tuple[float, ...] = (3, 4, 5, 6, 7, 8, 9),
    noise: float = 0.01,
) -> Runs:
    alpha, beta_k, beta_n, gamma, zeta, eta = PUBLISHED
    n, k = (grid.ravel() for grid in np.meshgrid(2.0 ** np.array(log2_n), 2.0 ** np.array(log2_k)))
    log_n, log_k = np.log(n), np.log(k)
    removed = np.exp(alpha + beta_k * log_k + beta_n * log_n + gamma * log_k * log_n)
    loss = removed + np.exp(zeta + eta * log_k)
    return n, k, loss * np.exp(noise * np.random.default_rng([1, seed]).standard_normal(len(n)))


@pytest.fixture
def published() -> dict[str, float]:
    """The published joint law's coefficients."""
    return dict(zip(("alpha", "beta_k", "beta_n", "gamma", "zeta", "eta"), PUBLISHED, strict=True))


@pytest.fixture
def joint_runs() -> Callable[..., Runs]:
    """``joint_runs(seed, log2_n=…, log2_k=…, noise=…)``: n, k and loss of a full grid, by the published law."""
    return _joint_runs
