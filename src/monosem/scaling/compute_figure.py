"""The figure of L(C): all runs' curves, their lower envelope, its law, and what smaller sizes foretell."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from monosem.evaluation.figures import RED
from monosem.laws.forms import IRREDUCIBLE
from monosem.scaling.fits import KINDS, Fits, FittedLaw
from monosem.scaling.law_axes import (
    HEIGHT,
    INK,
    LARGE,
    PALE,
    SMALL,
    TINY,
    WIDE,
    WIDTH,
    draw_law,
    legend_above,
    log_axis,
    new_figure,
    ramp,
)
from monosem.scaling.results import Row
from monosem.scaling.selection import curve_of, rows_of


def compute_figure(fits: Fits, rows: Sequence[Row]) -> Any:
    """All runs' curves, the frontier and its law; a panel for each k."""
    columns = math.ceil(len(fits.laws) ** 0.5)
    lines = math.ceil(len(fits.laws) / columns)
    figure = new_figure(WIDTH if columns == 1 else WIDE, HEIGHT if columns == 1 else 0.7 + 2.1 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    panels, empty = list(grid.flat[: len(fits.laws)]), grid.flat[len(fits.laws) :]
    rows = [row for row in rows if row["name"] not in fits.left_out]
    colors = ramp([row["n_latents"] for row in rows])
    for axes, (setting, fitted) in zip(panels, fits.laws.items(), strict=True):
        _draw_runs(axes, rows_of(rows, fitted.points), colors)
        _draw_frontier(axes, fitted, 5 / columns**0.5)
        axes.set_title(setting)
    for axes in empty:
        axes.set_axis_off()
    for axes in grid.flat[len(fits.laws) - columns : len(fits.laws)]:
        axes.xaxis.set_tick_params(labelbottom=True)
    _limit_curves(grid[0, 0], fits, rows)
    for axes in panels:
        log_axis(axes, "x", 8 if columns == 1 else 4)
        log_axis(axes, "y", 7)
    _outer_labels(figure, grid, fits.what)
    _size_legend(figure, {f"{n:,}": color for n, color in colors.items()})
    legend_above(figure, panels)
    return figure


def _draw_runs(axes: Any, runs: Sequence[Row], colors: dict[float | int, str]) -> None:
    for row in runs:
        curve = curve_of(row)
        if curve is not None:
            axes.plot(curve.compute, curve.loss, color=colors[row["n_latents"]], linewidth=0.6, alpha=0.55, zorder=2)
    axes.set_xscale("log")
    axes.set_yscale("log")


def _draw_frontier(axes: Any, fitted: FittedLaw, size: float) -> None:
    """The envelope's points, their law, and that of all but the largest n with the points beyond its reach."""
    points, law, beyond = fitted.points, fitted.determined, fitted.extrapolation
    x = np.geomspace(min(points["x"]), 2 * max(points["x"]), 100)
    axes.plot(points["x"], points["y"], ".", color=INK, markersize=size, label="frontier", zorder=4)
    draw_law(axes, law, x, INK, label="L(C), 95%")
    irreducible = law.parameters["irreducible"].value if law.form is IRREDUCIBLE else None
    if irreducible is not None:
        axes.axhline(irreducible, color=PALE, linewidth=1, linestyle=(0, (1, 1.5)), label="irreducible", zorder=2)
    if beyond is not None:
        smaller: dict[str, Any] = {"linestyle": (0, (3, 2)), "label": "law of smaller n"}
        axes.plot(x, beyond.law.predict(x).value, color=RED, linewidth=1.1, zorder=3, **smaller)
        held_out: dict[str, Any] = {"markersize": size, "markerfacecolor": "none", "markeredgewidth": 0.8}
        axes.plot(beyond.variables[0], beyond.measured, "s", color=RED, label="held out", zorder=5, **held_out)


def _limit_curves(axes: Any, fits: Fits, rows: Sequence[Row]) -> None:
    """Up to where curves come near to the frontier, as high above it as it falls; and from where the first one does."""
    frontier = [loss for fitted in fits.laws.values() for loss in fitted.points["y"]]
    top = max(frontier) * max(max(frontier) / min(frontier), 1.2)
    curves = [curve for row in rows if (curve := curve_of(row)) is not None]
    axes.set_ylim(top=top)
    axes.set_xlim(left=min(curve.compute[curve.loss <= top].min(initial=np.inf) for curve in curves) / 1.2)


def _outer_labels(figure: Any, grid: Any, what: str) -> None:
    if grid.size == 1:
        grid[0, 0].set(xlabel=KINDS[what].x, ylabel=KINDS[what].y)
    else:
        figure.supxlabel(KINDS[what].x, fontsize=LARGE)
        figure.supylabel(KINDS[what].y, fontsize=LARGE)


def _size_legend(figure: Any, sizes: dict[str, str]) -> None:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=color, linewidth=1.4) for color in sizes.values()]
    figure.legend(
        lines, sizes, title="Latents", loc="outside right center", handlelength=1, title_fontsize=SMALL, fontsize=TINY
    )
