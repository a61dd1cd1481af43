"""Figures of one run. The path's suffix decides the format: .png or .pdf."""

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
    "pdf.fonttype": 42,  # letters stay letters
    "savefig.dpi": 200,
}


def firing_density_figure(evaluation: Evaluation, path: Path) -> None:
    """Draw how many latents fire how often: a histogram over density on a log axis; the dead stand apart, in grey."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    histogram, tokens = evaluation.density, evaluation.tokens
    edges = [10**edge for edge in histogram.log10_edges]
    with rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 3.0), layout="constrained")
        axes = figure.add_subplot()
        widths = [right - left for left, right in pairwise(edges)]
        axes.bar(edges[:-1], histogram.latents, widths, align="edge", color=_BLUE, edgecolor="white", linewidth=0.6)
        axes.bar(edges[0] / 4, histogram.dead, edges[0] / 4, align="edge", color=_GREY)
        axes.set_xscale("log")
        axes.set_xlabel(f"Firing density: share of {tokens:,} held-out tokens")
        axes.set_ylabel(f"Latents, of {evaluation.n_latents:,}")
        figure.savefig(path)


def training_figure(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw the normalised MSE (log axis) and the dead share over tokens trained, from the records of metrics.jsonl.

    A record has ``tokens`` and any of ``normalized_mse`` and ``dead_share``; those without are passed over.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, PercentFormatter

    with rc_context(_STYLE):
        figure = Figure(figsize=(5.4, 4.0), layout="constrained")
        mse, dead = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
        for axes, name in ((mse, "normalized_mse"), (dead, "dead_share")):
            points = [(record["tokens"], record[name]) for record in metrics if record.get(name) is not None]
            axes.plot(*zip(*points, strict=True), color=_BLUE, linewidth=1.2)
        mse.set_yscale("log")
        mse.set_ylabel("Normalised MSE")
        dead.set_ylabel("Dead share")
        dead.set_xlabel("Tokens trained")
        figure.savefig(path)
