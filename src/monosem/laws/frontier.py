"""L(C): the irreducible law along the frontier of many runs' curves (Gao et al. 2024, §3.1)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy import ndarray

from monosem.laws.curves import Curve, Envelope, envelope
from monosem.laws.fit import fitted_law, starts
from monosem.laws.fitting import Fit, minimise, robust_fit
from monosem.laws.forms import IRREDUCIBLE
from monosem.laws.law import Law, UndeterminedError
from monosem.laws.sampling import visible
from monosem.randomness import derive_generator

SAMPLES = 200
# More draws without a frontier than this share, and the runs are too few for intervals.
MOST_LOST = 0.5


def fit_frontier(curves: Sequence[Curve], *, per_decade: int = 10, samples: int = SAMPLES, seed: int = 0) -> Law:
    """The law of the envelope, with intervals from runs drawn again: points of one run stand or fall together.

    Each draw has an envelope of its own, and of its own extent. A draw of too few sizes has none, and is left out. The
    law's ``points`` are the envelope's, its ``groups`` the curves.

    Raises:
        UndeterminedError: the curves, or half of the draws, have no frontier of at least four points.
        UserError: a curve's compute does not grow, or a value is not positive.
    """
    whole = envelope(curves, per_decade=per_decade)
    _refuse_short(whole)
    log_compute, log_loss = np.log(whole.compute)[:, None], np.log(whole.loss)
    terms = IRREDUCIBLE.terms(log_compute)
    fit = robust_fit(terms, log_loss, starts(IRREDUCIBLE, terms, log_loss))
    generator = derive_generator(seed, "laws", "frontier")
    drawn = [_drawn_fit(curves, fit, per_decade, generator) for _ in range(samples)]
    found = [each for each in drawn if each is not None]
    if len(found) < (1 - MOST_LOST) * samples:
        raise UndeterminedError(
            f"Of {samples} draws of the {len(curves)} runs {samples - len(found)} have no frontier; train more sizes."
        )
    coefficients = np.array(found).reshape(-1, len(fit.coefficients))
    return fitted_law(IRREDUCIBLE, log_compute, fit, coefficients, groups=len(curves))


def _drawn_fit(curves: Sequence[Curve], fit: Fit, per_decade: int, generator: torch.Generator) -> ndarray | None:
    numbers = torch.randint(len(curves), (len(curves),), generator=generator).tolist()
    try:
        found = envelope([curves[number] for number in numbers], per_decade=per_decade)
        _refuse_short(found)
    except UndeterminedError:
        return None
    terms, log_loss = IRREDUCIBLE.terms(np.log(found.compute)[:, None]), np.log(found.loss)
    begin = np.concatenate([visible(terms, fit.coefficients)[None], starts(IRREDUCIBLE, terms, log_loss)])
    coefficients, cost = minimise(
        terms, np.repeat(log_loss[None], len(begin), axis=0), begin, np.full(len(begin), fit.scale)
    )
    return coefficients[cost.argmin()]


def _refuse_short(found: Envelope) -> None:
    if len(found.compute) < 4 or len(np.unique(found.best)) < 2:
        raise UndeterminedError(
            f"The frontier has {len(found.compute)} points of {len(np.unique(found.best))} runs, and a law needs 4 "
            "points of 2; train more sizes, for longer."
        )
