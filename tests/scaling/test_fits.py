"""Laws of rows that were made by known laws: the right rows are fitted, and the known laws come out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_rows import (
    ALPHA,
    BETA_K,
    BETA_N,
    ETA,
    GAIN,
    GAMMA,
    KS,
    SIZES,
    ZETA,
    loss_at_convergence,
    row,
    tokens_to_convergence,
)

from monosem.errors import UserError
from monosem.laws.law import UndeterminedError
from monosem.scaling.fits import fit
from monosem.scaling.selection import Converged, FitConfig, best_of_each, read_rows, rows_of

FEW = FitConfig(samples=60, gain=GAIN)


def within(estimate: Any, truth: float) -> bool:
    return estimate.value is not None and estimate.low <= truth <= estimate.high


def test_the_joint_law_comes_out_of_curves() -> None:
    rows = [row(n, k, seed=seed) for n in SIZES for k in KS for seed in (0, 1)]
    fits = fit("joint", rows, FitConfig(gain=GAIN))
    (law,) = fits.laws.values()
    truth = {"alpha": ALPHA, "beta_k": BETA_K, "beta_n": BETA_N, "gamma": GAMMA, "zeta": ZETA, "eta": ETA}
    assert all(within(law.law.parameters[name], value) for name, value in truth.items()), law.law.parameters
    assert law.law.points == 72 and law.law.groups == 36 and not fits.left_out
    assert law.extrapolation is not None and np.abs(law.extrapolation.relative_errors).max() < 0.02
    assert set(law.extrapolation.variables[0]) == {SIZES[-1]}


def test_tokens_and_latents_are_fitted_for_each_k() -> None:
    rows = [row(n, k, seed=seed) for n in SIZES for k in (4, 8) for seed in (0, 1)]
    tokens = fit("tokens", rows, FEW)
    assert list(tokens.laws) == ["k = 4", "k = 8"]
    for fitted in tokens.laws.values():
        assert fitted.law.parameters["exponent"].value == pytest.approx(0.6, abs=0.01)
        assert fitted.points["y"] == pytest.approx([tokens_to_convergence(n) for n in fitted.points["x"]], rel=0.02)
    latents = fit("latents", rows, FEW)
    for k, fitted in zip((4, 8), latents.laws.values(), strict=True):
        truth = [loss_at_convergence(n, k) for n in SIZES]
        assert fitted.law.predict(SIZES).value == pytest.approx(truth, rel=0.01)


def test_a_run_that_has_not_converged_is_left_out_and_named() -> None:
    rows = [row(n) for n in SIZES] + [row(2**14, budget=1.5)]
    fits = fit("tokens", rows, FEW)
    assert list(fits.left_out.values()) == [f"not converged after {rows[-1]['tokens']:,} tokens"]
    assert fits.laws["k = 8"].law.points == len(SIZES)


def test_of_rates_and_budgets_the_best_converged_run_of_a_setting_counts() -> None:
    good = row(256, learning_rate=1e-3)
    worse = {**row(256, learning_rate=1e-2), "curve_normalized_mse": [2 * x for x in good["curve_normalized_mse"]]}
    short = row(256, budget=1.5, learning_rate=3e-3)
    other = row(256, seed=1)
    converged = Converged([worse, good, short, other], GAIN)
    best = best_of_each([worse, good, short, other], converged, lambda each: (each["n_latents"], each["seed"]))
    assert best == [good, other]


def test_the_rate_of_least_loss_is_found_and_its_slope() -> None:
    def best_rate(n: int) -> float:
        return 0.004 * (n / 256) ** -0.5

    rates = np.geomspace(2e-4, 2e-2, 9)
    rows = [
        row(n, learning_rate=rate, tokens=10**6, normalized_mse=0.2 * np.exp(0.1 * np.log(rate / best_rate(n)) ** 2))
        for n in SIZES[:4]
        for rate in rates
    ]
    unswept = [row(n, k=16, tokens=10**6) for n in SIZES]
    fits = fit("learning-rate", rows + unswept, FEW)
    (law,) = fits.laws.values()
    assert law.law.parameters["exponent"].value == pytest.approx(-0.5, abs=1e-6)
    assert law.points["y"] == pytest.approx([best_rate(n) for n in SIZES[:4]], rel=1e-6)
    truncated = [each for each in rows if each["n_latents"] < 2048 or each["learning_rate"] < best_rate(2048)]
    fits = fit("learning-rate", truncated, FEW)
    assert "the highest measured" in fits.left_out["k = 8, 1,000,000 tokens in batches of 2,048, n = 2,048"]
    assert fits.laws[next(iter(fits.laws))].law.points == 3


def test_sweeps_of_rates_in_other_batches_have_laws_of_their_own() -> None:
    rates = np.geomspace(1e-3, 4e-3, 5)
    rows = [
        row(n, learning_rate=rate, batch_size=batch, tokens=10**6, normalized_mse=1 + np.log(rate / best) ** 2)
        for batch, best in ((1024, 1.9e-3), (2048, 2.1e-3))
        for n in SIZES[:3]
        for rate in rates
    ]
    fits = fit("learning-rate", rows, FEW)
    for batch, (name, fitted) in zip((1024, 2048), fits.laws.items(), strict=True):
        assert name == f"k = 8, 1,000,000 tokens in batches of {batch:,}"
        chosen = [each for each in rows if each["batch_size"] == batch]
        assert rows_of(rows, fitted.points) == chosen and len(chosen) == 15
    assert not fits.left_out


def test_the_frontier_is_below_every_curve_and_is_foretold() -> None:
    rows = [row(n, seed=seed) for n in SIZES for seed in (0, 1)]
    fits = fit("compute", rows, FitConfig(samples=20, gain=GAIN))
    law = fits.laws["k = 8"]
    for each in rows:
        compute = each["flops_per_token"] * np.array(each["curve_tokens"])
        at = [index for index, c in enumerate(law.points["x"]) if compute[0] <= c <= compute[-1]]
        curve = np.exp(np.interp(np.log(law.points["x"]), np.log(compute), np.log(each["curve_normalized_mse"])))
        assert all(law.points["y"][index] <= curve[index] + 1e-12 for index in at)
    assert law.law.predict(law.points["x"]).value == pytest.approx(law.points["y"], rel=0.02)
    assert law.extrapolation is not None and np.abs(law.extrapolation.relative_errors).max() < 0.05
    assert law.points["n"] == sorted(law.points["n"]) or len(set(law.points["n"])) > 1


def test_shorter_runs_are_not_in_the_frontier_and_are_named() -> None:
    long = [row(n) for n in SIZES]
    short = [{**row(n, seed=1), "name": f"short-{n}", "tokens": long[0]["tokens"] // 2} for n in SIZES[::2]]
    for each in short:  # better than the long runs all along
        each["curve_normalized_mse"] = [0.8 * loss for loss in each["curve_normalized_mse"]]
    alone, together = (fit("compute", rows, FitConfig(samples=20, gain=GAIN)) for rows in (long, long + short))
    assert together.laws["k = 8"].points == alone.laws["k = 8"].points
    assert set(together.left_out) == {each["name"] for each in short}
    assert together.left_out["short-256"].startswith("there are longer runs of its size, of ")


def test_a_longer_run_without_a_curve_takes_no_ones_place() -> None:
    rows = [row(n) for n in SIZES]
    bare = {**row(SIZES[2], seed=1), "name": "bare", "tokens": 10**12, "curve_tokens": [], "curve_normalized_mse": []}
    alone, together = (fit("compute", each, FitConfig(samples=20, gain=GAIN)) for each in (rows, [*rows, bare]))
    assert together.laws["k = 8"].points == alone.laws["k = 8"].points and set(together.left_out) == {"bare"}


def test_each_subject_has_a_law_of_its_own() -> None:
    def of(subject: str, parameters: int, factor: float) -> list[dict]:
        return [
            {
                **row(n, subject=subject),
                "subject_parameters": parameters,
                "curve_normalized_mse": [factor * loss for loss in row(n)["curve_normalized_mse"]],
            }
            for n in SIZES
        ]

    fits = fit("subject", of("small", 10, 0.5) + of("large", 1000, 1.0), FEW)
    assert list(fits.laws) == ["small (10 parameters)", "large (1,000 parameters)"]
    small, large = (each.law.predict([1024]).value[0] for each in fits.laws.values())
    assert small / large == pytest.approx(0.5, rel=0.01)


def test_downstream_loss_is_a_power_of_the_error() -> None:
    fits = fit("downstream", [row(n, k) for n in SIZES for k in KS], FitConfig())
    (law,) = fits.laws.values()
    assert within(law.law.parameters["exponent"], 1.3) and within(law.law.parameters["factor"], 2.5)


NARROW = [row(n, k) for n in (256, 288, 320, 352) for k in (8, 9, 10)]


@pytest.mark.parametrize(
    ("what", "rows", "message"),
    [
        ("joint", [row(256, k) for k in KS], "joint"),
        ("tokens", [row(256), row(512)], "There is no law of tokens. k = 8: "),
        ("tokens", [row(n, budget=1.5) for n in SIZES], "6 runs were left out, as: not converged after"),
        ("subject", [row(n) for n in SIZES], "two or more subject models"),
        ("learning-rate", [row(n) for n in SIZES], "three or more n_latents"),
        ("compute", [row(256), row(512)], "no frontier"),
    ],
)
def test_what_the_runs_cannot_tell_is_refused(what: str, rows: Sequence[dict], message: str) -> None:
    with pytest.raises(UndeterminedError, match=message):
        fit(what, rows, FEW)


def test_a_narrow_design_has_a_joint_law_of_undetermined_terms() -> None:
    (law,) = fit("joint", NARROW, FEW).laws.values()
    assert {"zeta", "eta"} <= law.law.undetermined.keys() and law.law.parameters["zeta"].value is None
    assert law.plain is not None and law.plain.parameters.keys() == {"alpha", "beta_k", "beta_n", "gamma"}
    assert law.plain.predict(law.points["n"], law.points["k"]).value == pytest.approx(law.points["y"], rel=0.02)


@pytest.mark.parametrize("column", ["subject", "hookpoint", "architecture"])
def test_runs_that_differ_otherwise_are_not_mixed(column: str) -> None:
    rows = [row(256), {**row(512), column: "another"}]
    with pytest.raises(UserError, match=f"differ in their {column}: .*choose one by --{column}"):
        fit("joint", rows, FEW)


def test_rows_are_chosen_by_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(256), row(256, 16), row(256, subject="other")]
    monkeypatch.setattr("monosem.scaling.selection.read_table", lambda _: rows)
    assert read_rows([Path("here")], FitConfig(k=(16,))) == [rows[1]]
    assert read_rows([Path("here")], FitConfig(subject="other")) == [rows[2]]
    with pytest.raises(UserError, match=r"of architecture=relu; there are: model, h\.1, topk; other, h\.1, topk"):
        read_rows([Path("here")], FitConfig(architecture="relu"))


def test_an_unknown_law_is_refused() -> None:
    with pytest.raises(UserError, match=r"Unknown law 'widths'\. Known: learning-rate, compute"):
        fit("widths", NARROW, FEW)
