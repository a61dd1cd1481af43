"""What the full suite says of dictionaries of growing size, TopK and ReLU at about the same L0: one table, one figure.

    monosem frontier --config docs/results/evaluation/topk.toml
    monosem frontier --config docs/results/evaluation/relu.toml
    for run in build/evaluation/*/*-*; do monosem eval $run --suite full; done
    python scripts/evaluation_trends.py

Writes metrics.json, trends.png and trends.svg into docs/results/evaluation, and prints the table.
"""

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from monosem.evaluation.figures import BLUE, GREY, RED, STYLE, save_figure

RUNS, RESULTS = Path("build/evaluation"), Path("docs/results/evaluation")
SIZES = (1024, 4096, 16384)
ROWS = {
    "L0": "l0",
    "normalised MSE": "normalized_mse",
    "increase of cross-entropy": "cross_entropy_increase",
    "compute equivalent": "compute_equivalent",
    "silent at the end of training": "silent_share",
    "probe loss, best latent": "probe_loss",
    "best channel": "probe_loss_channel",
    "all channels": "probe_loss_linear",
    "N2G precision, random": "n2g_precision_random",
    "N2G recall, random": "n2g_recall_random",
    "N2G F1, random": "n2g_f1_random",
    "N2G precision, strongest": "n2g_precision_top",
    "N2G recall, strongest": "n2g_recall_top",
    "ablation sparsity, latents": "ablation_sparsity_latents",
    "channels": "ablation_sparsity_channels",
    "directions": "ablation_sparsity_directions",
    "own token, latents": "ablation_own_sparsity_latents",
    "own token, directions": "ablation_own_sparsity_directions",
    "normalised MSE, refined": "normalized_mse_refined",
    "refined / original values": "ratio_of_means",
    "increase of cross-entropy, refined": "cross_entropy_increase_refined",
    "normalised MSE at k' = 8": "normalized_mse_k_8",
    "normalised MSE at k' = 128": "normalized_mse_k_128",
    "decoder rows with a near twin": "twin_share",
    "encoder · decoder": "alignment",
}
PANELS = {
    "Normalised MSE": ("normalized_mse", None),
    "Probe loss (nats)": ("probe_loss", "probe_loss_channel"),
    "N2G F1, random activations": ("n2g_f1_random", None),
    "Ablation sparsity": ("ablation_sparsity_latents", "ablation_sparsity_directions"),
    "Refined over original value": ("ratio_of_means", None),
    "Increase of cross-entropy (nats)": ("cross_entropy_increase", None),
}

Metrics = dict[str, dict[str, float | None]]


def read_metrics() -> dict[str, Metrics]:
    """The metrics of the runs that there are, by their names: ``topk-1024-32``."""
    paths = sorted(RUNS.glob("*/*/eval.json"), key=lambda path: _place(path.parent.name))
    records = {path.parent.name: json.loads(path.read_bytes()) for path in paths}
    return {name: record["metrics"] for name, record in records.items() if len(record.get("parts", {})) > 1}


def _place(name: str) -> tuple[str, int]:
    """Architecture and number of latents, to sort by."""
    architecture, n_latents, _ = name.split("-")
    return architecture, int(n_latents)


def show(found: dict[str, Metrics]) -> None:
    table = Table("", *found, title="Value, and the half width of its 95% interval")
    for label, metric in ROWS.items():
        table.add_row(label, *(cell(metrics.get(metric)) for metrics in found.values()))
    Console(width=160).print(table)


def cell(estimate: dict[str, float | None] | None) -> str:
    if estimate is None or estimate["value"] is None:
        return "–"
    if estimate["low"] is None or estimate["high"] is None:
        return f"{estimate['value']:.3f}"
    return f"{estimate['value']:.3f} ± {(estimate['high'] - estimate['low']) / 2:.3f}"


def draw(found: dict[str, Metrics], path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 4.6), layout="constrained")
        for axes, (title, (metric, baseline)) in zip(figure.subplots(2, 3).flat, PANELS.items(), strict=True):
            for color, architecture in ((BLUE, "topk"), (RED, "relu")):
                draw_curve(axes, found, architecture, metric, color, "-", architecture)
            if baseline is not None:
                draw_curve(axes, found, "topk", baseline, GREY, "--", baseline.rsplit("_", 1)[1])
                axes.legend(frameon=False, fontsize=7)
            axes.set_xscale("log", base=2)
            axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
            axes.minorticks_off()
            axes.set_title(title, fontsize=9, loc="left")
        figure.supxlabel("Latents", fontsize=9)
        figure.axes[0].legend(frameon=False, fontsize=7)
        save_figure(figure, path)


def draw_curve(
    axes: Any, found: dict[str, Metrics], architecture: str, metric: str, color: str, line: str, label: str
) -> None:
    runs = {int(name.split("-")[1]): metrics for name, metrics in found.items() if name.startswith(architecture)}
    known = [(size, runs[size][metric]) for size in sorted(runs) if runs[size].get(metric, {}).get("value") is not None]
    sizes, values = [size for size, _ in known], [estimate["value"] for _, estimate in known]
    bounds = [
        (value - (estimate["low"] or value), (estimate["high"] or value) - value)
        for value, (_, estimate) in zip(values, known, strict=True)
        if value is not None
    ]
    axes.errorbar(
        sizes,
        values,
        yerr=list(zip(*bounds, strict=True)) if bounds else None,
        color=color,
        linestyle=line,
        marker="o",
        markersize=3,
        linewidth=1.2,
        elinewidth=0.8,
        label=label,
    )


def main() -> None:
    found = read_metrics()
    (RESULTS / "metrics.json").write_text(json.dumps(found, indent=1) + "\n")
    for suffix in ("png", "svg"):
        draw(found, RESULTS / f"trends.{suffix}")
    show(found)


if __name__ == "__main__":
    main()
