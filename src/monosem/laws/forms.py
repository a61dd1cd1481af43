"""The laws' forms: what of the paper's scaling section (Gao et al. 2024, §3) is fitted to measured runs."""

from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from monosem.errors import UserError
from monosem.laws.fitting import Terms
from monosem.laws.law import Form, Law

Logarithms = Float64[ndarray, "points variables"]
Coefficients = Float64[ndarray, "fits coefficients"]


def _line(log_x: Logarithms) -> Float64[ndarray, "points 2"]:
    return np.stack([np.ones(len(log_x)), log_x[:, 0]], axis=1)


def _power_terms(log_x: Logarithms) -> Terms:
    return [_line(log_x)]


def _power_named(theta: Coefficients) -> Coefficients:
    return np.stack([np.exp(theta[:, 0]), theta[:, 1]], axis=1)


def _irreducible_terms(log_x: Logarithms) -> Terms:
    return [_line(log_x), np.ones((len(log_x), 1))]


def _irreducible_named(theta: Coefficients) -> Coefficients:
    """exp(θ₀ + θ₁ log x) = (x / x₁)^−b with b = −θ₁ and log x₁ = θ₀ / b."""
    exponent = -theta[:, 1]
    return np.stack([exponent, np.exp(theta[:, 0] / exponent), np.exp(theta[:, 2])], axis=1)


def _joint_terms(logs: Logarithms) -> Terms:
    one, log_n, log_k = np.ones(len(logs)), logs[:, 0], logs[:, 1]
    return [np.stack([one, log_k, log_n, log_k * log_n], axis=1), np.stack([one, log_k], axis=1)]


def _joint_first(logs: Logarithms) -> Terms:
    return _joint_terms(logs)[:1]


POWER = Form(
    name="power",
    variables=("x",),
    terms=_power_terms,
    parameters=(("factor", "exponent"),),
    named=_power_named,
    fewest={"x": 3},
    meanings=("the law",),
    remedy="measure more, over a wider range of x",
)
"""y = a · x^p: ``factor`` a, ``exponent`` p."""

IRREDUCIBLE = Form(
    name="irreducible",
    variables=("x",),
    terms=_irreducible_terms,
    parameters=(("exponent", "scale"), ("irreducible",)),
    named=_irreducible_named,
    fewest={"x": 4},
    falls=True,
    meanings=("what falls with x", "what no x removes"),
    remedy="measure more, over a wider range of x, or fit the plain power law",
)
"""L(x) = L∞ + (x / x₁)^−b: ``exponent`` b, ``scale`` x₁, ``irreducible`` L∞."""

JOINT = Form(
    name="joint",
    variables=("n", "k"),
    terms=_joint_terms,
    parameters=(("alpha", "beta_k", "beta_n", "gamma"), ("zeta", "eta")),
    named=lambda theta: theta,
    slopes=(-0.4, -0.15, 0.0, 0.15),
    fewest={"n": 4, "k": 3},
    meanings=("what latents remove", "what no number of latents removes"),
    remedy="measure more, over a wider range of n and of k",
)
"""L(n, k) = exp(α + β_k log k + β_n log n + γ log k log n) + exp(ζ + η log k)."""

JOINT_POWER = Form(
    name="joint power",
    variables=("n", "k"),
    terms=_joint_first,
    parameters=(("alpha", "beta_k", "beta_n", "gamma"),),
    named=lambda theta: theta,
    fewest={"n": 3, "k": 3},
    meanings=("the law",),
    remedy="measure more, over a wider range of n and of k",
)
"""L(n, k) = exp(α + β_k log k + β_n log n + γ log k log n): the joint law where latents remove all."""

FORMS = {form.name: form for form in (POWER, IRREDUCIBLE, JOINT, JOINT_POWER)}


def law_from_dict(record: Any) -> Law:
    """The law that ``Law.to_dict`` made plain values of.

    Raises:
        UserError: it is none.
    """
    try:
        form = FORMS[record["form"]]
        width = sum(map(len, form.parameters))
        law = Law(
            form=form,
            best=np.array(record["best"], dtype=np.float64).reshape(width),
            samples=np.array(record["samples"], dtype=np.float64).reshape(-1, width),
            residual_scale=float(record["residual_scale"]),
            points=int(record["points"]),
            groups=int(record["groups"]),
            undetermined={str(name): str(reason) for name, reason in record["undetermined"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"The record holds no fitted law ({error!r}); fit the law again.") from error
    if not (np.isfinite(law.best).all() and np.isfinite(law.samples).all() and np.isfinite(law.residual_scale)):
        raise UserError("The record holds a law with numbers that are not finite; fit the law again.")
    return law
