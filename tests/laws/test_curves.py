"""Convergence and the frontier, against their literal definitions."""

import math

import numpy as np
import pytest

from monosem.errors import UserError
from monosem.laws.curves import Curve, convergence, crossings, envelope
from monosem.laws.law import UndeterminedError


def interpolated(x: float, xs: np.ndarray, ys: np.ndarray) -> float:
    """Log y, linear in log x."""
    for left in range(len(xs) - 1):
        if xs[left] <= x <= xs[left + 1]:
            share = math.log(x / xs[left]) / math.log(xs[left + 1] / xs[left])
            return math.exp((1 - share) * math.log(ys[left]) + share * math.log(ys[left + 1]))
    raise AssertionError(x)


def test_a_known_curve_converges_where_it_should() -> None:
    tokens = np.geomspace(1e3, 1e8, 5000)
    found = convergence(tokens, 0.2 * (1 + 1e4 / tokens))
    # 1 − (1 + c/2) / (1 + c) = 1%: c = 1/49, at T = 49e4.
    assert found is not None
    assert found.tokens == pytest.approx(49e4, rel=1e-4)
    assert found.loss == pytest.approx(0.2 * 50 / 49, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_no_doubling_after_convergence_gains_as_much(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tokens = np.cumsum(generator.uniform(1e4, 2e5, 23))
    loss = (0.1 + (tokens / 1e4) ** -0.7) * np.exp(0.002 * generator.standard_normal(23))
    found = convergence(tokens, loss, gain=0.03)
    candidates = np.geomspace(tokens[0], tokens[-1] / 2 * (1 - 1e-12), 20_001)
    gains = [interpolated(2 * at, tokens, loss) <= 0.97 * interpolated(at, tokens, loss) for at in candidates]
    last = max(number for number in range(len(gains)) if gains[number])
    first = None if last == len(gains) - 1 else candidates[last + 1]
    assert (found is None) == (first is None)
    if found is not None and first is not None:
        assert found.tokens == pytest.approx(first, rel=2e-4)
        assert found.loss == pytest.approx(interpolated(found.tokens, tokens, loss), rel=1e-9)


def test_a_run_that_was_too_short_has_not_converged() -> None:
    tokens = np.geomspace(1e5, 1e7, 20)
    assert convergence(tokens, tokens**-0.1) is None  # every doubling lowers it by 6.7%
    assert convergence(np.array([1e5, 1.9e5]), np.array([1.0, 1.0])) is None  # no doubling was measured
    assert convergence(np.array([1e5]), np.array([1.0])) is None


def test_a_loss_that_rises_has_converged() -> None:
    tokens = np.array([1e5, 2e5, 4e5, 8e5])
    found = convergence(tokens, np.array([1.0, 0.5, 0.6, 0.7]))
    # By doubling at 2^s · 1e5, s from 0 to 1, log loss changes by (1 − s) log 0.5 + s log 1.2.
    share = (math.log(0.99) - math.log(0.5)) / (math.log(1.2) - math.log(0.5))
    assert found is not None
    assert found.tokens == pytest.approx(1e5 * 2**share)


def test_a_loss_that_stands_still_before_it_falls_has_not_converged_there() -> None:
    tokens = np.geomspace(1e4, 1e7, 40)
    falling = 0.2 * (1 + 1e5 / tokens)
    late = np.where(tokens < 1e5, falling[tokens >= 1e5].max(), falling)
    assert convergence(tokens, late, gain=0.02) == convergence(tokens, falling, gain=0.02)


def test_a_flat_loss_has_converged_at_once() -> None:
    assert convergence(np.array([3.0, 5.0, 7.0]), np.array([2.0, 2.0, 2.0])) == (pytest.approx(3.0), pytest.approx(2.0))


def test_curves_out_of_order_are_refused() -> None:
    with pytest.raises(UserError, match="tokens of a curve must grow"):
        convergence(np.array([2.0, 1.0]), np.array([1.0, 1.0]))
    with pytest.raises(UserError, match=r"loss=-1.0 is no point"):
        convergence(np.array([1.0, 2.0]), np.array([1.0, -1.0]))
    with pytest.raises(UserError, match=r"gain=1.0 is no share"):
        convergence(np.array([1.0, 2.0]), np.array([1.0, 1.0]), gain=1.0)


def curves_of(sizes: list[float], seed: int = 0) -> list[Curve]:
    """L(n, C) = 0.05 + n^−0.3 + (C / n)^−0.5, each size over a range of compute of its own."""
    generator = np.random.default_rng(seed)
    found: list[Curve] = []
    for size in sizes:
        compute = size * np.sort(generator.uniform(3, 3e4, 60))
        found.append(Curve(size, compute, 0.05 + size**-0.3 + (compute / size) ** -0.5))
    return found


def settled(curve: Curve, curves: list[Curve], compute: float, losses: dict[int, float]) -> bool:
    """Whether the curve's size was measured at so much compute, or its longest run could not be the best there."""
    if any(curves[number].size == curve.size for number in losses):
        return True
    longest = max((each for each in curves if each.size == curve.size), key=lambda each: each.compute[-1])
    doublings = math.log2(compute / longest.compute[-1])
    last = longest.loss[-1] / interpolated(longest.compute[-1] / 2, longest.compute, longest.loss)
    return doublings > 0 and longest.loss[-1] * last**doublings > min(losses.values())


def test_the_envelope_is_the_least_loss_between_measured_sizes() -> None:
    curves = curves_of([256.0, 1024.0, 4096.0, 1024.0, 16384.0])
    found = envelope(curves, per_decade=7)
    kept = 0
    for power in range(80):
        compute = 10 ** (power / 7)
        losses = {
            number: interpolated(compute, curve.compute, curve.loss)
            for number, curve in enumerate(curves)
            if curve.compute[0] <= compute <= curve.compute[-1]
        }
        if not losses:
            continue
        best = min(losses, key=lambda number: losses[number])
        sizes = [curves[number].size for number in losses]
        smaller = [each for each in curves if each.size < curves[best].size]
        if (
            smaller
            and max(sizes) > curves[best].size
            and all(settled(each, curves, compute, losses) for each in smaller)
        ):
            assert found.compute[kept] == pytest.approx(compute)
            assert found.loss[kept] == pytest.approx(losses[best])
            assert found.best[kept] == best
            kept += 1
    assert kept == len(found.compute) > 5


@pytest.mark.parametrize(("gain", "goes_on"), [(0.02, True), (0.3, False)])
def test_a_smaller_run_that_ended_counts_where_it_could_not_have_caught_up(gain: float, goes_on: bool) -> None:
    """It ends at 10⁴ with a loss of 0.5; the best one has 0.5 there and falls by 10% with each doubling."""
    falling, ended = np.geomspace(1e2, 1e6, 50), np.geomspace(1e2, 1e4, 50)
    best = Curve(2.0, falling, 0.5 * (falling / 1e4) ** np.log2(0.9))
    smaller = Curve(1.0, ended, 0.5 * (ended / 1e4) ** np.log2(1 - gain))
    larger = Curve(3.0, falling, np.full(50, 2.0))
    assert (envelope([smaller, best, larger]).compute.max() > 1e5) == goes_on


def test_sizes_cross_where_both_are_as_good() -> None:
    sizes = [2.0**power for power in range(8, 14)]
    curves: list[Curve] = []
    for size in sizes:
        for worse in (1.0, 1.02):  # two runs of a size: the better one counts
            compute = size * np.geomspace(3, 3e4, 150)
            curves.append(Curve(size, compute, worse * (0.05 + size**-0.3 + (compute / size) ** -0.5)))
    found = crossings(curves)
    assert [each.size for each in found] == pytest.approx([size * 2**0.5 for size in sizes[:-1]])
    for each, size in zip(found, sizes[:-1], strict=True):
        # n^−0.3 + (n / C)^0.5 is equal for n and 2 n where C^0.5 = n^0.8 (2^0.5 − 1) / (1 − 2^−0.3).
        assert each.compute == pytest.approx((size**0.8 * (2**0.5 - 1) / (1 - 2**-0.3)) ** 2, rel=0.01)


def test_what_was_never_better_or_never_measured_side_by_side_does_not_cross() -> None:
    compute = np.geomspace(1e3, 1e6, 30)
    better, worse = Curve(1.0, compute, compute**-0.3), Curve(2.0, compute, 1.1 * compute**-0.3)
    later = Curve(4.0, 1e4 * compute, 0.5 * compute**-0.3)
    assert crossings([better, worse, later]) == [] == crossings([better])


def test_the_frontier_ends_where_the_best_size_is_at_the_edge() -> None:
    sizes = [2.0**power for power in range(8, 18)]
    curves = curves_of(sizes)
    found = envelope(curves)
    assert {curves[number].size for number in found.best} <= set(sizes[1:-1])
    with pytest.raises(UndeterminedError, match="no frontier"):
        envelope(curves[:2])
    with pytest.raises(UndeterminedError, match="no frontier"):
        envelope([])
