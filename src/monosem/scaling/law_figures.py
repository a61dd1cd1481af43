"""Figures of fitted laws, as a paper shows them; each as PNG and SVG."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monosem.evaluation.figures import save_figure
from monosem.evaluation.suite_figures import SUFFIXES
from monosem.scaling.compute_figure import compute_figure
from monosem.scaling.fits import KINDS, Fits, FittedLaw
from monosem.scaling.joint_figures import foretold_figure, joint_figure
from monosem.scaling.law_axes import (
    INK,
    LAW_STYLE,
    SMALL,
    EndLabel,
    draw_foretold,
    draw_law,
    label_ends,
    legend_above,
    limit_values,
    log_axis,
    new_figure,
    ramp,
    side_by_side,
    size_axis,
)
from monosem.scaling.rate_figure import rate_figure
from monosem.scaling.results import Row

_DOT: dict[str, Any] = {"marker": "o", "linestyle": "none", "markersize": 3.5, "markeredgewidth": 0}
# Of a subject's name there is room for so many letters beside the axes, and of a legend for so many lines.
_LETTERS, _LINES = 24, 14


def draw_fits(fits: Fits, rows: Sequence[Row], directory: Path) -> list[Path]:
    """Write the figures of some fitted laws, each as PNG and SVG; where they are.

    Args:
        rows: those that the laws were fitted to.
    """
    from matplotlib import rc_context

    paths: list[Path] = []
    with rc_context(LAW_STYLE):
        for name, figure in law_figures(fits, rows).items():
            for suffix in SUFFIXES:
                save_figure(figure, path := directory / f"{name}{suffix}")
                paths.append(path)
    return paths


def law_figures(fits: Fits, rows: Sequence[Row]) -> dict[str, Any]:
    """The figures by their names, not yet written: that of the laws; of a joint one, that of what it foretells too."""
    from matplotlib import rc_context

    with rc_context(LAW_STYLE):
        figures = {fits.what: _DRAWINGS[fits.what](fits, rows)}
        if fits.what == "joint" and any(fitted.extrapolation for fitted in fits.laws.values()):
            figures["joint-extrapolation"] = foretold_figure(fits)
    return figures


def _by_size(fits: Fits, rows: Sequence[Row]) -> Any:
    """A law of n for each setting: its points, line and band, and what the smaller sizes foretell of the largest."""
    figure = new_figure()
    axes = figure.add_subplot()
    laws = fits.laws.values()
    colors = ramp([_place(fitted) for fitted in laws])
    sizes, measured = ([value for fitted in laws for value in fitted.points[name]] for name in ("x", "y"))
    axes.set(xscale="log", yscale="log", xlabel=KINDS[fits.what].x, ylabel=KINDS[fits.what].y)
    for fitted in laws:
        _draw_sizes(axes, fitted, sizes, colors[_place(fitted)])
    limit_values(axes, measured)
    size_axis(axes, "x", sizes, 4.2)
    log_axis(axes, "y", 6)
    _explain(axes, any(fitted.extrapolation for fitted in laws))
    legend_above(figure, [axes])
    edge = axes.get_xlim()[1]
    largest = {name: [max(fitted.points["x"])] for name, fitted in fits.laws.items()}
    ends = {name: float(fits.laws[name].determined.predict(n).value[0]) for name, n in largest.items()}
    label_ends(
        figure,
        axes,
        [EndLabel(_named(name, each), edge, ends[name], colors[_place(each)]) for name, each in fits.laws.items()],
    )
    return figure


def _draw_sizes(axes: Any, fitted: FittedLaw, sizes: Sequence[float], color: str) -> None:
    n = fitted.points["x"]
    draw_law(axes, fitted.determined, np.geomspace(min(n), max(n), 100), color)
    axes.plot(side_by_side(n, max(sizes) / min(sizes)), fitted.points["y"], color=color, zorder=4, **_DOT)
    if fitted.extrapolation is not None:
        draw_foretold(axes, fitted.extrapolation, sizes, color)


def _explain(axes: Any, is_foretold: bool) -> None:
    """What is drawn, for a legend without the settings' colours."""
    axes.plot([], [], color=INK, label="runs", **_DOT)
    axes.plot([], [], color=INK, linewidth=1.2, label="law, 95%")
    if is_foretold:
        hollow = {**_DOT, "marker": "D", "markerfacecolor": "white", "markeredgewidth": 0.9}
        axes.plot([], [], color=INK, label="foretold by smaller n, 95%", **hollow)


def _place(fitted: FittedLaw) -> float:
    """Where a law stands among others: by its subject's parameters, or by k."""
    return fitted.points["parameters" if "parameters" in fitted.points else "k"][0]


def _named(name: str, fitted: FittedLaw) -> str:
    """``k = 8``, or a subject's name without its owner and with its parameters in short."""
    if "parameters" not in fitted.points:
        return name
    subject = name.rpartition(" (")[0].rpartition("/")[2]
    parameters = _in_short(fitted.points["parameters"][0])
    return f"{subject[:_LETTERS]}{'…' * (len(subject) > _LETTERS)} ({parameters})"


def _in_short(parameters: float) -> str:
    """As models are called: ``124M``."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{letter}"
    return f"{parameters:g}"


def _downstream(fits: Fits, rows: Sequence[Row]) -> Any:
    """The increase of cross-entropy against the normalised MSE, coloured by k where all runs have one."""
    figure = new_figure()
    axes = figure.add_subplot()
    (fitted,) = fits.laws.values()
    points = fitted.points
    mse, increase, k = (np.array(points[name], dtype=np.float64) for name in ("x", "y", "k"))
    colors = ramp(k.tolist()) if np.isfinite(k).all() else {math.nan: INK}
    for each, color in colors.items():
        chosen = np.isclose(k, each) if len(colors) > 1 else np.ones(len(k), dtype=bool)
        axes.plot(mse[chosen], increase[chosen], color=color, label=f"{each:g}", **_DOT)
    handles = axes.get_legend_handles_labels()
    draw_law(axes, fitted.law, np.geomspace(mse.min(), mse.max(), 100), INK)
    axes.set(xscale="log", yscale="log", xlabel=KINDS[fits.what].x, ylabel=KINDS[fits.what].y)
    limit_values(axes, points["y"])
    log_axis(axes, "x", 6)
    log_axis(axes, "y", 7)
    if len(colors) > 1:
        look: dict[str, Any] = {"title": "k", "title_fontsize": SMALL, "handletextpad": 0.1}
        figure.legend(*handles, loc="outside right center", ncols=math.ceil(len(colors) / _LINES), **look)
    return figure


_DRAWINGS: dict[str, Callable[[Fits, Sequence[Row]], Any]] = {
    "compute": compute_figure,
    "learning-rate": rate_figure,
    "tokens": _by_size,
    "latents": _by_size,
    "subject": _by_size,
    "joint": joint_figure,
    "downstream": _downstream,
}
