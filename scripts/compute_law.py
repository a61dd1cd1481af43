"""The bundled subject's law of compute: what it and its smaller siblings, trained the same way, pay for a loss.

    python scripts/compute_law.py measure  # the missing rows of docs/results/compute_law/losses.jsonl
    python scripts/compute_law.py fit      # the builtin model's compute_law.json, and the figure

A loss depends on how much text stands before a token, so there is a law for each of some context lengths. All losses
are over the same held-out text, cut as an evaluation cuts it.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from train_builtin_subject import BUNDLED, SIBLINGS

from monosem.evaluation.bootstrap import Sums, bootstrap
from monosem.evaluation.compute_law import BUILTIN_LAWS, ComputeLaw, fit_compute_law
from monosem.evaluation.downstream import cross_entropy, log_probabilities, with_successor
from monosem.evaluation.figures import BLUE, GREY, STYLE, plain_log_ticks, save_figure
from monosem.files import append_line
from monosem.runlog import read_json_lines
from monosem.runs.inputs import open_held_out, open_text
from monosem.subject import builtin
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig, SubjectModel
from monosem.subject.text import TextConfig

RESULTS = Path("docs/results/compute_law")
LOSSES = RESULTS / "losses.jsonl"
SUBJECTS = Path("subjects")
CONTEXT_LENGTHS = (16, 32, 64, 128, 256, 512)
TOKENS, SAMPLES = 200_000, 1000
BATCH_TOKENS = 4096


def directories() -> dict[str, Path]:
    """The models that are there, the smallest first."""
    found = {
        shape.name: SUBJECTS / shape.name for shape in SIBLINGS if (SUBJECTS / shape.name / "config.json").exists()
    }
    return {**found, BUNDLED.name: builtin.MODEL_DIRECTORY}


def training_flops(directory: Path) -> int:
    return json.loads((directory / "training.json").read_text())["flops"]


def measure(console: Console) -> None:
    rows = read_json_lines(LOSSES) if LOSSES.exists() else []
    for name, directory in directories().items():
        measured = {row["context_length"] for row in rows if row["model"] == name}
        missing = [length for length in CONTEXT_LENGTHS if length not in measured]
        if not missing:
            continue
        subject = load_subject(SubjectConfig(subject=str(directory)))
        held_out = open_text(TextConfig(), subject, None, console).held_out
        for length in missing:
            blocks = open_held_out(SubjectConfig(context_length=length), subject, held_out, TOKENS)
            documents = torch.from_numpy(held_out.document_of(blocks.positions))
            row = {
                "model": name,
                "weights": subject.revision,
                "parameters": subject.model.num_parameters(),
                "flops": training_flops(directory),
                "context_length": length,
                **held_out_loss(subject, blocks.tokens, blocks.kept, documents),
            }
            append_line(LOSSES, json.dumps(row))
            console.print(row, highlight=False, soft_wrap=True)


def held_out_loss(subject: SubjectModel, tokens: Tensor, kept: Tensor, documents: Tensor) -> dict[str, Any]:
    """Mean cross-entropy in nats, with a 95% interval over documents."""
    numbers, of_position = documents.unique(return_inverse=True)
    sums = {name: torch.zeros(len(numbers), dtype=torch.float64) for name in ("losses", "tokens")}
    batch = BATCH_TOKENS // tokens.shape[1]
    for some, counts, its in zip(*(each.split(batch) for each in (tokens, kept, of_position)), strict=True):
        at = with_successor(counts)
        losses = cross_entropy(log_probabilities(subject.logits(some), at), some.roll(-1, dims=1)[at])
        sums["losses"].index_add_(0, its[at], losses.cpu().double())
        sums["tokens"].index_add_(0, its[at], torch.ones(len(losses), dtype=torch.float64))

    def mean(sums: Sums) -> dict[str, Tensor]:
        return {"loss": sums["losses"] / sums["tokens"]}

    found = bootstrap(sums, mean, samples=SAMPLES, generator=torch.Generator().manual_seed(0))["loss"]
    figures = {"loss": found.value, "low": found.low, "high": found.high}
    return {"predictions": int(sums["tokens"].sum()), "documents": len(numbers), **figures}


def fit(console: Console) -> None:
    by_length: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for row in read_json_lines(LOSSES):
        by_length[row["context_length"]].append(row)
    laws = {length: fit_compute_law([(row["flops"], row["loss"]) for row in by_length[length]]) for length in by_length}
    record = {str(length): {"points": [list(point) for point in laws[length].points]} for length in sorted(laws)}
    BUILTIN_LAWS.write_text(json.dumps(record, indent=1) + "\n")
    for length, law in sorted(laws.items()):
        misses = [law.loss(torch.tensor(float(row["flops"]))).item() / row["loss"] - 1 for row in by_length[length]]
        console.print(
            f"{length:4d} tokens: L∞ {law.irreducible:.3f}, C₁ {law.scale:.3g}, b {law.exponent:.4f}; "
            f"misses {', '.join(f'{miss:+.1%}' for miss in misses)}",
            highlight=False,
        )
    for suffix in ("png", "svg"):
        draw(by_length, laws, RESULTS / f"compute_law.{suffix}")


def draw(rows: dict[int, list[dict[str, Any]]], laws: dict[int, ComputeLaw], path: Path) -> None:
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({**STYLE, "axes.grid.axis": "both"}):
        figure = Figure(figsize=(5.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, (length, law) in enumerate(sorted(laws.items())):
            shade = 0.35 + 0.65 * number / max(1, len(laws) - 1)
            compute = np.array([row["flops"] for row in rows[length]], dtype=float)
            loss = np.array([[row["low"], row["loss"], row["high"]] for row in rows[length]])
            line = np.geomspace(compute.min() / 1.5, compute.max() * 1.5, 200)
            axes.plot(line, law.loss(torch.from_numpy(line)).numpy(), color=BLUE, alpha=shade, linewidth=1.2)
            axes.errorbar(
                compute,
                loss[:, 1],
                yerr=np.abs(loss[:, [0, 2]] - loss[:, [1]]).T,
                fmt="o",
                markersize=3,
                color=BLUE,
                alpha=shade,
                ecolor=GREY,
                elinewidth=0.8,
            )
            end = law.loss(torch.tensor(line[-1])).item()
            axes.annotate(f" {length}", (line[-1], end), va="center", color=BLUE, alpha=shade, fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        plain_log_ticks(axes.yaxis, *axes.get_ylim())
        axes.set_xlabel("Training compute (FLOPs)")
        axes.set_ylabel("Held-out cross-entropy (nats)")
        axes.set_title("Tokens of context beside each curve", fontsize=9, loc="left", color=GREY)
        save_figure(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("job", choices=["measure", "fit"])
    job = {"measure": measure, "fit": fit}[parser.parse_args().job]
    with torch.no_grad():
        job(Console(stderr=True))


if __name__ == "__main__":
    main()
