"""Robust fits of sums of power laws to logarithms, many at once.

Every law here is y = Σ_t exp(F_t θ_t): a sum of terms, each the exponential of something linear in its coefficients.
F_t is a matrix of features, a row a point: (1, log x) for a power law, (1) for an irreducible loss. Minimised is

    Σ_i s² ρ((log y_i − log Σ_t exp(F_t θ_t)_i) / s),    ρ(u) = u²/2 up to |u| = 1.345, linear beyond (Huber 1964),

by Levenberg and Marquardt's method with the exact Jacobian. Fits from many starts, or to many bootstrap samples, are
rows of one batch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

Terms = Sequence[Float64[ndarray, "points _"]]

# Huber's constant: 95% of least squares' efficiency where the noise is normal.
HUBER = 1.345
# The median of |u| of a standard normal u.
MEDIAN_OF_NORMAL = 0.6744897501960817
# Logarithms of measured numbers are no more exact than this.
LEAST_SCALE = 1e-9
ITERATIONS, SCALE_ITERATIONS = 300, 30
# A fit has converged when a step would lower its cost, relative to s², by less than this.
_TOLERANCE = 1e-10


class Fit(NamedTuple):
    """The coefficients of least cost, and the residuals that they leave."""

    coefficients: Float64[ndarray, " coefficients"]
    residuals: Float64[ndarray, " points"]
    """log y less that of the law."""
    scale: float
    """Robust standard deviation of the residuals."""


def robust_fit(
    terms: Terms, log_y: Float64[ndarray, " points"], starts: Float64[ndarray, "starts coefficients"]
) -> Fit:
    """The best fit from many starts, with Huber's loss in units of the residuals' own scale.

    Scale and fit are found in turns. Then every start has another try with that scale: an outlier can make another
    minimum look the best as long as the scale is not known.
    """
    best, scale = starts[0], residual_scale(log_y - log_values(terms, starts)[0], 0)
    for _ in range(2):
        best = _best(terms, log_y, np.concatenate([starts, best[None]]), scale)
        best, scale = _settled(terms, log_y, best, scale)
    return Fit(best, log_y - log_values(terms, best[None])[0], scale)


def residual_scale(residuals: Float64[ndarray, " points"], coefficients: int) -> float:
    """The standard deviation of normal noise with this median of absolute residuals.

    The smallest residuals are left out, as many as there are coefficients: a fit can make so many of them vanish.
    """
    return max(LEAST_SCALE, float(np.median(np.sort(np.abs(residuals))[coefficients:])) / MEDIAN_OF_NORMAL)


def _best(terms: Terms, log_y: ndarray, starts: ndarray, scale: float) -> Float64[ndarray, " coefficients"]:
    found, cost = minimise(terms, np.repeat(log_y[None], len(starts), axis=0), starts, np.full(len(starts), scale))
    return found[cost.argmin()]


def _settled(
    terms: Terms, log_y: ndarray, best: ndarray, scale: float
) -> tuple[Float64[ndarray, " coefficients"], float]:
    for _ in range(SCALE_ITERATIONS):
        before, scale = scale, residual_scale(log_y - log_values(terms, best[None])[0], len(best))
        best = _best(terms, log_y, best[None], scale)
        if abs(scale - before) < 1e-4 * before:
            break
    return best, scale


def log_terms(
    terms: Terms, coefficients: Float64[ndarray, "fits coefficients"]
) -> Float64[ndarray, "fits points terms"]:
    """The logarithm of each term at each point."""
    ends = np.cumsum([term.shape[1] for term in terms])[:-1]
    parts = np.split(coefficients, ends, axis=1)
    return np.stack([part @ term.T for term, part in zip(terms, parts, strict=True)], axis=-1)


def log_values(terms: Terms, coefficients: Float64[ndarray, "fits coefficients"]) -> Float64[ndarray, "fits points"]:
    """The logarithm of the law at each point."""
    return np.logaddexp.reduce(log_terms(terms, coefficients), axis=-1)


def jacobian(
    terms: Terms, coefficients: Float64[ndarray, "fits coefficients"]
) -> Float64[ndarray, "fits points coefficients"]:
    """∂ log y / ∂ θ: each term's features, times the term's share of the law."""
    logs = log_terms(terms, coefficients)
    shares = np.exp(logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True))
    return np.concatenate([shares[:, :, [number]] * term for number, term in enumerate(terms)], axis=2)


def huber(scaled: Float64[ndarray, "fits points"]) -> Float64[ndarray, "fits points"]:
    """ρ of residuals in units of their scale."""
    size = np.abs(scaled)
    return np.where(size <= HUBER, size**2 / 2, HUBER * (size - HUBER / 2))


def minimise(
    terms: Terms,
    log_y: Float64[ndarray, "fits points"],
    start: Float64[ndarray, "fits coefficients"],
    scale: Float64[ndarray, " fits"],
) -> tuple[Float64[ndarray, "fits coefficients"], Float64[ndarray, " fits"]]:
    """Each fit's coefficients of least cost near its start, and that cost in units of its scale."""
    found = start.copy()
    cost = _cost(terms, log_y, found, scale)
    damping = np.full(len(found), 1e-3)
    left = np.arange(len(found))
    for _ in range(ITERATIONS):
        step, expected = _step(terms, log_y[left], found[left], scale[left], damping[left])
        trial = found[left] + step
        trial_cost = _cost(terms, log_y[left], trial, scale[left])
        is_better = trial_cost < cost[left]
        found[left[is_better]], cost[left[is_better]] = trial[is_better], trial_cost[is_better]
        damping[left] = np.where(is_better, np.maximum(damping[left] / 5, 1e-9), damping[left] * 4)
        left = left[(expected > _TOLERANCE * (1e-6 + cost[left])) & (damping[left] < 1e9)]
        if len(left) == 0:
            break
    return found, cost


def _cost(terms: Terms, log_y: ndarray, coefficients: ndarray, scale: ndarray) -> Float64[ndarray, " fits"]:
    return huber((log_y - log_values(terms, coefficients)) / scale[:, None]).sum(axis=1)


def _step(
    terms: Terms, log_y: ndarray, coefficients: ndarray, scale: ndarray, damping: ndarray
) -> tuple[Float64[ndarray, "fits coefficients"], Float64[ndarray, " fits"]]:
    """The damped Gauss–Newton step, with Huber's weights, and by how much it should lower the cost."""
    slopes = jacobian(terms, coefficients) / scale[:, None, None]
    scaled = (log_y - log_values(terms, coefficients)) / scale[:, None]
    weights = HUBER / np.maximum(np.abs(scaled), HUBER)
    weighted = slopes * weights[:, :, None]
    normal = weighted.transpose(0, 2, 1) @ slopes
    gradient = (weighted * scaled[:, :, None]).sum(axis=1)
    diagonal = np.einsum("fpp->fp", normal)
    # A term that vanishes leaves nothing on the diagonal: the floor keeps its steps finite.
    added = damping[:, None] * np.maximum(diagonal, 1e-8 * diagonal.max(axis=1, keepdims=True))
    np.einsum("fpp->fp", normal)[...] += added
    step = np.linalg.solve(normal, gradient[:, :, None])[:, :, 0]
    return step, (step * gradient).sum(axis=1) / 2
