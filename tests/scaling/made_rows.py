"""Rows of sweeps, made by known laws."""

from typing import Any

import numpy as np

SIZES, KS = tuple(2**power for power in range(8, 14)), (2, 4, 8, 16, 32, 64)
ALPHA, BETA_K, BETA_N, GAMMA, ZETA, ETA = -0.50, 0.26, -0.017, -0.042, -1.32, -0.085
GAIN = 0.05


def loss_at_convergence(n: float, k: float) -> float:
    log_n, log_k = np.log(n), np.log(k)
    return float(np.exp(ALPHA + BETA_K * log_k + BETA_N * log_n + GAMMA * log_k * log_n) + np.exp(ZETA + ETA * log_k))


def tokens_to_convergence(n: float) -> float:
    return 1e6 * (n / 256) ** 0.6


def row(n: int, k: int = 8, *, budget: float = 8.0, subject: str = "model", seed: int = 0, **changes: Any) -> dict:
    """A run whose loss is 1 + g/(1/2 − g) · T*/T times a floor, so that twice the tokens gain g at T*: exactly."""
    rng = np.random.default_rng([n, k, seed])
    at_convergence = tokens_to_convergence(n)
    excess = GAIN / (0.5 - GAIN)
    tokens = np.geomspace(at_convergence / 30, budget * at_convergence, 60)
    floor = loss_at_convergence(n, k) / (1 + excess) * np.exp(0.003 * rng.standard_normal())
    losses = floor * (1 + excess * at_convergence / tokens)
    values = {
        "name": f"{subject}-n{n}-k{k}-s{seed}-{changes.get('learning_rate', 0)}",
        "subject": subject,
        "subject_parameters": 1000,
        "hookpoint": "h.1",
        "architecture": "topk",
        "n_latents": n,
        "k": float(k),
        "tokens": int(tokens[-1]),
        "batch_size": 2048,
        "learning_rate": 1e-3,
        "seed": seed,
        "flops_per_token": 12.0 * n * 64,
        "normalized_mse": losses[-1],
        "cross_entropy_increase": 2.5 * losses[-1] ** 1.3 * np.exp(0.01 * rng.standard_normal()),
        "curve_tokens": tokens.tolist(),
        "curve_normalized_mse": losses.tolist(),
    }
    return {**values, **changes}
