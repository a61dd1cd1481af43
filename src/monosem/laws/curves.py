"""What is read from curves of training: where a run has converged, and the frontier of many runs."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from monosem.errors import UserError
from monosem.laws.law import UndeterminedError, refuse_unless_positive


class Convergence(NamedTuple):
    """Where a run has converged."""

    tokens: float
    loss: float


def convergence(
    tokens: Float64[ndarray, " measured"], loss: Float64[ndarray, " measured"], *, gain: float = 0.01
) -> Convergence | None:
    """The T from which on going to twice as many tokens lowers the loss by less than ``gain``, a share of it.

    That holds for every doubling that was measured from T on: a loss that stands still before it falls, as the averaged
    weights' does while the learning rate warms up, has not converged there. Between measurements log loss is linear in
    log tokens. A loss that rises has converged. None if the last measured doubling still gains so much: nothing is
    extrapolated. The curve is taken as it is, so give the mean over enough held-out tokens.

    Raises:
        UserError: tokens do not grow, a value is not positive, or the gain is no share.
    """
    if not 0 < gain < 1:
        raise UserError(f"gain={gain} is no share of a loss; choose one between 0 and 1.")
    log_tokens, log_loss = _logarithms("tokens", tokens, loss)
    doubled = np.log(2)
    at = np.unique(np.concatenate([log_tokens, log_tokens - doubled]))
    at = at[(at >= log_tokens[0]) & (at <= log_tokens[-1] - doubled)]
    # Between these the change by doubling is linear, so its first crossing is exact.
    change = np.interp(at + doubled, log_tokens, log_loss) - np.interp(at, log_tokens, log_loss)
    excess = change - np.log1p(-gain)
    if len(at) == 0 or excess[-1] <= 0:
        return None
    gains = np.flatnonzero(excess <= 0)
    first = int(gains[-1]) + 1 if len(gains) else 0
    where = at[0] if first == 0 else np.interp(0.0, excess[first - 1 : first + 1], at[first - 1 : first + 1])
    return Convergence(float(np.exp(where)), float(np.exp(np.interp(where, log_tokens, log_loss))))


class Curve(NamedTuple):
    """What a run had spent and reached as it went on."""

    size: float
    """Latents of the run."""
    compute: Float64[ndarray, " measured"]
    loss: Float64[ndarray, " measured"]


class Envelope(NamedTuple):
    """The least loss of all curves at points of compute."""

    compute: Float64[ndarray, " points"]
    loss: Float64[ndarray, " points"]
    best: Int64[ndarray, " points"]
    """The number of the curve that gives it."""


def envelope(curves: Sequence[Curve], *, per_decade: int = 10) -> Envelope:
    """The least loss at each point of a grid even in log compute, where it is a frontier.

    That is where the best run's size is between sizes: a larger one has been measured at that compute too, and every
    smaller one has, or its longest run ended before but could not have caught up, even if each further doubling had
    gained as much as its last. Elsewhere the best size may be one that was not measured.

    Raises:
        UndeterminedError: there is no such point.
        UserError: compute does not grow along a curve, or a value is not positive.
    """
    logs = [_logarithms("compute", curve.compute, curve.loss) for curve in curves]
    grid = _grid(logs, per_decade)
    losses = _log_losses(logs, grid)
    is_measured = np.isfinite(losses)
    sizes = np.array([curve.size for curve in curves])
    best = losses.argmin(axis=0) if len(logs) else np.zeros(0, dtype=np.int64)
    has_larger = (is_measured & (sizes[:, None] > sizes[best])).any(axis=0)
    has_smaller, is_settled = np.zeros(len(grid), dtype=bool), np.ones(len(grid), dtype=bool)
    for size in np.unique(sizes):
        of_size, is_smaller = np.flatnonzero(sizes == size), size < sizes[best]
        longest = max(of_size, key=lambda number: logs[number][0][-1])
        is_beaten = _least_beyond(grid, *logs[longest]) > losses.min(axis=0)
        has_smaller |= is_smaller
        is_settled &= ~is_smaller | is_measured[of_size].any(axis=0) | is_beaten
    kept = is_measured.any(axis=0) & has_smaller & is_settled & has_larger
    if not kept.any():
        raise UndeterminedError(
            "The curves have no frontier: nowhere is the best run's size between two others measured at that compute; "
            "train smaller and larger sizes, for longer."
        )
    return Envelope(np.exp(grid[kept]), np.exp(losses.min(axis=0)[kept]), best[kept].astype(np.int64))


class Crossing(NamedTuple):
    """Where one size of two neighbours takes over from the other."""

    compute: float
    size: float
    """Their geometric mean: here both are as good."""


def crossings(curves: Sequence[Curve]) -> list[Crossing]:
    """For each size and the next, the last compute at which the larger one's least loss becomes the lower.

    Where both have been measured, and between measurements linear in the logarithms; none where no such place was met.
    """
    of_size: dict[float, list[tuple[ndarray, ndarray]]] = {}
    for curve in sorted(curves, key=lambda curve: curve.size):
        of_size.setdefault(curve.size, []).append(_logarithms("compute", curve.compute, curve.loss))
    found: list[Crossing] = []
    for (smaller, before), (larger, after) in itertools.pairwise(of_size.items()):
        at = np.unique(np.concatenate([log_compute for log_compute, _ in before + after]))
        least = np.array([_log_losses(logs, at).min(axis=0) for logs in (before, after)])
        are_both = np.isfinite(least).all(axis=0)
        at, excess = at[are_both], least[0, are_both] - least[1, are_both]
        ends = np.flatnonzero((excess[:-1] < 0) & (excess[1:] >= 0))
        if len(ends):
            where = np.interp(0.0, excess[ends[-1] : ends[-1] + 2], at[ends[-1] : ends[-1] + 2])
            found.append(Crossing(float(np.exp(where)), (smaller * larger) ** 0.5))
    return found


def _log_losses(
    logs: Sequence[tuple[ndarray, ndarray]], at: Float64[ndarray, " points"]
) -> Float64[ndarray, "curves points"]:
    """Curves' log losses at points of log compute; ∞ where none was measured."""
    return np.array([np.interp(at, *log, left=np.inf, right=np.inf) for log in logs]).reshape(len(logs), len(at))


