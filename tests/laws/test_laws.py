"""Laws fitted to runs: what is found, what is refused, what is not determined, and what is stored."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from monosem.errors import UserError
from monosem.laws.fit import fit_law
from monosem.laws.forms import IRREDUCIBLE, JOINT, JOINT_POWER, POWER, law_from_dict
from monosem.laws.law import UndeterminedError

Runs = tuple[np.ndarray, np.ndarray, np.ndarray]
X = np.logspace(3, 6, 9)
FALLING = 0.01 + (X / 50) ** -0.4


def noisy(y: np.ndarray, scale: float, seed: int = 0) -> np.ndarray:
    return y * np.exp(scale * np.random.default_rng(seed).standard_normal(len(y)))


def values_of(law: object) -> dict[str, float | None]:
    return {name: each.value for name, each in law.parameters.items()}  # type: ignore[attr-defined]


def test_points_on_a_power_law_give_its_parameters() -> None:
    found = fit_law(POWER, X, y=3 * X**-0.5)
    assert values_of(found) == pytest.approx({"factor": 3.0, "exponent": -0.5}, rel=1e-6)
    rising = fit_law(POWER, X, y=1e4 * X**0.6)
    assert values_of(rising) == pytest.approx({"factor": 1e4, "exponent": 0.6}, rel=1e-6)


def test_points_on_an_irreducible_law_give_its_parameters() -> None:
    found = fit_law(IRREDUCIBLE, X, y=FALLING)
    assert values_of(found) == pytest.approx({"exponent": 0.4, "scale": 50.0, "irreducible": 0.01}, rel=1e-3)
    assert found.undetermined == {}


def test_points_on_the_published_law_give_its_coefficients(
    joint_runs: Callable[..., Runs], published: dict[str, float]
) -> None:
    n, k, loss = joint_runs(noise=0.0)
    assert values_of(fit_law(JOINT, n, k, y=loss)) == pytest.approx(published, abs=1e-4)


def test_points_on_the_joint_law_of_latents_that_remove_all_give_its_coefficients() -> None:
    n, k = (each.ravel() for each in np.meshgrid(np.geomspace(256, 8192, 6), [2.0, 4.0, 8.0, 16.0, 32.0]))
    true = {"alpha": -0.5, "beta_k": 0.26, "beta_n": -0.017, "gamma": -0.042}
    logs = np.stack([np.ones(len(n)), np.log(k), np.log(n), np.log(n) * np.log(k)], axis=1)
    law = fit_law(JOINT_POWER, n, k, y=np.exp(logs @ list(true.values())), samples=0)
    assert {name: estimate.value for name, estimate in law.parameters.items()} == pytest.approx(true)
    assert law_from_dict(law.to_dict()).form is JOINT_POWER


def test_an_outlier_moves_a_fit_less_than_least_squares() -> None:
    x = np.logspace(2, 6, 12)
    y = noisy(2 * x**-0.4, 0.01)
    spoiled = y.copy()
    spoiled[2] *= 2
    clean, robust = (fit_law(POWER, x, y=each, samples=0).best[1] for each in (y, spoiled))
    plain = np.polyfit(np.log(x), np.log(spoiled), 1)[0]
    assert abs(robust - clean) < 0.003
    assert abs(plain - clean) > 10 * abs(robust - clean)


def test_an_outlier_hardly_moves_the_joint_law(joint_runs: Callable[..., Runs]) -> None:
    n, k, loss = joint_runs(3)
    clean = fit_law(JOINT, n, k, y=loss, samples=0)
    loss[17] *= 3
    spoiled = fit_law(JOINT, n, k, y=loss, samples=0)
    np.testing.assert_allclose(spoiled.predict(n, k).value, clean.predict(n, k).value, rtol=0.01)


def test_predictions_come_with_intervals_that_grow_outside_the_data() -> None:
    law = fit_law(IRREDUCIBLE, X, y=noisy(FALLING, 0.01))
    inside, outside = law.predict([1e4]), law.predict([1e8])
    assert inside.low < inside.value < inside.high
    widths = [float(np.log(each.high / each.low)[0]) for each in (inside, law.predict([1e4], observed=True), outside)]
    assert widths[0] < widths[1]
    assert widths[0] < widths[2]


def test_an_observed_interval_is_the_laws_and_the_noise() -> None:
    x = np.logspace(0, 3, 200)
    law = fit_law(POWER, x, y=noisy(x**-0.5, 0.1))
    observed = law.predict([30.0], observed=True)
    assert float(np.log(observed.high / observed.low)[0]) == pytest.approx(2 * 1.96 * 0.1, rel=0.15)


def test_a_value_of_one_variable_serves_all_of_the_other(joint_runs: Callable[..., Runs]) -> None:
    n, k, loss = joint_runs()
    law = fit_law(JOINT, n, k, y=loss, samples=20)
    one = law.predict([2.0**12, 2.0**15], [32.0])
    np.testing.assert_array_equal(one.value, law.predict([2.0**12, 2.0**15], [32.0, 32.0]).value)


def test_a_stored_law_predicts_the_same(joint_runs: Callable[..., Runs]) -> None:
    n, k, loss = joint_runs()
    law = fit_law(JOINT, n, k, y=loss, samples=50)
    text = json.dumps(law.to_dict(), allow_nan=False)
    read = law_from_dict(json.loads(text))
    assert read.to_dict() == law.to_dict()
    for mine, stored in zip(law.predict(n, k), read.predict(n, k), strict=True):
        np.testing.assert_array_equal(mine, stored)


@pytest.mark.parametrize(
    "change",
    [
        {"form": "cubic"},
        {"best": [1.0]},
        {"samples": [[1.0, 2.0, 3.0]]},
        {"samples": "none"},
        {"undetermined": 3},
        {"best": [float("nan"), 1.0]},
    ],
)
def test_a_damaged_record_is_refused(change: dict[str, object]) -> None:
    record = fit_law(POWER, X, y=X, samples=5).to_dict()
    with pytest.raises(UserError, match="fit the law again"):
        law_from_dict(record | change)
    with pytest.raises(UserError, match="fit the law again"):
        law_from_dict([])


def test_seeds_that_share_their_settings_error_widen_the_interval() -> None:
    x = np.repeat(np.logspace(2, 5, 8), 3)
    setting = np.repeat(np.random.default_rng(1).standard_normal(8), 3)
    y = x**-0.5 * np.exp(0.1 * setting + 0.001 * np.random.default_rng(2).standard_normal(24))
    grouped, single = (fit_law(POWER, x, y=y, group=group).parameters["exponent"] for group in (x.tolist(), None))
    assert grouped.high is not None and grouped.low is not None and single.high is not None and single.low is not None
    assert grouped.high - grouped.low > 1.5 * (single.high - single.low)


def test_without_samples_there_are_no_intervals() -> None:
    law = fit_law(POWER, X, y=X, samples=0)
    assert law.parameters["exponent"] == (pytest.approx(1.0), None, None)


@pytest.mark.parametrize("noise", [0.003, 0.01])
def test_no_irreducible_loss_is_made_up(noise: float) -> None:
    for seed in range(5):
        law = fit_law(IRREDUCIBLE, X, y=noisy(X**-0.3, noise, seed))
        assert set(law.undetermined) == {"irreducible", "exponent", "scale"}
        assert "depend on what no x removes, which is not" in law.undetermined["exponent"]
        irreducible = law.parameters["irreducible"]
        assert irreducible.value is None
        assert irreducible.low is not None and irreducible.low < 1e-4
        assert law.parameters["exponent"].value is None
        assert law.predict([1e5]).value == pytest.approx([1e5**-0.3], rel=0.05)
        with pytest.raises(
            UndeterminedError, match=r"irreducible is not determined: .* from 0 to .* at x = 1e\+06, .*power law"
        ):
            law.determined()


def test_the_wide_design_is_determined(joint_runs: Callable[..., Runs]) -> None:
    for seed in range(4):
        n, k, loss = joint_runs(seed)
        law = fit_law(JOINT, n, k, y=loss)
        assert law.determined() is law


@pytest.mark.parametrize(
    ("log2_n", "log2_k", "noise"),
    [
        ((14, 14.5, 15, 15.5, 16), (4, 4.5, 5, 5.5, 6), 0.01),  # a factor of 4 of each
        ((14, 14.5, 15, 15.5, 16), (4, 4.5, 5, 5.5, 6), 0.05),
        ((14, 14.5, 15, 15.5, 16), (3, 4, 5, 6, 7, 8, 9), 0.01),  # a factor of 4 of n alone
        ((11, 13, 15, 17, 19, 21), (4, 4.5, 5, 5.5, 6), 0.1),
    ],
)
def test_narrow_or_noisy_designs_do_not_determine_what_latents_cannot_remove(
    joint_runs: Callable[..., Runs], log2_n: tuple[float, ...], log2_k: tuple[float, ...], noise: float
) -> None:
    determined = 0
    for seed in range(5):
        n, k, loss = joint_runs(seed, log2_n=log2_n, log2_k=log2_k, noise=noise)
        law = fit_law(JOINT, n, k, y=loss, samples=100)
        determined += "zeta" not in law.undetermined
        if "zeta" in law.undetermined:
            assert "what no number of latents removes" in law.undetermined["zeta"]
            assert law.parameters["eta"].value is None
    assert determined <= 1


def test_less_noise_determines_what_a_narrow_design_could_not(joint_runs: Callable[..., Runs]) -> None:
    for seed in range(3):
        n, k, loss = joint_runs(seed, log2_k=(4, 4.5, 5, 5.5, 6), noise=0.001)
        assert fit_law(JOINT, n, k, y=loss).undetermined == {}


@pytest.mark.parametrize(
    ("form", "variables", "words"),
    [
        (POWER, ([1, 2],), "needs 3 different settings, not 2"),
        (POWER, ([1, 1, 2, 2],), "needs 3 different values of x, not 2"),
        (IRREDUCIBLE, ([1, 2, 3],), "needs 4 different settings, not 3"),
        (JOINT, ([1, 2, 3, 4] * 2, [1] * 4 + [2] * 4), "needs 3 different values of k, not 2"),
        (JOINT, ([1, 2, 3] * 3, [1] * 3 + [2] * 3 + [3] * 3), "needs 4 different values of n, not 3"),
        (JOINT, (range(1, 9), range(1, 9)), "n and k that vary apart"),
    ],
)
def test_too_few_runs_are_refused(form: object, variables: tuple[list[float], ...], words: str) -> None:
    loss = 1 / np.arange(1.0, 1 + len(variables[0]))
    with pytest.raises(UndeterminedError, match=words):
        fit_law(form, *map(list, variables), y=loss)  # type: ignore[arg-type]


def test_what_is_no_measurement_is_refused() -> None:
    with pytest.raises(UserError, match=r"y=nan is no point of a law"):
        fit_law(POWER, [1, 2, 3], y=[1, float("nan"), 3])
    with pytest.raises(UserError, match=r"x=0.0 is no point of a law"):
        fit_law(POWER, [1, 0, 3], y=[1, 2, 3])
    with pytest.raises(UserError, match="3 runs, 2 values of y"):
        fit_law(POWER, [1, 2, 3], y=[1, 2])
    with pytest.raises(UserError, match="as many values of each"):
        fit_law(JOINT, [1, 2, 3], y=[1, 2, 3])
    with pytest.raises(UserError, match="does not fall with x"):
        fit_law(IRREDUCIBLE, X, y=X)
