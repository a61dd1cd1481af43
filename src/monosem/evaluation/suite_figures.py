"""Figures of what the full suite found, from the record; each as PNG and SVG."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from monosem.evaluation.figures import BLUE, GREEN, GREY, RED, STYLE, plain_log_ticks, save_figure
from monosem.evaluation.record import Evaluation

SUFFIXES = (".png", ".svg")
_PROBES = {
    "constant": ("base rate", GREY),
    "channel": ("best channel", RED),
    "latent": ("best latent", BLUE),
    "linear": ("all channels", GREEN),
}
# As far as losses are drawn: half as much again as guessing's.
_WORST = 1.5 * math.log(2)
_GROUPS = {"latents": BLUE, "channels": RED, "directions": GREY}


def draw_suite(evaluation: Evaluation, directory: Path) -> list[Path]:
    """Draw a figure of every part that is there, and of the losses by position; the SVGs' paths."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn: list[Path] = []
    sources: dict[str, tuple[Any, Callable[[Any, Any], None]]] = {"by_position": (evaluation.record, draw_positions)}
    sources |= {name: (part, _DRAWINGS[name]) for name, part in evaluation.parts.items() if name in _DRAWINGS}
    for name, (source, draw) in sources.items():
        with rc_context(STYLE):
            figure = Figure(figsize=(5.4, 3.2), layout="constrained")
            draw(figure, source)
            for suffix in SUFFIXES:
                save_figure(figure, directory / f"{name}{suffix}")
        drawn.append(directory / f"{name}.svg")
    return drawn


def draw_positions(figure: Any, record: Mapping[str, Any]) -> None:
    """Cross-entropy, and its increase, by place in the block, with 95% intervals."""
    above, below = figure.subplots(2, 1, sharex=True)
    length = record["context_length"]
    names = (("cross_entropy", "unmodified", GREY), ("cross_entropy_reconstruction", "reconstruction", BLUE))
    bins = len(record["by_position"]["cross_entropy"])
    places = [(place + 0.5) * length / bins - 0.5 for place in range(bins)]
    for name, label, color in names:
        _draw_estimates(above, places, record["by_position"][name], color, label)
    _draw_estimates(below, places, record["by_position"]["cross_entropy_increase"], BLUE, None)
    above.set_ylabel("Cross-entropy (nats)")
    below.set_ylabel("Increase (nats)")
    below.set_ylim(bottom=min(0, below.get_ylim()[0]))
    below.set_xlabel("Position in the block")
    above.legend(frameon=False)
    figure.align_ylabels()


def _draw_estimates(
    axes: Any, places: Sequence[float], estimates: Sequence[Mapping[str, Any]], color: str, label: str | None
) -> None:
    """A line with a band where there are intervals; gaps where nothing is defined."""
    nan = float("nan")
    values = [nan if each["value"] is None else each["value"] for each in estimates]
    low, high = ([nan if each[end] is None else each[end] for each in estimates] for end in ("low", "high"))
    axes.plot(places, values, color=color, linewidth=1.2, label=label)
    axes.fill_between(places, low, high, color=color, alpha=0.18, linewidth=0)


def draw_probes(figure: Any, part: Mapping[str, Any]) -> None:
    """Held-out losses of every task, the tasks in the order of the best latent's."""
    tasks = sorted(part["tasks"], key=lambda task: task["losses"]["latent"]["value"])
    axes = figure.add_subplot()
    for name, (label, color) in _PROBES.items():
        values = [task["losses"][name]["value"] for task in tasks]
        axes.plot(range(1, len(tasks) + 1), values, ".", color=color, markersize=4, label=label)
    beyond = sum(each["value"] > _WORST for task in tasks for each in task["losses"].values())
    axes.set_ylim(0, _WORST)
    told = f"; {beyond} losses lie beyond" if beyond else ""
    axes.set_xlabel(f"Tasks (of {len(tasks)}), by the best latent's loss{told}")
    axes.set_ylabel("Held-out probe loss (nats)")
    axes.legend(frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0), handletextpad=0.2)


def draw_n2g(figure: Any, part: Mapping[str, Any]) -> None:
    """Precision and recall of every latent's explanation, built from random and from strongest activations."""
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    kinds = {"random": "random activations", "top": "strongest activations"}
    for axes, (kind, label) in zip(panels, kinds.items(), strict=True):
        pairs = [(latent[kind]["recall"]["value"], latent[kind]["precision"]["value"]) for latent in part["latents"]]
        there = [pair for pair in pairs if None not in pair]
        axes.plot(*zip(*there, strict=True), ".", color=BLUE, markersize=4, alpha=0.5) if there else None
        axes.set_title(f"Built from {label}", fontsize=9)
        axes.set_xlabel("Recall")
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(-0.03, 1.03)
        axes.grid(visible=True, axis="both")
    panels[0].set_ylabel("Precision")


def draw_ablation(figure: Any, part: Mapping[str, Any]) -> None:
    """Of latents, channels and directions, the share whose ablation is at most so sparse."""
    axes = figure.add_subplot()
    for name, color in _GROUPS.items():
        values = sorted(value for value in part[name]["sparsity"] if value is not None)
        if values:
            axes.ecdf(values, color=color, linewidth=1.2, label=name)
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_xlabel(f"Ablation sparsity over {part['settings']['horizon']} positions (all logits alike: 1)")
    axes.set_ylabel("Share of all")
    axes.legend(frameon=False)


def draw_refinement(figure: Any, part: Mapping[str, Any]) -> None:
    """How many values refinement multiplies by how much."""
    histogram = part["ratios"]["histogram"]
    counts = [count / part["active_values"] for count in histogram["counts"]]
    axes = figure.add_subplot()
    axes.stairs(counts, histogram["edges"], color=BLUE, fill=True, alpha=0.35)
    axes.axvline(1, color=GREY, linewidth=0.8)
    axes.set_xlabel(f"Refined over original value ({histogram['above'] / part['active_values']:.1%} lie beyond)")
    axes.set_ylabel("Share of active values")


def draw_progressive(figure: Any, part: Mapping[str, Any]) -> None:
    """Normalised MSE against L0, read with other k' and with thresholds, and as trained."""
    axes = figure.add_subplot()
    for name, label, color, mark in (("by_k", "k' strongest", BLUE, "o"), ("by_threshold", "above θ", RED, "s")):
        points = [(point["l0"]["value"], point["normalized_mse"]["value"]) for point in part[name]]
        there = [(l0, mse) for l0, mse in points if l0]
        axes.plot(*zip(*there, strict=True), color=color, marker=mark, markersize=3, linewidth=1, label=label)
    own = part["own"]
    axes.plot(own["l0"]["value"], own["normalized_mse"]["value"], "*", color="black", markersize=9, label="as trained")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    plain_log_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_xlabel("L0 (active latents a token)")
    axes.set_ylabel("Normalised MSE")
    axes.legend(frameon=False)


_DRAWINGS: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
    "probes": draw_probes,
    "n2g": draw_n2g,
    "ablation": draw_ablation,
    "refinement": draw_refinement,
    "progressive": draw_progressive,
}
