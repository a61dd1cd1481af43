"""One-dimensional logistic regressions on the CPU, by Newton's method in compiled code; see ``ops/reference_logistic``.

A row of values is standardised once and stays in cache through all of its steps. Exponential and logarithm are
polynomials, so that the loop over examples is one of vectors: 16 examples at a time where the processor has AVX-512.
Sums run in float32 over 512 examples and in float64 over these, in an order that does not depend on threads.
"""

import math
from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from monosem.ops.compiled import inner, kernel, use_as_many_threads_as_torch
from monosem.ops.reference_logistic import (
    GAINS,
    LEAST_CURVATURE,
    LEAST_WITHIN,
    MAX_HALVINGS,
    MAX_STEPS,
    SLACKS,
    LogisticFits,
)

GAIN, SLACK = GAINS[torch.float32], SLACKS[torch.float32]
BLOCK = 512
LOG2_E = np.float32(1 / math.log(2))
# e⁻ᵗ is 0 beyond: the smallest normal float32 is 2⁻¹²⁶.
LARGEST_POWER = np.float32(126)
# Minimax polynomials in relative error, lowest power first. 2⁻ᶠ on [0, 1]: 7.5e-8; log(1 + e) / e on [0, 1]: 3.0e-8.
E0, E1, E2, E3, E4, E5 = (
    np.float32(c)
    for c in (
        0.9999999250635047,
        -0.6931422525923621,
        0.24017218924209002,
        -0.055279722563738184,
        0.009188611711428821,
        -0.000938788329146625,
    )
)
L0, L1, L2, L3, L4, L5, L6, L7, L8 = (
    np.float32(c)
    for c in (
        0.9999999698795063,
        -0.4999949313982186,
        0.3331909679409056,
        -0.2484298210747014,
        0.19106006346994542,
        -0.13663244917271175,
        0.07822594155174381,
        -0.029505232443800312,
        0.005232692685125001,
    )
)


@inner
def exp_minus(t: Any) -> Any:
    """e⁻ᵗ of a float32 t ≥ 0, as 2⁻ᵏ · 2⁻ᶠ with k the whole part of t log₂ e."""
    power = min(t * LOG2_E, LARGEST_POWER)
    whole = np.int32(power)
    f = power - np.float32(whole)
    scale = np.int32((np.int32(127) - whole) << 23).view(np.float32)
    return scale * (E0 + f * (E1 + f * (E2 + f * (E3 + f * (E4 + f * E5)))))


@inner
def log_one_plus(e: Any) -> Any:
    """log(1 + e) of a float32 e in [0, 1]."""
    return e * (L0 + e * (L1 + e * (L2 + e * (L3 + e * (L4 + e * (L5 + e * (L6 + e * (L7 + e * L8))))))))


@inner
def evaluate(v: Any, signs: Any, slope: Any, intercept: Any, ridge: Any) -> Any:
    """The loss, its gradient by slope and intercept, and its Hessian; see ``reference_logistic._evaluate``."""
    one, w, b = np.float32(1), np.float32(slope), np.float32(intercept)
    loss = g_w = g_b = h_ww = h_wb = h_bb = 0.0
    for start in range(0, len(v), BLOCK):
        part = gw = gb = hww = hwb = hbb = np.float32(0)
        for t in range(start, min(start + BLOCK, len(v))):
            margin = signs[t] * (w * v[t] + b)
            e = exp_minus(abs(margin))
            right = one / (one + e)  # σ(|margin|)
            wrong = e * right
            part += log_one_plus(e) - min(margin, np.float32(0))
            first = -signs[t] * (right if margin < 0 else wrong)
            second = right * wrong
            gw += first * v[t]
            gb += first
            hww += second * v[t] * v[t]
            hwb += second * v[t]
            hbb += second
        loss, g_w, g_b, h_ww, h_wb, h_bb = loss + part, g_w + gw, g_b + gb, h_ww + hww, h_wb + hwb, h_bb + hbb
    n = float(len(v))
    penalty = ridge / 2 * slope * slope
    return loss / n + penalty, g_w / n + ridge * slope, g_b / n, h_ww / n + ridge, h_wb / n, h_bb / n


