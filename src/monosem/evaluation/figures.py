"""Figures of a run, or of several. The path's suffix decides the format: .png, .svg or .pdf."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from monosem.evaluation.bootstrap import Estimate, estimate
from monosem.evaluation.comparison import METRICS, Comparison
from monosem.evaluation.record import Evaluation

BLUE, GREY, RED, GREEN = "#2f6690", "#8a8f98", "#c8553d", "#3a7d44"
# Told apart with any colour vision (Okabe and Ito 2008), and by their marks on paper without colours.
_CURVES = (
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#e69f00", "v"),
    ("#56b4e9", "P"),
    ("#333333", "X"),
    ("#8c6d31", "*"),
)
_LABELS = {
    "normalized_mse": "Normalised MSE",
    "cross_entropy_increase": "Increase of cross-entropy (nats)",
}
# About what there is room for in a comparison's width, and along the shorter of its vertical axes.
_LEGEND_LETTERS, _LABEL_LETTERS = 100, 32
STYLE: dict[Any, Any] = {
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
    "svg.fonttype": "none",
    "svg.hashsalt": "monosem",  # the same figure is the same file
    "savefig.dpi": 200,
}


def firing_density_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw how many latents fire how often, on a log axis; those that never do stand in front, in grey."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    density = evaluation.record["firing_density"]
    edges = [10**edge for edge in density["log10_edges"]]
    decades = range(math.ceil(density["log10_edges"][0]), 1)
    never_left, never_right = edges[0] / 2**2.5, edges[0] / 2**1.5
    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        bar: dict[str, Any] = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], density["latents"], widths, color=BLUE, **bar)
        never = axes.bar(never_left, density["dead"], never_right - never_left, color=GREY, **bar)
        axes.bar_label(never, [f"{density['dead']:,}"], padding=2, color=GREY)
        axes.set_xscale("log")
        axes.set_xlim(never_left / 2**0.5, edges[-1])
        axes.set_xticks(
            [(never_left * never_right) ** 0.5, *(10.0**decade for decade in decades)],
            ["never", *(f"$10^{{{decade}}}$" for decade in decades)],
        )
        axes.xaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:,.0f}")
        axes.set_xlabel(f"Firing density (share of {evaluation.record['tokens']:,} held-out tokens)")
        axes.set_ylabel(f"Latents (of {evaluation.record['n_latents']:,})")
        figure.savefig(path)


def training_figure(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the normalised MSE (log axis) and the dead share over tokens trained, from the records of metrics.jsonl.

    A record has ``tokens`` and either or both of ``normalized_mse`` and ``dead_share``.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, FuncFormatter, LogLocator, NullFormatter

    with rc_context(STYLE):
        figure = Figure(figsize=(5.4, 4.0), layout="constrained")
        mse, dead = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for axes, name in ((mse, "normalized_mse"), (dead, "dead_share")):
            points = [(record["tokens"], record[name]) for record in metrics if record.get(name) is not None]
            marker = "." if len(points) < 20 else ""
            axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.2, marker=marker, clip_on=False, zorder=3)
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


def comparison_figure(comparison: Comparison, path: Path) -> None:
    """Draw both metrics of every curve against L0, log-log, and below them their ratios to the reference curve's.

    Marks are runs, with 95% intervals; dashes between them are interpolated. Bands are 95% intervals of the ratios.
    Runs without an active latent, and metrics that are not positive, have no place on such axes.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    curves = sorted(comparison.curves, key=lambda curve: curve != comparison.reference)
    styles = {curve: curve_style(number) for number, curve in enumerate(curves)}
    both_ways: dict[Any, Any] = {**STYLE, "axes.grid.axis": "both"}
    with rc_context(both_ways):
        figure = Figure(figsize=(7.4, 6.0), layout="constrained")
        axes = figure.subplots(2, 2, sharex=True, height_ratios=(3, 2))
        for column, metric in enumerate(METRICS):
            values, ratios = axes[0][column], axes[1][column]
            for curve, (color, mark) in styles.items():
                _draw_curve(values, comparison, curve, metric, color, mark)
                _draw_ratio(ratios, comparison, curve, metric, color, mark)
            values.set_yscale("log")
            values.set_ylabel(_LABELS[metric])
            ratios.set_yscale("log")
            ratios.axhline(1, color=GREY, linewidth=0.8)
            ratios.set_ylabel(textwrap.fill(f"… as a multiple of {comparison.reference}", _LABEL_LETTERS))
            ratios.set_xlabel("L0 (active latents a token)")
            for each in (values, ratios):
                each.xaxis.set_major_formatter("{x:g}")
                plain_log_ticks(each.yaxis, *each.get_ylim())
        handles, labels = axes[0][0].get_legend_handles_labels()
        columns = max(1, min(4, _LEGEND_LETTERS // (max(map(len, labels)) + 6)))
        figure.legend(handles, labels, loc="outside upper center", ncols=columns, frameon=False)
        figure.supxlabel(
            "Marks: runs, with 95% intervals over documents. Dashes: interpolated, linear in both logarithms. "
            "Bands: 95% intervals of the ratio.",
            fontsize=7,
            color=GREY,
        )
        save_figure(figure, path)


def curve_style(number: int) -> tuple[str, str]:
    """A curve's colour and mark; from the ninth on, colours come again with other marks."""
    again, place = divmod(number, len(_CURVES))
    return _CURVES[place][0], _CURVES[(place + again) % len(_CURVES)][1]


def _draw_curve(axes: Any, comparison: Comparison, curve: str, metric: str, color: str, mark: str) -> None:
    measured = [run.measured for run in comparison.runs if run.curve == curve]
    points = [(float(run.l0[0]), estimate(run.metrics[metric])) for run in measured]
    drawn = [(l0, found) for l0, found in points if l0 > 0 and found.value is not None and found.value > 0]
    l0, values = [place for place, _ in drawn], [found.value for _, found in drawn]
    axes.plot(l0, values, color=color, linewidth=1, linestyle=(0, (4, 2)), zorder=3)
    bars = [[_reach(found, end) for _, found in drawn] for end in ("low", "high")]
    axes.errorbar(
        l0, values, yerr=bars, fmt=mark, color=color, markersize=4, elinewidth=0.7, capsize=0, label=curve, zorder=4
    )
    axes.set_xscale("log", base=2)


def _reach(found: Estimate, end: str) -> float:
    """How far an interval reaches from its value."""
    value, bound = found.value, getattr(found, end)
    return 0.0 if value is None or bound is None else max(0.0, value - bound if end == "low" else bound - value)


def _draw_ratio(axes: Any, comparison: Comparison, curve: str, metric: str, color: str, mark: str) -> None:
    points = [each for each in comparison.between if each.curve == curve and each.metric == metric]
    points = [each for each in points if each.ratio.value is not None]
    if curve == comparison.reference or not points:
        return
    l0 = [each.l0 for each in points]
    ratios = [each.ratio.value for each in points]
    axes.plot(l0, ratios, color=color, linewidth=1, linestyle=(0, (4, 2)), marker=mark, markersize=3, zorder=3)
    band = [(each.l0, each.ratio.low, each.ratio.high) for each in points if each.ratio.low is not None]
    if band:
        axes.fill_between(*zip(*band, strict=True), color=color, alpha=0.18, linewidth=0)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure; an SVG without the date, so that the same figure is the same file."""
    undated: dict[str, Any] = {"metadata": {"Date": None}} if path.suffix == ".svg" else {}
    figure.savefig(path, **undated)


def plain_log_ticks(axis: Any, low: float, high: float) -> None:
    """Numbers as they are read, and enough of them on a logarithmic axis of less than a decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    subs = (1, 2, 5) if high / low > 20 else (1, 2, 3, 5, 7) if high / low > 3 else (1, 1.2, 1.5, 2, 3, 4, 5, 7)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
