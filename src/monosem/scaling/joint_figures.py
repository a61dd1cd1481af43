"""Figures of L(n, k): the law over n for each k, its isolines, and what smaller n foretell of the largest."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from monosem.scaling.fits import KINDS, Fits, FittedLaw
from monosem.scaling.law_axes import (
    INK,
    PALE,
    TINY,
    WIDE,
    WIDTH,
    EndLabel,
    label_ends,
    log_axis,
    log_ticks,
    new_figure,
    ramp,
    side_by_side,
    size_axis,
)
from monosem.scaling.results import Row

# Numbers of isolines keep so much of the axes' length from their ends.
_EDGE = 0.06


def joint_figure(fits: Fits, rows: Sequence[Row]) -> Any:
    """Loss against n for each k, and the law's isolines over n and k."""
    figure = new_figure(WIDE)
    left, right = figure.subplots(1, 2)
    (fitted,) = fits.laws.values()
    points, law = fitted.points, fitted.determined
    colors, ends = ramp(points["k"]), list[EndLabel]()
    x = np.geomspace(min(points["n"]), max(points["n"]), 100)
    for k, color in colors.items():
        chosen = [(n, y) for n, at, y in zip(points["n"], points["k"], points["y"], strict=True) if at == k]
        n, y = zip(*chosen, strict=True)
        places = side_by_side(n, x[-1] / x[0])
        left.plot(places, y, "o", color=color, markersize=3.5, markeredgewidth=0, zorder=4)
        found = law.predict(x, [k])
        left.plot(x, found.value, color=color, linewidth=1.2, zorder=3)
        ends.append(EndLabel(f"k = {k:g}", x[-1], float(found.value[-1]), color))
    left.set(xscale="log", yscale="log", xlabel=KINDS[fits.what].x, ylabel=KINDS[fits.what].y)
    size_axis(left, "x", points["n"], 2.4)
    log_axis(left, "y", 7)
    right.set(xscale="log", yscale="log", xlabel="Latents", ylabel="k (active latents a token)")
    right.set_title("Normalised MSE of the law; dots are runs")
    label_ends(figure, left, ends)
    _draw_isolines(figure, right, fitted)
    return figure


def _draw_isolines(figure: Any, axes: Any, fitted: FittedLaw) -> None:
    n, k = (np.geomspace(min(fitted.points[name]), max(fitted.points[name]), 80) for name in ("n", "k"))
    value = fitted.determined.predict(np.tile(n, len(k)), np.repeat(k, len(n))).value.reshape(len(k), len(n))
    dot: dict[str, Any] = {"markersize": 2.5, "markeredgewidth": 0, "clip_on": False, "zorder": 1}
    axes.plot(fitted.points["n"], fitted.points["k"], "o", color=PALE, **dot)
    axes.set(xlim=(n[0], n[-1]), ylim=(k[0], k[-1]))
    size_axis(axes, "x", fitted.points["n"], 2.4)
    size_axis(axes, "y", fitted.points["k"], 2.8)
    levels = [each for each in log_ticks(value.min(), value.max(), 10, fewest=6) if value.min() < each < value.max()]
    if levels:
        lines = axes.contour(n, k, value, levels=levels, colors=INK, linewidths=0.9)
        figure.draw_without_rendering()  # numbers are turned as lines run where they are shown
        axes.clabel(lines, fmt="%g", fontsize=TINY, inline_spacing=3, manual=_on_diagonal(axes, lines.allsegs))


def _on_diagonal(axes: Any, levels: Sequence[Sequence[Any]]) -> list[tuple[float, float]]:
    """Where each level's longest line is nearest to the diagonal; of those close to the axes' edge, nowhere."""
    places: list[tuple[float, float]] = []
    for lines in levels:
        line = max(lines, key=len)
        shares = axes.transAxes.inverted().transform(axes.transData.transform(line))
        nearest = abs(shares[:, 0] - shares[:, 1]).argmin()
        if shares[nearest].min() > _EDGE and shares[nearest].max() < 1 - _EDGE:
            places.append(tuple(line[nearest]))
    return places


def foretold_figure(fits: Fits) -> Any:
    """By how much the law of the smaller n misses the largest, for each k."""
    figure = new_figure(WIDTH, 2.6)
    axes = figure.add_subplot()
    (fitted,) = fits.laws.values()
    found = fitted.extrapolation
    assert found is not None
    k = found.variables[1].tolist()
    colors = ramp(k)
    errors = 100 * found.relative_errors
    low, high = (100 * (bound / found.measured - 1) for bound in (found.predicted.low, found.predicted.high))
    places, shades = side_by_side(k, max(k) / min(k)), [colors[each] for each in k]
    if len(found.law.samples):
        axes.vlines(places, low, high, colors=shades, linewidth=0.9)
    axes.scatter(places, errors, s=16, color=shades)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.set_xscale("log")
    size_axis(axes, "x", k, 4.4)
    axes.set_xlabel("k (active latents a token)")
    axes.set_ylabel(f"Predicted over measured\nat n = {max(found.variables[0]):,.0f}, less 1 (%)")
    return figure
