"""Interpolation between runs against the same written out, and ratios over documents drawn for all runs together."""

import itertools
import json
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from monosem.evaluation.bootstrap import Estimate, draw_documents
from monosem.evaluation.comparison import (
    METRICS,
    Between,
    Comparison,
    Measured,
    Run,
    compare,
    interpolate,
    measure,
    shared_powers_of_two,
)
from monosem.evaluation.document_sums import DocumentSums
from monosem.evaluation.downstream import downstream_statistics
from monosem.evaluation.reconstruction import reconstruction_statistics
from monosem.randomness import derive_generator

Make = Callable[..., Run]
MakeSums = Callable[..., DocumentSums]


def column(*numbers: float) -> Tensor:
    """A number a run, with one sample."""
    return torch.tensor(numbers, dtype=torch.float64)[:, None]


def along(l0: Sequence[float], values: Sequence[float], at: Sequence[float]) -> list[float]:
    found = interpolate(column(*l0), column(*values), torch.tensor(at, dtype=torch.float64))
    return found[:, 0].tolist()


def literal(l0: Sequence[float], values: Sequence[float], at: float) -> float:
    """The value at some L0, by a walk over the points."""
    by_l0 = {x: [v for u, v in zip(l0, values, strict=True) if u == x] for x in sorted(set(l0))}
    points = [(x, math.exp(sum(map(math.log, vs)) / len(vs)) if min(vs) > 0 else math.nan) for x, vs in by_l0.items()]
    for x, value in points:
        if x == at:
            return value
    for (left, before), (right, after) in itertools.pairwise(points):
        if left < at < right:
            share = math.log(at / left) / math.log(right / left)
            return before ** (1 - share) * after**share
    return math.nan


def test_interpolation_is_that_of_a_literal_walk_over_the_points() -> None:
    generator = torch.Generator().manual_seed(0)
    l0 = (2 ** (7 * torch.rand(9, 20, generator=generator, dtype=torch.float64))).round()
    values = torch.randn(9, 20, generator=generator, dtype=torch.float64).exp() - 0.15
    at = torch.tensor([0.5, 1, 2, 3, 4, 5.5, 8, 16, 17.3, 32, 64, 100, 128, 200], dtype=torch.float64)
    found = interpolate(l0, values, at)
    expected = [
        [literal(x.tolist(), y.tolist(), place) for x, y in zip(l0.T, values.T, strict=True)] for place in at.tolist()
    ]
    assert bool((l0.sort(dim=0).values.diff(dim=0) == 0).any())
    assert bool((values < 0).any())
    assert {bool(row.isnan().all()) for row in found} == {True, False}
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0, equal_nan=True)


def test_a_power_law_is_interpolated_exactly() -> None:
    l0, at = [4, 11.5, 90, 512], [4, 5, 8, 32, 100, 511.9]
    assert along(l0, [x**-0.5 for x in l0], at) == pytest.approx([x**-0.5 for x in at], rel=1e-12)


def test_at_a_runs_own_l0_stands_its_own_value() -> None:
    assert along([3, 7.25, 19], [0.5, 0.31, 0.29], [3, 7.25, 19]) == pytest.approx([0.5, 0.31, 0.29], rel=1e-15)


def test_outside_the_measured_range_there_is_no_value() -> None:
    found = along([4, 16], [0.5, 0.2], [3.99, 4, 16, 16.01])
    assert [math.isnan(value) for value in found] == [True, False, False, True]


def test_runs_of_equal_l0_count_as_one_at_the_mean_of_their_logarithms() -> None:
    assert along([4, 8, 4], [0.2, 0.1, 0.8], [4, 8]) == pytest.approx([0.4, 0.1], rel=1e-15)
    halfway = 4 * 2**0.5
    assert along([4, 8, 4], [0.2, 0.1, 0.8], [halfway]) == pytest.approx([0.2], rel=1e-12)
    assert along([4, 4], [0.2, 0.8], [4, 5]) == pytest.approx([0.4, math.nan], rel=1e-12, nan_ok=True)


