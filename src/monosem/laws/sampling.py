"""Bootstrap samples of a law's coefficients: its residuals change sign at random, and the law is fitted again.

A run is a point. Runs of one setting that differ in their seed alone are a group and change sign together, so what they
share stays shared. Each residual stays at its place: noise may be larger at one end of the data than at the other. This
is the wild bootstrap (Wu 1986; by clusters Cameron, Gelbach and Miller 2008). A fit makes residuals smaller than
the noise; division by 1 − leverage gives what they would be if their own group had been left out. The noise's size is
only known from `freedom` residuals: each sample's noise is multiplied by √(freedom / χ²), which makes Student's
intervals of the normal ones. In simulations percentiles of these samples cover as they should from five points on. Of
the other ways, drawing pairs often keeps too few different runs of eight to fit a law to; drawing residuals from one
pool gives intervals narrower by a tenth to a quarter, but of the joint law's ζ and η they held the truth 77 times
in 100 where the noise grew fivefold with n, and these 87 and 90 times.
"""

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy import ndarray

from monosem.laws.fitting import Fit, Terms, jacobian, log_terms, log_values, minimise
from monosem.randomness import derive_generator

# A point that a fit goes through whatever its value has next to no residual left to enlarge.
LEAST_REST = 0.05
# Of the law, at the point where a term is the greatest share of it, when the fit to a sample starts.
LEAST_SHARE = 0.05


def sample_coefficients(
    terms: Terms, fit: Fit, group: Int64[ndarray, " points"], *, samples: int, seed: int
) -> Float64[ndarray, "samples coefficients"]:
    """Fits to the law with drawn noise, each from the best fit; as many as ``samples``.

    Args:
        group: number of the setting that a point is a run of, counted from 0; seeds of one setting share it.
    """
    generator = derive_generator(seed, "laws", "sample")
    leverage = leverages(jacobian(terms, fit.coefficients[None])[0])
    noise = draw_noise(fit.residuals, leverage, group, samples, generator)
    inflation = student_inflation(int(group.max()) + 1 - len(fit.coefficients), samples, generator)
    log_y = log_values(terms, fit.coefficients[None]) + noise * inflation[:, None]
    start = np.repeat(visible(terms, fit.coefficients)[None], samples, axis=0)
    return minimise(terms, log_y, start, fit.scale * inflation)[0]


def visible(terms: Terms, coefficients: Float64[ndarray, " coefficients"]) -> Float64[ndarray, " coefficients"]:
    """The best fit, with terms raised that all but vanish.

    A term of next to nothing has slopes of next to nothing: a sample that needs it could not find it from there.
    """
    logs = log_terms(terms, coefficients[None])[0]
    highest = (logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)).max(axis=0)
    raised, firsts = coefficients.copy(), np.cumsum([0, *(term.shape[1] for term in terms)])[:-1]
    raised[firsts] += np.maximum(np.log(LEAST_SHARE) - highest, 0)
    return raised


def leverages(slopes: Float64[ndarray, "points coefficients"]) -> Float64[ndarray, " points"]:
    """The diagonal of the projection onto the span of the slopes; of a singular matrix too."""
    left, sizes, _ = np.linalg.svd(slopes, full_matrices=False)
    return (left[:, sizes > 1e-10 * sizes[0]] ** 2).sum(axis=1)


def student_inflation(freedom: int, samples: int, generator: torch.Generator) -> Float64[ndarray, " samples"]:
    """√(freedom / χ²) of each sample."""
    normal = torch.randn(samples, freedom, generator=generator, dtype=torch.float64)
    return (freedom / normal.square().sum(dim=1)).sqrt().numpy()


def draw_noise(
    residuals: Float64[ndarray, " points"],
    leverage: Float64[ndarray, " points"],
    group: Int64[ndarray, " points"],
    samples: int,
    generator: torch.Generator,
) -> Float64[ndarray, "samples points"]:
    """Residuals, enlarged, with a random sign for each group."""
    rest = np.maximum(1 - np.bincount(group, leverage), LEAST_REST)
    signs = 2 * torch.randint(2, (samples, len(rest)), generator=generator).numpy() - 1
    return signs[:, group] * (residuals / rest[group])
