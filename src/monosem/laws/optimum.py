"""The best setting of a swept quantity, such as a learning rate: a parabola in log x about the least loss."""

from typing import NamedTuple

import numpy as np
from numpy import ndarray

from monosem.errors import UserError
from monosem.laws.law import Numbers, UndeterminedError, refuse_unless_positive


class Optimum(NamedTuple):
    """Where the parabola is least."""

    x: float
    loss: float
    """What the parabola gives there."""
    curvature: float
    """Second derivative of log loss by log x: how much it costs to miss x."""
    runs: int
    """Runs that the parabola was fitted to, seeds each for itself."""


def optimum(x: Numbers, loss: Numbers, *, neighbours: int = 2) -> Optimum:
    """The x of least loss, by least squares of log loss to a parabola in log x.

    Runs of one x, such as seeds, are fitted together. The parabola goes through the x of least mean log loss and as
    many as ``neighbours`` on each side; farther out a sweep is no parabola.

    Raises:
        UndeterminedError: the least loss lies at an end of what was measured, or the parabola's least point does not
            lie between the neighbours of the least measured.
        UserError: a value is not positive.
    """
    rate, measured = np.asarray(x, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if rate.shape != measured.shape or rate.ndim != 1 or neighbours < 1:
        raise UserError(
            f"{rate.size} values of x, {measured.size} of loss, {neighbours} neighbours; give as many of "
            "both, in one dimension, and at least one neighbour."
        )
    refuse_unless_positive("x", rate)
    refuse_unless_positive("loss", measured)
    swept, of = np.unique(rate, return_inverse=True)
    if len(swept) < 3:
        raise UndeterminedError(f"An optimum needs 3 different values of x, not {len(swept)}; measure more.")
    least = int((np.bincount(of, np.log(measured)) / np.bincount(of)).argmin())
    if least in (0, len(swept) - 1):
        end, beyond = ("lowest", "lower") if least == 0 else ("highest", "higher")
        raise UndeterminedError(
            f"The least loss is at x={swept[least]:.4g}, the {end} measured, so the optimum may lie beyond; measure "
            f"{beyond} x."
        )
    near = np.abs(of - least) <= neighbours
    return _vertex(np.log(rate[near]), np.log(measured[near]), np.log(swept[least - 1 : least + 2]))


def _vertex(log_x: ndarray, log_loss: ndarray, about: ndarray) -> Optimum:
    """Of the parabola through runs; ``about`` are the logarithms of the least x and its neighbours."""
    quadratic, linear, constant = np.polynomial.polynomial.polyfit(log_x - about[1], log_loss, 2)[::-1]
    vertex = -linear / (2 * quadratic) if quadratic > 0 else np.inf
    if not about[0] < about[1] + vertex < about[2]:
        raise UndeterminedError(
            f"The losses about x={np.exp(about[1]):.4g} are no valley: noise or another shape; measure more seeds, "
            "or other x between."
        )
    least = constant + linear * vertex + quadratic * vertex**2
    return Optimum(float(np.exp(about[1] + vertex)), float(np.exp(least)), float(2 * quadratic), len(log_x))