def test_one_run_alone_has_a_value_at_its_own_l0_only() -> None:
    assert along([8], [0.3], [4, 8, 16]) == pytest.approx([math.nan, 0.3, math.nan], nan_ok=True)


@pytest.mark.parametrize("unusable", [0.0, -0.2, math.nan])
@pytest.mark.parametrize("where", [0, 1, 2, 3])
def test_a_value_that_is_not_positive_is_missing_at_its_run_and_beside_it_and_nowhere_else(
    where: int, unusable: float
) -> None:
    values = [0.8, 0.6, 0.5, 0.4]
    values[where] = unusable
    found = along([2, 4, 8, 16], values, [2, 3, 4, 6, 8, 12, 16])
    expected = [math.isnan(literal([2, 4, 8, 16], [max(0, v) for v in values], at)) for at in [2, 3, 4, 6, 8, 12, 16]]
    assert [math.isnan(value) for value in found] == expected
    assert [math.isnan(found[2 * run]) for run in range(4)] == [run == where for run in range(4)]


def test_between_a_run_without_active_latents_and_the_next_there_is_no_value() -> None:
    found = along([0, 4, 16], [1.0, 0.5, 0.2], [0.125, 1, 3.9, 4, 8])
    assert found == pytest.approx([math.nan, math.nan, math.nan, 0.5, 0.1**0.5], rel=1e-12, nan_ok=True)


def test_the_order_of_runs_does_not_matter() -> None:
    l0, values, at = [3, 30, 9, 18], [0.9, 0.1, 0.5, 0.2], [3, 4, 10, 20, 30]
    for order in itertools.permutations(range(4)):
        assert along([l0[i] for i in order], [values[i] for i in order], at) == along(l0, values, at)


def reached(*l0: float) -> list[Measured]:
    return [Measured(torch.tensor([each], dtype=torch.float64), {}) for each in l0]


@pytest.mark.parametrize(
    ("curves", "powers"),
    [
        ([(7.9, 33)], [8, 16, 32]),
        ([(33, 7.9, 20)], [8, 16, 32]),
        ([(4, 16), (8, 64)], [8, 16]),
        ([(4, 16), (8, 64), (30, 70)], [8, 16, 32, 64]),
        ([(4, 8), (16, 64)], []),
        ([(5, 7)], []),
        ([(0.1, 0.6)], [0.125, 0.25, 0.5]),
        ([(8,), (4, 9)], [8]),
    ],
)
def test_the_powers_of_two_are_those_that_two_curves_reach_or_the_only_one(
    curves: list[tuple[float, ...]], powers: list[float]
) -> None:
    assert shared_powers_of_two([reached(*curve) for curve in curves]) == powers


def width(estimate: Estimate) -> float:
    assert estimate.low is not None
    assert estimate.high is not None
    return estimate.high - estimate.low


def test_a_measurement_is_the_statistics_of_all_documents_and_then_of_samples(
    document_sums: MakeSums,
) -> None:
    sums = document_sums()
    n_documents = len(sums.activations["tokens"])
    found = measure(sums, samples=50, seed=3)
    parts = zip(sums, (reconstruction_statistics, downstream_statistics), DocumentSums._fields, strict=True)
    expected: dict[str, Tensor] = {}
    for part, statistics, name in parts:
        drawn = draw_documents(n_documents, 50, derive_generator(3, "comparison", name))
        counts = torch.cat([torch.ones(1, n_documents, dtype=torch.float64), drawn])
        expected |= statistics({key: torch.tensordot(counts, each, dims=1) for key, each in part.items()})
    torch.testing.assert_close(found.l0, expected["l0"])
    assert tuple(found.metrics) == METRICS
    for metric in METRICS:
        torch.testing.assert_close(found.metrics[metric], expected[metric])


