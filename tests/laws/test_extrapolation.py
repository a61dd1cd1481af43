"""What the smaller runs foretell of the largest."""

from collections.abc import Callable

import numpy as np
import pytest

from monosem.errors import UserError
from monosem.laws.extrapolation import extrapolate
from monosem.laws.fit import fit_law
from monosem.laws.forms import JOINT, POWER

Runs = tuple[np.ndarray, np.ndarray, np.ndarray]


def test_the_largest_are_held_out_and_the_rest_is_fitted() -> None:
    x = np.array([8.0, 1.0, 2.0, 4.0, 16.0, 16.0])
    y = np.array([0.5, 1.0, 0.8, 0.6, 0.3, 0.4])
    found = extrapolate(POWER, x, y=y, along="x")
    law = fit_law(POWER, x[:4], y=y[:4])
    np.testing.assert_array_equal(found.variables, [[16.0, 16.0]])
    np.testing.assert_array_equal(found.measured, [0.3, 0.4])
    assert found.law.to_dict() == law.to_dict()
    value = float(law.predict([16.0]).value[0])
    np.testing.assert_allclose(found.relative_errors, [value / 0.3 - 1, value / 0.4 - 1])


def test_the_published_law_foretells_its_largest_sizes(joint_runs: Callable[..., Runs]) -> None:
    inside = total = 0
    for seed in range(10):
        n, k, loss = joint_runs(seed)
        found = extrapolate(JOINT, n, k, y=loss, along="n", samples=200)
        assert found.variables[0].tolist() == [2.0**21] * 7
        assert np.abs(found.relative_errors).max() < 0.1
        inside, total = inside + int(found.is_inside.sum()), total + 7
    assert inside >= 0.88 * total


def test_a_law_that_bends_is_found_out() -> None:
    x = np.logspace(0, 4, 14)
    y = (1 / x + 0.003) * np.exp(0.01 * np.random.default_rng(0).standard_normal(14))
    found = extrapolate(POWER, x, y=y, along="x", largest=4)
    assert not found.is_inside.any()
    assert (found.relative_errors < 0).all()


def test_what_cannot_be_held_out_is_refused() -> None:
    with pytest.raises(UserError, match=r"along=n, largest=1: name one of x"):
        extrapolate(POWER, [1, 2, 3], y=[1, 2, 3], along="n")
    with pytest.raises(UserError, match="needs 3 different settings, not 1"):
        extrapolate(POWER, [1, 2, 3], y=[1, 2, 3], along="x", largest=2)
