"""A fitted law: coefficients with intervals, predictions with intervals, and what the data could not determine."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from monosem.errors import UserError
from monosem.laws.fitting import Terms, log_values

Numbers = Sequence[float | int] | ndarray

# Noise of a new measurement is put on each sample of the law at so many evenly spaced quantiles.
NOISE_QUANTILES = 41


class UndeterminedError(UserError):
    """The data cannot determine what is asked for; the message says why, and what data would."""


class Estimate(NamedTuple):
    """A value and its 95% interval. A value of None is not determined: anything in the interval fits the data."""

    value: float | None
    low: float | None
    high: float | None


class Prediction(NamedTuple):
    """What a law says of each point asked for, with 95% intervals."""

    value: Float64[ndarray, " points"]
    low: Float64[ndarray, " points"]
    high: Float64[ndarray, " points"]


@dataclass(frozen=True, kw_only=True)
class Form:
    """A kind of law: y = Σ_t exp(F_t θ_t) of some variables."""

    name: str
    variables: tuple[str, ...]
    terms: Callable[[Float64[ndarray, "points variables"]], Terms]
    """The features F_t of each term, from the logarithms of the variables."""
    parameters: tuple[tuple[str, ...], ...]
    """The names of each term's parameters, as they are reported."""
    named: Callable[[Float64[ndarray, "fits coefficients"]], Float64[ndarray, "fits coefficients"]]
    """The reported parameters, in the order of their names, from θ."""
    slopes: tuple[float, ...] = ()
    """Of a second term's last feature, where a fit begins; none if that term has no slope."""
    fewest: Mapping[str, int]
    """How many different values of each variable a fit needs."""
    falls: bool = False
    """Whether the law can only fall with its variable; measurements that rise are refused."""
    meanings: tuple[str, ...]
    """What each term is, in words."""
    remedy: str
    """What to do where a term is not determined."""


@dataclass(frozen=True, kw_only=True)
class Law:
    """A fit of a form, its bootstrap samples, and why some of its parameters are not determined, if so."""

    form: Form
    best: Float64[ndarray, " coefficients"]
    """θ of the best fit."""
    samples: Float64[ndarray, "samples coefficients"]
    """θ of fits to bootstrap samples."""
    residual_scale: float
    """Robust standard deviation of log y about the law."""
    points: int
    """Runs fitted."""
    groups: int
    """Settings among them; runs of one setting differ in their seed alone."""
    undetermined: Mapping[str, str]
    """Reasons, by the names of parameters."""

    @property
    def parameters(self) -> dict[str, Estimate]:
        """Each parameter with the middle 95% of its values on the samples."""
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            values, samples = self.form.named(self.best[None])[0], self.form.named(self.samples)
        names = [name for term in self.form.parameters for name in term]
        return {
            name: Estimate(None if name in self.undetermined else _finite(value), *_interval(column))
            for name, value, column in zip(names, values, samples.T, strict=True)
        }

    def determined(self) -> "Law":
        """The law itself.

        Raises:
            UndeterminedError: some parameter is not determined.
        """
        if self.undetermined:
            raise UndeterminedError(" ".join(dict.fromkeys(self.undetermined.values())))
        return self

    def predict(self, *variables: Numbers, observed: bool = False) -> Prediction:
        """The law at points given by each variable's values; as many of each, or one for all.

        The best fit's value, and the middle 95% of the samples' values (NaN without samples). Defined, with an honest
        interval, even where a single parameter is not determined. ``observed`` adds the noise of one more measurement
        to the interval.
        """
        terms = self.form.terms(logarithms(self.form, variables))
        value, samples = log_values(terms, self.best[None])[0], log_values(terms, self.samples)
        if observed:
            noise = self.residual_scale * self._noise_quantiles()
            samples = (samples[:, None, :] + noise[None, :, None]).reshape(-1, samples.shape[1])
        bounds = np.quantile(samples, [0.025, 0.975], axis=0) if len(samples) else np.full((2, len(value)), np.nan)
        low, high = bounds
        return Prediction(np.exp(value), np.exp(low), np.exp(high))

    def _noise_quantiles(self) -> Float64[ndarray, " quantiles"]:
        """Student's t, for the residuals' scale is itself estimated."""
        from scipy.stats import t

        middles = (np.arange(NOISE_QUANTILES) + 0.5) / NOISE_QUANTILES
        return t.ppf(middles, self.groups - len(self.best))

    def to_dict(self) -> dict[str, Any]:
        """Plain values: the law as it can be stored, and its parameters for a reader."""
        return {
            "form": self.form.name,
            "parameters": {name: list(estimate) for name, estimate in self.parameters.items()},
            "undetermined": dict(self.undetermined),
            "residual_scale": self.residual_scale,
            "points": self.points,
            "groups": self.groups,
            "best": self.best.tolist(),
            "samples": self.samples.tolist(),
        }


def logarithms(form: Form, variables: Sequence[Numbers]) -> Float64[ndarray, "points variables"]:
    """The logarithms of a form's variables, a column each.

    Raises:
        UserError: a variable is missing, has another number of values, or one that is not positive.
    """
    columns = [np.atleast_1d(np.asarray(each, dtype=np.float64)) for each in variables]
    if len(columns) != len(form.variables) or len({len(each) for each in columns} - {1}) > 1:
        raise UserError(f"A law of {' and '.join(form.variables)} needs as many values of each, in one dimension.")
    for name, column in zip(form.variables, columns, strict=True):
        refuse_unless_positive(name, column)
    return np.log(np.stack(np.broadcast_arrays(*columns), axis=1))


def refuse_unless_positive(name: str, values: Float64[ndarray, " values"]) -> None:
    """Logarithms are taken of all that laws are fitted to."""
    if not bool((np.isfinite(values) & (values > 0)).all()):
        bad = values[~(np.isfinite(values) & (values > 0))][0]
        raise UserError(f"{name}={bad} is no point of a law: values must be positive and finite; leave that run out.")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _interval(samples: Float64[ndarray, " samples"]) -> tuple[float | None, float | None]:
    """The middle 95%; None where no sample, or one of no finite number, bounds it."""
    if len(samples) == 0 or bool(np.isnan(samples).any()):
        return None, None
    low, high = np.quantile(samples, [0.025, 0.975], method="inverted_cdf")
    return _finite(low), _finite(high)
