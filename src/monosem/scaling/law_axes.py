"""What figures of laws share: laws with bands, colours in order, and axes with numbers as they are read."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from monosem.evaluation.figures import BLUE, STYLE
from monosem.laws.extrapolation import Extrapolation
from monosem.laws.law import Law
from monosem.scaling.law_numbers import PLAIN_BELOW, power_of_ten

INK, PALE = "#26292e", "#9aa0a8"
LARGE, SMALL, TINY = 9, 8, 7
# Inches.
WIDTH, WIDE, HEIGHT = 5.4, 7.2, 3.4
LAW_STYLE: dict[Any, Any] = {
    **STYLE,
    "axes.grid.axis": "both",
    "axes.titlesize": SMALL,
    "axes.titlelocation": "left",
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
}
# From dark to light, so that the order is there on paper without colours; lighter ones would not be seen on white.
_RAMP, _LIGHTEST = "viridis", 0.8
# Between marks that stand side by side, as a share of the axis.
_STEP = 0.012
# Multiples of powers of ten that ticks may stand at, from many ticks to few.
_MULTIPLES = ((1, 1.2, 1.5, 2, 3, 4, 5, 7), (1, 1.5, 2, 3, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,))


class EndLabel(NamedTuple):
    """Words for a curve, and where it ends."""

    text: str
    x: float
    y: float
    color: str


def new_figure(width: float = WIDTH, height: float = HEIGHT) -> Any:
    """A figure without axes, of so many inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def legend_above(figure: Any, panels: Sequence[Any]) -> None:
    """What marks and lines of some axes mean, each told once."""
    handles: dict[str, Any] = {}
    for axes in panels:
        found, names = axes.get_legend_handles_labels()
        handles = {**dict(zip(names, found, strict=True)), **handles}
    spaces = {"columnspacing": 1.2, "handletextpad": 0.5, "handlelength": 1.8}
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=5, **spaces)


