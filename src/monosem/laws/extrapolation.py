"""How well a law fitted to the smaller runs foretells the largest."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from monosem.errors import UserError
from monosem.laws.fit import SAMPLES, fit_law
from monosem.laws.law import Form, Law, Numbers, Prediction


class Extrapolation(NamedTuple):
    """The runs that were kept from the fit, and what it says of them."""

    law: Law
    """Fitted to all other runs."""
    variables: Float64[ndarray, "variables held_out"]
    measured: Float64[ndarray, " held_out"]
    predicted: Prediction
    """With 95% intervals for one more measurement: noise about the law is in them."""
    relative_errors: Float64[ndarray, " held_out"]
    """Predicted over measured, less 1."""
    is_inside: Bool[ndarray, " held_out"]
    """Whether a measured value lies in its interval."""


def extrapolate(
    form: Form,
    *variables: Numbers,
    y: Numbers,
    along: str,
    largest: int = 1,
    group: Sequence[Hashable] | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Extrapolation:
    """Fit to all runs but those of the ``largest`` greatest values of one variable, and predict those.

    Args:
        along: name of that variable.

    Raises:
        UndeterminedError: too few runs are left to fit; see ``fit_law``.
        UserError: the form has no such variable, or nothing would be held out.
    """
    if along not in form.variables or largest < 1:
        raise UserError(f"along={along}, largest={largest}: name one of {', '.join(form.variables)}, and at least 1.")
    columns = np.stack([np.asarray(each, dtype=np.float64) for each in variables])
    measured, names = np.asarray(y, dtype=np.float64), list(range(len(columns[0])) if group is None else group)
    swept = columns[form.variables.index(along)]
    is_held_out = np.isin(swept, np.unique(swept)[-largest:])
    kept = [name for name, held_out in zip(names, is_held_out, strict=True) if not held_out]
    law = fit_law(form, *columns[:, ~is_held_out], y=measured[~is_held_out], group=kept, samples=samples, seed=seed)
    return judge(law, columns[:, is_held_out], measured[is_held_out])


def judge(
    law: Law, variables: Float64[ndarray, "variables held_out"], measured: Float64[ndarray, " held_out"]
) -> Extrapolation:
    """What a law says of measurements that it was not fitted to."""
    predicted = law.predict(*variables, observed=True)
    return Extrapolation(
        law=law,
        variables=variables,
        measured=measured,
        predicted=predicted,
        relative_errors=predicted.value / measured - 1,
        is_inside=(predicted.low <= measured) & (measured <= predicted.high),
    )