def _least_beyond(
    grid: Float64[ndarray, " grid"], log_compute: Float64[ndarray, " measured"], log_loss: Float64[ndarray, " measured"]
) -> Float64[ndarray, " grid"]:
    """The log loss that a run would have beyond its end, if each doubling gained as much as its last; −∞ elsewhere."""
    end, doubled = log_compute[-1], np.log(2)
    if log_compute[0] > end - doubled:  # no doubling was measured
        return np.full(len(grid), -np.inf)
    slope = min(0.0, (log_loss[-1] - np.interp(end - doubled, log_compute, log_loss)) / doubled)
    return np.where(grid > end, log_loss[-1] + slope * (grid - end), -np.inf)


def _grid(logs: Sequence[tuple[ndarray, ndarray]], per_decade: int) -> Float64[ndarray, " grid"]:
    """Whole multiples of a step, so that the same compute is asked of every choice of curves."""
    step = np.log(10) / per_decade
    ends = [end for log_compute, _ in logs for end in (log_compute[0], log_compute[-1])]
    if not ends:
        return np.zeros(0)
    return step * np.arange(np.ceil(min(ends) / step), np.floor(max(ends) / step) + 1)


def _logarithms(name: str, spent: ndarray, loss: ndarray) -> tuple[ndarray, ndarray]:
    if spent.shape != loss.shape or len(spent) == 0 or not bool((np.diff(spent) > 0).all()):
        raise UserError(f"{name} of a curve must grow from one loss to the next; sort it, with one loss for each.")
    refuse_unless_positive(name, spent)
    refuse_unless_positive("loss", loss)
    return np.log(spent), np.log(loss)