def ramp(values: Sequence[float | int]) -> dict[float | int, str]:
    """A colour for each different value, darker for the smaller."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    different = sorted(set(values))
    if len(different) == 1:
        return {different[0]: BLUE}
    shades = colormaps[_RAMP](np.linspace(0, _LIGHTEST, len(different)))
    return {value: to_hex(shade) for value, shade in zip(different, shades, strict=True)}


def draw_law(axes: Any, law: Law, x: Any, color: str, **line: Any) -> None:
    """A law of one variable with its 95% band, if it has one."""
    found = law.predict(x)
    axes.plot(x, found.value, color=color, zorder=3, **{"linewidth": 1.2, **line})
    if len(law.samples):
        axes.fill_between(x, found.low, found.high, color=color, alpha=0.16, linewidth=0, zorder=1)


def side_by_side(x: Sequence[float], within: float) -> list[float]:
    """Places on a log axis of marks that share an x, such as seeds; ``within`` is its greatest value over its least."""
    many, seen, places = Counter(x), defaultdict[float, int](int), list[float]()
    for value in x:
        places.append(value * within ** (_STEP * (seen[value] - (many[value] - 1) / 2)))
        seen[value] += 1
    return places


def draw_foretold(axes: Any, found: Extrapolation, beside: Sequence[float], color: str) -> None:
    """What the law of the others says of the largest size, right of what was measured there."""
    x = found.variables[0]
    share = len(x) / 2 + 1.2
    place = x[:1] * (max(beside) / min(beside)) ** (_STEP * share)
    value, low, high = (bound[:1] for bound in found.predicted)
    mark: dict[str, Any] = {"markerfacecolor": "white", "markersize": 4, "markeredgewidth": 0.9}
    if len(found.law.samples):
        axes.vlines(place, low, high, color=color, linewidth=0.9, zorder=4)
    axes.plot(place, value, "D", color=color, zorder=4, **mark)


def label_ends(figure: Any, axes: Any, labels: Sequence[EndLabel]) -> None:
    """Words right of the axes, each as near to its curve's end as there is room; a thin line leads to it.

    Call it when all is drawn and the axes' limits are final: only then is it known how high they are.
    """
    from scipy.optimize import isotonic_regression

    figure.draw_without_rendering()
    ordered = sorted(labels, key=lambda label: label.y)
    height = 72 * axes.get_window_extent().height / figure.dpi
    gap = 1.15 * TINY / height
    display = axes.transData.transform([(label.x, label.y) for label in ordered])
    ends = axes.transAxes.inverted().transform(display)[:, 1]
    steps = gap * np.arange(len(ordered))
    # The least squares of what they are moved by, at a gap or more apart.
    free = np.clip(isotonic_regression(ends - steps).x, 0, max(0.0, 1 - steps[-1]))
    indent = 1.035 if np.abs(free + steps - ends).max() < 2 * gap else 1.08
    leader = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 1, "shrinkB": 2, "relpos": (0, 0.5)}
    for label, place in zip(ordered, free + steps, strict=True):
        axes.annotate(
            label.text,
            xy=(label.x, label.y),
            xytext=(indent, place),
            textcoords="axes fraction",
            fontsize=TINY,
            color=label.color,
            verticalalignment="center",
            arrowprops={**leader, "color": label.color},
            annotation_clip=False,
        )


def log_ticks(low: float, high: float, room: int, fewest: int = 4) -> list[float]:
    """Round numbers on a log axis: as many as there is room for, and at even steps where those would be too few."""
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    choices = [[multiple * 10.0**decade for decade in decades for multiple in multiples] for multiples in _MULTIPLES]
    choices = [[tick for tick in ticks if low <= tick <= high] for ticks in choices]
    if len(choices[0]) < fewest:
        even = MaxNLocator(room, steps=(1, 2, 2.5, 5, 10)).tick_values(low, high)
        return [float(tick) for tick in even if low <= tick <= high]
    for ticks in choices:
        if len(ticks) <= room:
            return ticks
    return choices[-1][:: math.ceil(len(choices[-1]) / room)]


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """As numbers are read, and all of an axis alike: ``1,000``, or ``2 × 10⁶`` where some are large or small."""
    if not ticks or (max(ticks) < PLAIN_BELOW and min(ticks) > 0.99e-4):
        return [f"{tick:,.10g}" for tick in ticks]
    powers = [math.floor(math.log10(tick) + 1e-9) for tick in ticks]
    mantissas = [f"{tick / 10.0**power:.6g}" for tick, power in zip(ticks, powers, strict=True)]
    pairs = zip(mantissas, powers, strict=True)
    return [power_of_ten(power) if text == "1" else f"{text} × {power_of_ten(power)}" for text, power in pairs]


def log_axis(axes: Any, which: str, room: int) -> None:
    """Number a log axis of axes on which all is drawn; ``which`` is x or y."""
    from matplotlib.ticker import NullFormatter

    axis, (low, high) = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
    ticks = log_ticks(low, high, room)
    axis.set_ticks(ticks, tick_labels(ticks))
    axis.set_minor_formatter(NullFormatter())


def size_axis(axes: Any, which: str, sizes: Sequence[float], inches: float) -> None:
    """Number a log axis of such a length at the sizes that were measured, or at every second or third of them."""
    from matplotlib.ticker import NullLocator

    axis, (low, high) = getattr(axes, f"{which}axis"), getattr(axes, f"get_{which}lim")()
    different = sorted(set(sizes))
    ticks = next(
        ticks
        for stride in range(1, len(different) + 1)
        if _have_room(ticks := different[::stride], which, inches / math.log(high / low))
    )
    axis.set_ticks(ticks, [f"{tick:,.10g}" for tick in ticks])
    axis.set_minor_locator(NullLocator())


def _have_room(ticks: Sequence[float], which: str, inches: float) -> bool:
    """Whether labels don't touch; ``inches`` are those of a factor of e."""
    sides = [0.034 * len(f"{tick:,.10g}") + 0.04 if which == "x" else 0.08 for tick in ticks]
    pairs = zip(pairwise(ticks), pairwise(sides), strict=True)
    return all(inches * math.log(b / a) >= before + after for (a, b), (before, after) in pairs)


def limit_values(axes: Any, points: Sequence[float]) -> None:
    """Show as much above and below the points as they reach themselves: a wide band must not press them together."""
    low, high = axes.get_ylim()
    reach = max(max(points) / min(points), 1.1)
    axes.set_ylim(max(low, min(points) / reach), min(high, max(points) * reach))
