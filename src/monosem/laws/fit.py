"""Fit a form to measured runs, with intervals, and say what the runs do not determine."""

from collections.abc import Hashable, Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from monosem.errors import UserError
from monosem.laws.determination import undetermined_parameters
from monosem.laws.fitting import Terms, robust_fit
from monosem.laws.law import Form, Law, Numbers, UndeterminedError, logarithms, refuse_unless_positive
from monosem.laws.sampling import sample_coefficients

SAMPLES = 400
# Significant digits of a stored sample: what they leave out is far below any noise.
DIGITS = 7
# Where a fit is started, a second term is this share of the law at the point where it is the greatest.
START_SHARES = (0.02, 0.3, 0.6, 0.9, 0.99)


def fit_law(
    form: Form,
    *variables: Numbers,
    y: Numbers,
    group: Sequence[Hashable] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Law:
    """Least squares of log y with Huber's loss, and a bootstrap over runs.

    What the form needs but the runs cannot tell, stands in the law's ``undetermined``: the rest of it is still of use.

    Args:
        variables: each of the form's variables at every run: x; or n and k.
        y: what was measured at each run.
        group: what names each run's setting; runs that differ in their seed alone share it. By default every run is a
            setting of its own.
        samples: how many bootstrap samples; of none there are no intervals, and nothing is said to be undetermined.

    Raises:
        UndeterminedError: there are fewer settings, or fewer different values of a variable, than the form needs.
        UserError: a value is not positive, there are not as many of one as of the other, or y does not fall.
    """
    measured, logs = np.asarray(y, dtype=np.float64), logarithms(form, variables)
    refuse_unless_positive("y", measured)
    groups = _numbered(range(len(measured)) if group is None else group)
    if not len(logs) == len(measured) == len(groups):
        raise UserError(f"{len(logs)} runs, {len(measured)} values of y and {len(groups)} groups; give one of each.")
    terms = form.terms(logs)
    _refuse_few(form, logs, terms, groups)
    if form.falls and np.linalg.lstsq(terms[0], np.log(measured))[0][1] >= 0:
        raise UserError(f"y does not fall with {form.variables[0]}, and this law must; fit a power law instead.")
    fit = robust_fit(terms, np.log(measured), starts(form, terms, np.log(measured)))
    drawn = sample_coefficients(terms, fit, groups, samples=samples, seed=seed)
    return Law(
        form=form,
        best=fit.coefficients,
        samples=_rounded(drawn),
        residual_scale=fit.scale,
        points=len(logs),
        groups=int(groups.max()) + 1,
        undetermined=undetermined_parameters(form, logs, terms, fit, drawn) if len(drawn) else {},
    )


def starts(form: Form, terms: Terms, log_y: Float64[ndarray, " points"]) -> Float64[ndarray, "starts coefficients"]:
    """Where fits begin: a second term below all points, at several levels and slopes; the first one fits the rest."""
    if len(terms) == 1:
        return np.linalg.lstsq(terms[0], log_y)[0][None]
    found: list[ndarray] = []
    for slope in form.slopes or (0.0,):
        second = np.zeros(terms[1].shape[1])
        second[-1] = slope
        level = (log_y - terms[1] @ second).min()
        for share in START_SHARES:
            second[0] = level + np.log(share)
            rest = np.log(np.exp(log_y) - np.exp(terms[1] @ second))
            found.append(np.concatenate([np.linalg.lstsq(terms[0], rest)[0], second]))
    return np.stack(found)


def _refuse_few(form: Form, logs: ndarray, terms: Terms, groups: ndarray) -> None:
    count = len(np.unique(groups))
    needed = 1 + sum(map(len, form.parameters))
    if count < needed:
        raise UndeterminedError(f"The {form.name} law needs {needed} different settings, not {count}; measure more.")
    for number, (name, fewest) in enumerate(form.fewest.items()):
        distinct = len(np.unique(logs[:, number].round(9)))
        if distinct < fewest:
            raise UndeterminedError(
                f"The {form.name} law needs {fewest} different values of {name}, not {distinct}; measure more."
            )
    if any(np.linalg.matrix_rank(term / np.linalg.norm(term, axis=0), tol=1e-7) < term.shape[1] for term in terms):
        raise UndeterminedError(
            f"The {form.name} law needs {' and '.join(form.variables)} that vary apart; measure more values of one for "
            "each of the other."
        )


def _numbered(group: Sequence[Hashable]) -> Int64[ndarray, " points"]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(group))}
    return np.array([numbers[name] for name in group], dtype=np.int64)


def _rounded(samples: Float64[ndarray, "samples coefficients"]) -> Float64[ndarray, "samples coefficients"]:
    """What a law predicts now is what it predicts when it has been stored and read."""
    return np.array([float(f"{value:.{DIGITS}g}") for value in samples.flat]).reshape(samples.shape)
