"""Figures of one run. The path's suffix decides the format: .png or .pdf."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from monosem.evaluation.suite import Evaluation

_BLUE, _GREY = "#2f6690", "#8a8f98"
_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e6ea",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,  # letters stay letters
    "savefig.dpi": 200,
}


def firing_density_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw how many latents fire how often, on a log axis; those that never do stand in front, in grey."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    edges = [10**edge for edge in evaluation.density.log10_edges]
    decades = range(math.ceil(evaluation.density.log10_edges[0]), 1)
    never_left, never_right = edges[0] / 2**2.5, edges[0] / 2**1.5
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        bar: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], evaluation.density.latents, widths, color=_BLUE, **bar)
        never = axes.bar(never_left, evaluation.density.dead, never_right - never_left, color=_GREY, **bar)
        axes.bar_label(never, [f"{evaluation.density.dead:,}"], padding=2, color=_GREY)
        axes.set_xscale("log")
        axes.set_xlim(never_left / 2**0.5, edges[-1])
        axes.set_xticks(
            [(never_left * never_right) ** 0.5, *(10.0**decade for decade in decades)],
            ["never", *(f"$10^{{{decade}}}$" for decade in decades)],
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(f"Firing density (share of {evaluation.tokens:,} held-out tokens)")
        axes.set_ylabel(f"Latents (of {evaluation.n_latents:,})")
        figure.savefig(path)


def training_figure(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the normalised MSE (log axis) and the dead share over tokens trained, from the records of metrics.jsonl.

    A record has ``tokens`` and either or both of ``normalized_mse`` and ``dead_share``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 4.0), layout="constrained")
        mse, dead = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for axes, name in ((mse, "normalized_mse"), (dead, "dead_share")):
            points = [(record["tokens"], record[name]) for record in metrics if record.get(name) is not None]
            marker = "." if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), color=_BLUE, linewidth=1.2, marker=marker, clip_on=False, zorder=3)
        mse.set_yscale("log")
        mse.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        mse.yaxis.set_major_formatter("{x:g}")
        mse.yaxis.set_minor_formatter(NullFormatter())
        mse.set_ylabel("Normalised MSE")
        dead.set_ylim(bottom=0)
        dead.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
        dead.set_ylabel("Dead latents")
        dead.xaxis.set_major_formatter(EngFormatter(sep=" "))
        dead.set_xlim(left=0)
        dead.set_xlabel("Tokens trained")
        figure.align_ylabels()
        figure.savefig(path)
