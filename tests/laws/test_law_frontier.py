"""The law of the frontier: its value, and intervals of runs and not of points."""

import numpy as np
import pytest

from monosem.laws.curves import Curve, envelope
from monosem.laws.fit import fit_law
from monosem.laws.forms import IRREDUCIBLE, POWER
from monosem.laws.frontier import fit_frontier
from monosem.laws.law import Law, UndeterminedError


def runs(noise: float = 0.0, seed: int = 0, sizes: int = 17, irreducible: float = 0.03) -> list[Curve]:
    """L = L∞ + n^−0.4 + 40 (n / C)^0.4: along the frontier both fall like C^−0.2."""
    generator = np.random.default_rng(seed)
    found: list[Curve] = []
    for size in 2.0 ** np.linspace(8, 16, sizes):
        compute = np.geomspace(1, 1e8, 90) * size
        loss = irreducible + size**-0.4 + 40 * (size / compute) ** 0.4
        found.append(Curve(float(size), compute, loss * np.exp(noise * generator.standard_normal())))
    return found


def test_the_frontier_has_the_exponent_of_its_curves() -> None:
    law = fit_frontier(envelope(runs()), samples=0)
    assert law.parameters["exponent"].value == pytest.approx(0.2, abs=0.01)
    assert law.parameters["irreducible"].value == pytest.approx(0.03, abs=0.003)
    assert law.groups == len(set(envelope(runs()).best)) == 10


def test_the_law_is_that_of_the_envelopes_points() -> None:
    curves = runs(noise=0.01)
    points = envelope(curves)
    whole, of_points = fit_frontier(points, samples=0), fit_law(IRREDUCIBLE, points.compute, y=points.loss, samples=0)
    np.testing.assert_array_equal(whole.best, of_points.best)
    assert whole.points == of_points.points


def test_points_of_one_run_stand_together() -> None:
    curves = runs(noise=0.02)
    points = envelope(curves)
    whole = fit_frontier(points, POWER, samples=100)
    together = fit_law(POWER, points.compute, y=points.loss, group=points.best.tolist(), samples=100)
    np.testing.assert_array_equal(whole.samples, together.samples)
    assert whole.groups == len(set(points.best)) < whole.points
    apart = fit_law(POWER, points.compute, y=points.loss, samples=100)
    assert width(whole) > width(apart)


def width(law: Law) -> float:
    found = law.parameters["exponent"]
    assert found.low is not None and found.high is not None
    return found.high - found.low


def test_too_few_runs_have_no_law_of_compute() -> None:
    with pytest.raises(UndeterminedError, match=r"has \d+ points of 1 runs, and the irreducible law needs 4"):
        fit_frontier(envelope(runs(sizes=3)))
    with pytest.raises(UndeterminedError, match=r"has \d+ points of 2 runs, and the power law needs 3"):
        fit_frontier(envelope(runs(sizes=4)), POWER)
