"""The figure of the best learning rate: where the loss is least for each n, and the law of that."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monosem.evaluation.figures import GREY
from monosem.scaling.fits import KINDS, Fits, FittedLaw
from monosem.scaling.law_axes import (
    INK,
    WIDE,
    EndLabel,
    draw_law,
    label_ends,
    legend_above,
    limit_values,
    log_axis,
    new_figure,
    ramp,
    size_axis,
)
from monosem.scaling.results import Row
from monosem.scaling.selection import by, rows_of

PAPERS_SLOPE = -0.5
# Losses are drawn up to this many times the greatest that the best rates reach; beyond, runs diverge.
_HIGHEST = 3.0


def rate_figure(fits: Fits, rows: Sequence[Row]) -> Any:
    """Loss against rate for each n, and where it is least against n; a line of panels for each sweep."""
    lines = len(fits.laws)
    figure = new_figure(WIDE, 0.5 + 2.6 * lines)
    grid = figure.subplots(lines, 2, squeeze=False)
    for (swept, best), (setting, fitted) in zip(grid, fits.laws.items(), strict=True):
        runs = rows_of(rows, fitted.points)
        ends = _draw_rates(swept, fitted, runs)
        swept.set_title(setting)
        _draw_best_rates(best, fitted)
        swept.set(xlabel="Learning rate", ylabel="Normalised MSE")
        best.set(xlabel=KINDS[fits.what].x, ylabel=KINDS[fits.what].y)
        label_ends(figure, swept, ends)
    legend_above(figure, list(grid.flat))
    return figure


def _draw_rates(axes: Any, fitted: FittedLaw, runs: Sequence[Row]) -> list[EndLabel]:
    """Each run, a line through the mean of a rate's seeds, and the optima; and where to name the sizes."""
    sizes = by(runs, lambda row: row["n_latents"])
    colors, ends, points = ramp(list(sizes)), list[EndLabel](), fitted.points
    highest = _HIGHEST * max(points["loss"])
    for n, members in sizes.items():
        rates = by(members, lambda row: row["learning_rate"])
        means = [math.exp(np.mean([math.log(row["normalized_mse"]) for row in each])) for each in rates.values()]
        axes.plot(list(rates), means, color=colors[n], linewidth=0.9, zorder=2)
        losses = [row["normalized_mse"] for row in members]
        axes.plot([row["learning_rate"] for row in members], losses, ".", color=colors[n], markersize=3.5, zorder=3)
        visible = [(rate, mean) for rate, mean in zip(rates, means, strict=True) if mean <= highest]
        ends.append(EndLabel(f"n = {n:,}", *(visible or [(max(rates), highest)])[-1], colors[n]))
    axes.plot(points["y"], points["loss"], "o", **_RING)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(top=min(axes.get_ylim()[1], highest))
    log_axis(axes, "x", 5)
    log_axis(axes, "y", 6)
    return ends


_RING: dict[str, Any] = {
    "color": INK,
    "markersize": 6,
    "markerfacecolor": "none",
    "markeredgewidth": 1.0,
    "zorder": 5,
    "label": "least loss",
}


def _draw_best_rates(axes: Any, fitted: FittedLaw) -> None:
    """The optima against n, their law, and the paper's slope through their middle."""
    n, rates = fitted.points["x"], fitted.points["y"]
    x = np.geomspace(min(n), max(n), 100)
    axes.plot(n, rates, "o", **_RING)
    draw_law(axes, fitted.law, x, INK, label="law, 95%")
    middle_n, middle_rate = (math.exp(np.mean(np.log(values))) for values in (n, rates))
    slope = middle_rate * (x / middle_n) ** PAPERS_SLOPE
    axes.plot(x, slope, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)), label="slope −½ (paper)", zorder=2)
    axes.set_xscale("log")
    axes.set_yscale("log")
    limit_values(axes, rates)
    size_axis(axes, "x", n, 2.6)
    log_axis(axes, "y", 6)