@inner
def newton_step(g_w: Any, g_b: Any, h_ww: Any, h_wb: Any, h_bb: Any) -> Any:
    """See ``reference_logistic._step``."""
    h_bb = max(h_bb, LEAST_CURVATURE)
    determinant = h_ww * h_bb - h_wb * h_wb
    by_slope, by_intercept = (h_wb * g_b - h_bb * g_w) / determinant, (h_wb * g_w - h_ww * g_b) / determinant
    return by_slope, by_intercept, -(g_w * by_slope + g_b * by_intercept) / 2


@inner
def minimise(v: Any, signs: Any, slope: Any, intercept: Any, point: Any, ridge: Any) -> Any:
    """See ``reference_logistic._newton``; ``point`` is what ``evaluate`` gives at the start."""
    for _ in range(MAX_STEPS):
        by_slope, by_intercept, gain = newton_step(point[1], point[2], point[3], point[4], point[5])
        if gain <= GAIN:
            return slope + by_slope, intercept + by_intercept, point[0] - gain, True
        size = 1.0
        for _ in range(MAX_HALVINGS):
            trial = evaluate(v, signs, slope + size * by_slope, intercept + size * by_intercept, ridge)
            if trial[0] <= point[0] - 2e-4 * size * gain + SLACK:
                break
            size /= 2
        else:
            return slope, intercept, point[0], False
        slope, intercept, point = slope + size * by_slope, intercept + size * by_intercept, trial
    return slope, intercept, point[0], False


@inner
def standardise(z: Any, least_spread: Any, v: Any) -> Any:
    """Write z without its mean and scale to ``v``, a constant one as zeros; give both."""
    total, squares = 0.0, 0.0
    for t in range(len(z)):
        total += float(z[t])
    mean = total / len(z)
    for t in range(len(z)):
        squares += (z[t] - mean) * (z[t] - mean)
    spread = math.sqrt(squares / len(z))
    if not spread > least_spread:
        v[:] = 0
        return mean, 1.0
    for t in range(len(z)):
        v[t] = (z[t] - mean) / spread
    return mean, spread


@inner
def discriminant(v: Any, signs: Any, share: Any, ridge: Any) -> Any:
    """See ``reference_logistic._start``; with what ``evaluate`` gives there."""
    n = len(v)
    half_difference = 0.0
    for start in range(0, n, BLOCK):
        part = np.float32(0)
        for t in range(start, min(start + BLOCK, n)):
            part += signs[t] * v[t]
        half_difference += part / 2
    # The sum of v is zero, so the classes' sums are opposite.
    above, below = half_difference / (share * n), -half_difference / ((1 - share) * n)
    within = max(1 - share * (1 - share) * (above - below) ** 2, LEAST_WITHIN)
    constant = math.log(share / (1 - share))
    slope = (above - below) / within
    intercept = constant - slope * (above + below) / 2
    point = evaluate(v, signs, slope, intercept, ridge)
    if point[0] < -share * math.log(share) - (1 - share) * math.log(1 - share):
        return slope, intercept, point
    return 0.0, constant, evaluate(v, signs, 0.0, constant, ridge)


@kernel
def fit_rows(z: Any, signs: Any, least_spread: Any, ridge: Any, fits: Any, is_converged: Any) -> None:
    """Write slope, intercept and loss of every row of z to its row of ``fits``."""
    n = len(signs)
    share = float((signs > 0).sum()) / n
    for i in prange(len(z)):
        v = np.empty(n, np.float32)
        mean, spread = standardise(z[i], least_spread[i], v)
        slope, intercept, point = discriminant(v, signs, share, ridge)
        slope, intercept, loss, converged = minimise(v, signs, slope, intercept, point, ridge)
        fits[i, 0] = slope / spread
        fits[i, 1] = intercept - slope / spread * mean
        fits[i, 2] = loss
        is_converged[i] = converged


def fit_logistic(z: Tensor, labels: Tensor, least_spread: Tensor, ridge: float) -> LogisticFits:
    """See ``reference_logistic.fit_logistic``."""
    use_as_many_threads_as_torch()
    fits, is_converged = torch.empty(len(z), 3, dtype=torch.float64), torch.empty(len(z), dtype=torch.bool)
    signs = 2 * labels.float() - 1
    arrays = (z.contiguous().numpy(), signs.numpy(), least_spread.double().numpy(), ridge, fits.numpy())
    fit_rows(*arrays, is_converged.numpy())
    return LogisticFits(fits[:, 0], fits[:, 1], fits[:, 2], is_converged)