def test_two_runs_are_measured_on_the_same_draws_of_documents(document_sums: MakeSums) -> None:
    one, other = (measure(document_sums(error), samples=100, seed=3) for error in (1.0, 3.0))
    for metric in METRICS:
        ratio = other.metrics[metric] / one.metrics[metric]
        torch.testing.assert_close(ratio, torch.full_like(ratio, 3.0))
        assert one.metrics[metric][1:].std() > 0.01 * one.metrics[metric][0]
    another = measure(document_sums(), samples=100, seed=4)
    assert not torch.equal(another.metrics["normalized_mse"][1:], one.metrics["normalized_mse"][1:])
    assert another.metrics["normalized_mse"][0] == one.metrics["normalized_mse"][0]


def test_ratios_are_paired_where_runs_find_the_same_documents_hard(make_run: Make) -> None:
    runs = [make_run(curve, l0, error) for curve, error in (("a", 1.0), ("b", 1.3)) for l0 in (4, 16)]
    found = compare("subject", "hookpoint", runs)
    assert {(each.curve, each.metric, each.l0) for each in found.between} == set(
        itertools.product("ab", METRICS, (4.0, 8.0, 16.0))
    )
    for each in found.between:
        assert each.value.value is not None
        assert each.ratio.value == pytest.approx(1.3 if each.curve == "b" else 1.0, rel=1e-9)
        assert width(each.ratio) < 1e-9
        assert width(each.value) > 0.05 * each.value.value


def test_the_reference_is_its_own_multiple_by_one_exactly(make_run: Make) -> None:
    runs = [make_run(curve, l0, error) for curve, error in (("a", 1.0), ("b", 1.3), ("c", 0.4)) for l0 in (4, 11)]
    for reference in "abc":
        found = compare("subject", "hookpoint", runs, reference=reference)
        assert found.reference == reference
        ratios = {each.ratio for each in found.between if each.curve == reference}
        assert ratios == {Estimate(1.0, 1.0, 1.0)}
        others = {each.ratio.value for each in found.between if each.curve != reference}
        assert all(value is not None and abs(value - 1) > 0.1 for value in others)


def test_without_a_reference_the_first_curve_is_it(make_run: Make) -> None:
    found = compare("subject", "hookpoint", [make_run("b", 4), make_run("c", 4), make_run("a", 4)])
    assert found.reference == "a"


def test_where_the_reference_was_not_measured_there_is_a_value_without_a_ratio(make_run: Make) -> None:
    runs = [make_run("a", 4), make_run("a", 8), make_run("b", 8), make_run("b", 32)]
    found = compare("subject", "hookpoint", runs, [4.0, 8.0, 16.0], "a")
    told = {(each.curve, each.l0): each for each in found.between if each.metric == "normalized_mse"}
    assert told.keys() == {("a", 4), ("a", 8), ("b", 8), ("b", 16)}
    assert told["b", 16].value.value is not None
    assert told["b", 16].ratio == Estimate(None, None, None)
    assert told["b", 8].ratio.value is not None


def test_runs_stand_by_curve_and_then_by_l0_whatever_order_they_came_in(make_run: Make) -> None:
    runs = [make_run(curve, l0) for curve, l0 in (("b", 16), ("a", 8), ("b", 4), ("a", 32), ("a", 4.5))]
    found = compare("subject", "hookpoint", runs)
    names = ["runs/a-4.5", "runs/a-8", "runs/a-32", "runs/b-4", "runs/b-16"]
    assert [run.name for run in found.runs] == names
    assert found.curves == ["a", "b"]
    for order in itertools.islice(itertools.permutations(runs), 1, 120, 29):
        assert compare("subject", "hookpoint", order).to_dict() == found.to_dict()


