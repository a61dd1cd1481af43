"""What the data of a fit cannot determine, as its bootstrap samples see it.

A term of a law is determined if the 95% interval of its value spans less than a factor of ten, at every point where it
matters: where its share of the law is at least a quarter of its greatest share. A term that some samples do without has
an interval down to zero; one whose slope is not known has a wide one at the ends of the data. That it matters at
enough points to tell its parameters apart at all is asked for too. Where a law's second term is not determined, nothing
of the first one is: it is what the second leaves.
"""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from monosem.laws.fitting import Fit, Terms, log_terms
from monosem.laws.law import Form

WIDEST_FACTOR = 10.0
MATTERS = 0.25
# A term that is no larger a share of the law than this is called 0.
NOTHING = 1e-3


def undetermined_parameters(
    form: Form,
    logs: Float64[ndarray, "points variables"],
    terms: Terms,
    fit: Fit,
    samples: Float64[ndarray, "samples coefficients"],
) -> dict[str, str]:
    """Why each parameter that is not determined is not."""
    best = log_terms(terms, fit.coefficients[None])[0]
    law = np.logaddexp.reduce(best, axis=1)
    low, high = np.quantile(log_terms(terms, samples), [0.025, 0.975], axis=0)
    reasons: dict[str, str] = {}
    for number, names in enumerate(form.parameters):
        share = np.exp(best[:, number] - law)
        matters = np.flatnonzero(share >= MATTERS * share.max())
        # Of points alike, such as those of a constant term, the one where the term is the greatest share.
        widest = matters[np.lexsort((share[matters], (high - low)[matters, number].round(6)))[-1]]
        is_nothing = low[widest, number] - law[widest] < np.log(NOTHING)
        if is_nothing or (high - low)[widest, number] >= np.log(WIDEST_FACTOR):
            reason = _reason(form, number, logs[widest], low[widest, number], high[widest, number], law[widest])
        elif np.linalg.matrix_rank(terms[number][matters]) < len(names):
            reason = (
                f"{_listed(names)} not determined: {form.meanings[number]} matters at too few points; {form.remedy}."
            )
        else:
            continue
        reasons |= dict.fromkeys(names, reason)
    return reasons | _of_the_rest(form, reasons)


def _of_the_rest(form: Form, reasons: dict[str, str]) -> dict[str, str]:
    """Parameters of other terms, where a second one is not determined: what is left of the law is then not known."""
    second, names = len(form.parameters) - 1, form.parameters[-1]
    if second == 0 or names[0] not in reasons:
        return {}
    rest = tuple(name for term in form.parameters[:-1] for name in term if name not in reasons)
    if not rest:
        return {}
    why = f"{_listed(rest)} not determined: they depend on {form.meanings[second]}, which is not; {form.remedy}."
    return dict.fromkeys(rest, why)


def _reason(form: Form, number: int, logs: ndarray, low: float, high: float, law: float) -> str:
    where = ", ".join(f"{name} = {value:.4g}" for name, value in zip(form.variables, np.exp(logs), strict=True))
    least = "0" if low - law < np.log(NOTHING) else f"{np.exp(low):.2g}"
    return (
        f"{_listed(form.parameters[number])} not determined: {form.meanings[number]} could be anything from {least} to "
        f"{np.exp(high):.2g} at {where}, where the whole law is {np.exp(law):.2g}; {form.remedy}."
    )


def _listed(names: tuple[str, ...]) -> str:
    return f"{names[0]} is" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} are"
