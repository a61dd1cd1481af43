"""Laws of made rows with noise, one or many of a kind, fitted once for all tests."""

import dataclasses
from functools import cache
from typing import Any

import numpy as np
from made_rows import GAIN, KS, SIZES, loss_at_convergence, row

from monosem.scaling.fits import KINDS, Fits, FittedLaw, fit
from monosem.scaling.selection import FitConfig

CONFIG = FitConfig(samples=20, gain=GAIN)
SUBJECTS = {"tiny": (3_000_000, 0.5), "someone/a-model-of-a-long-name-and-more": (124_439_808, 0.8)}
MANY = tuple(range(4, 64, 3))


def noisy(each: dict, factor: float = 1.0) -> dict:
    """A run whose losses are all off by about 1%."""
    seeds = [each["n_latents"], int(each["k"]), each["seed"], 7]
    factor *= float(np.exp(0.01 * np.random.default_rng(seeds).standard_normal()))
    losses = [factor * loss for loss in each["curve_normalized_mse"]]
    return {**each, "curve_normalized_mse": losses, "normalized_mse": factor * each["normalized_mse"]}


def swept(n: int, k: int, rate: float) -> dict:
    """A run of a sweep of rates; the best falls like the root of n."""
    miss = np.log(rate / (0.004 * (n / 256) ** -0.5))
    loss = loss_at_convergence(n, k) * float(np.exp(0.1 * miss**2))
    return noisy(row(n, k, learning_rate=float(rate), tokens=10**6, normalized_mse=loss))


def rows_of_kind(what: str, ks: tuple[int, ...]) -> list[dict]:
    if what == "learning-rate":
        return [swept(n, k, rate) for n in SIZES[:4] for k in ks for rate in np.geomspace(2e-4, 2e-2, 9)]
    if what == "subject":
        return [
            {**noisy(row(n, subject=name), factor), "subject_parameters": parameters}
            for name, (parameters, factor) in SUBJECTS.items()
            for n in SIZES
        ]
    return [noisy(row(n, k, seed=seed)) for n in SIZES for k in ks for seed in (0, 1)]


@cache
def example(what: str, size: str = "some") -> tuple[Fits, list[dict]]:
    """Laws of a kind and their rows: of ``one`` k, of ``some`` or of twenty (``many``)."""
    if size == "many" or (what, size) == ("compute", "some"):
        return at_other_k(*example(what, "one"), KS[:3] if size == "some" else MANY)
    ks = KS if what in ("joint", "downstream") else (8,) if size == "one" else (8, 16, 32)
    rows = rows_of_kind(what, ks)
    return fit(what, rows, CONFIG), rows


def at_other_k(fits: Fits, rows: list[dict], ks: tuple[int, ...]) -> tuple[Fits, list[dict]]:
    """The same laws of the same rows, as if they were of each k; downstream all k are in one law."""
    (fitted,) = fits.laws.values()
    count = len(fitted.points["x"])
    at_k = [{**row, "k": float(k), "name": f"{row['name']}-k{k}"} for k in ks for row in rows]
    if fits.what == "downstream":
        points = {name: values * len(ks) for name, values in fitted.points.items()}
        points["k"] = [float(k) for k in ks for _ in range(count)]
        return fits._replace(laws={"all runs": fitted._replace(points=points)}), at_k
    laws = {f"k = {k}": fitted._replace(points={**fitted.points, "k": [float(k)] * count}) for k in ks}
    return fits._replace(laws=laws), at_k


def with_laws(fits: Fits, **changes: Any) -> Fits:
    """The same fits with something changed in each law; without extrapolations."""
    laws: dict[str, FittedLaw] = {}
    for name, each in fits.laws.items():
        changed = {key: change(each.law) for key, change in changes.items()}
        laws[name] = FittedLaw(dataclasses.replace(each.law, **changed), each.points)
    return fits._replace(laws=laws)


def without_samples(fits: Fits) -> Fits:
    return with_laws(fits, samples=lambda law: law.samples[:0], undetermined=lambda _: {})


def small(what: str) -> tuple[Fits, list[dict]]:
    """As few points as a law needs: one a size, no noise of seeds, no extrapolation."""
    if what == "compute":
        return example("compute", "one")
    if what == "joint":
        rows = [noisy(row(n, k)) for n in SIZES[:4] for k in KS[:3]]
    elif what == "learning-rate":
        rows = [swept(n, 8, rate) for n in SIZES[:3] for rate in np.geomspace(2e-4, 2e-2, 9)]
    elif what == "subject":
        rows = [each for each in rows_of_kind("subject", (8,)) if each["n_latents"] <= SIZES[2]]
    else:
        rows = [noisy(row(n)) for n in SIZES[: 4 if what == "latents" else 3]]
    return fit(what, rows, CONFIG), rows


WHATS = tuple(KINDS)