def test_by_default_it_is_interpolated_at_the_powers_of_two_that_two_curves_reach(make_run: Make) -> None:
    runs = [make_run(curve, l0) for curve, l0 in (("a", 3), ("a", 70), ("b", 7), ("b", 150), ("c", 140), ("c", 150))]
    found = compare("subject", "hookpoint", runs)
    l0 = {
        curve: [each.l0 for each in found.between if (each.curve, each.metric) == (curve, METRICS[0])]
        for curve in "abc"
    }
    assert l0 == {"a": [8, 16, 32, 64], "b": [8, 16, 32, 64], "c": []}
    asked = compare("subject", "hookpoint", runs, [100.0, 5.0, 1000.0])
    assert [(each.curve, each.l0) for each in asked.between if each.metric == METRICS[0]] == [("a", 5), ("b", 100)]


def test_a_value_between_runs_is_interpolated_in_every_sample(make_run: Make) -> None:
    runs = [make_run("a", 4, error=2.0), make_run("a", 16, error=0.5)]
    (found,) = (each for each in compare("s", "h", runs, [8.0]).between if each.metric == "normalized_mse")
    base = make_run("a", 8).measured.metrics["normalized_mse"]  # errors of 2 and 1/2 times: halfway, these
    low, high = base[1:].quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert found.value == pytest.approx((float(base[0]), low, high), rel=1e-9)


def test_a_curve_that_is_not_positive_has_no_points_in_that_metric(make_run: Make) -> None:
    runs = [make_run("a", 4), make_run("a", 8)]
    better = [
        Run("b", "b", {}, 0.0, run.measured._replace(metrics={**run.measured.metrics, METRICS[1]: -run.measured.l0}))
        for run in runs
    ]
    found = compare("s", "h", [*runs, *better])
    places = {(each.curve, each.metric, each.l0) for each in found.between}
    assert places == {(c, m, l0) for c in "ab" for m in METRICS for l0 in (4, 8)} - {
        ("b", METRICS[1], l0) for l0 in (4, 8)
    }
    again = compare("s", "h", [*runs, *better], reference="b")
    assert {each.ratio for each in again.between if each.metric == METRICS[1]} == {Estimate(None, None, None)}


def test_one_document_gives_values_without_intervals(make_run: Make) -> None:
    runs = [make_run(curve, l0, n_documents=1) for curve in "ab" for l0 in (4, 8)]
    found = compare("subject", "hookpoint", runs)
    assert len(found.between) == 8
    for each in found.between:
        assert each.value.value is not None
        assert each.ratio == Estimate(1.0, None, None)
        assert each.value[1:] == (None, None)
    assert all(run["l0"] == {"value": run["l0"]["value"], "low": None, "high": None} for run in found.to_dict()["runs"])


def as_json(comparison: Comparison) -> dict[str, object]:
    return json.loads(json.dumps(comparison.to_dict(), allow_nan=False))


def test_a_comparison_is_json_that_holds_every_number(make_run: Make) -> None:
    found = compare("subject", "hookpoint", [make_run("a", 4), make_run("a", 8), make_run("b", 8, error=2.0)])
    assert as_json(found) == found.to_dict()
    told = found.to_dict()
    assert (told["subject"], told["hookpoint"], told["reference"]) == ("subject", "hookpoint", "a")
    assert [run["run"] for run in told["runs"]] == ["runs/a-4", "runs/a-8", "runs/b-8"]
    assert all(run["dead_share"] == 0.25 and run["k"] == 4 for run in told["runs"])
    assert told["runs"][0]["l0"]["value"] == pytest.approx(4)
    assert [
        Between(**(each | {"value": Estimate(**each["value"]), "ratio": Estimate(**each["ratio"])}))
        for each in told["between"]
    ] == list(found.between)


def test_a_comparison_of_what_is_not_defined_is_json_too(make_run: Make) -> None:
    run = make_run("a", 4)
    undefined = torch.full_like(run.measured.l0, math.nan)
    broken = run._replace(measured=Measured(run.measured.l0, dict.fromkeys(METRICS, undefined)))
    told = as_json(compare("subject", "hookpoint", [broken, make_run("b", 4)]))
    assert isinstance(told["runs"], list)
    assert told["runs"][0]["normalized_mse"] == {"value": None, "low": None, "high": None}
