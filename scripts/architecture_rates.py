"""Find each architecture's learning rate, as a multiple of TopK's rule, on the bundled subject.

    python scripts/architecture_rates.py run    # the missing rows of docs/results/frontier/rates.jsonl
    python scripts/architecture_rates.py prolu  # those of docs/results/frontier/prolu.jsonl
    python scripts/architecture_rates.py show   # tables of both, and each architecture's best multiple

In the first all have 4,096 latents and aim at an L0 of 32. What a penalty reaches is a little off, so errors are
compared as if at the target: on every frontier here the normalised MSE falls about like L0^-0.5, so each is multiplied
by (L0 / target)^0.5. That is for small differences: a run whose L0 is off by more than half does not count as one.

What is best at two million tokens can be unstable in longer runs. ProLU was, by its gradient ``ste`` that these rows
are of, so it has others of its own: five million tokens, both gradients, at a sparse and at a dense target.
"""

import argparse
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from cached_runs import Experiment, run_missing
from rich.console import Console
from rich.table import Table

from monosem.runlog import read_json_lines
from monosem.sae.architectures import ARCHITECTURES
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig
from monosem.training.schedules import auto_learning_rate
from monosem.training.trainer import TrainingConfig

RESULTS = Path("docs/results/frontier/rates.jsonl")
PROLU_RESULTS = Path("docs/results/frontier/prolu.jsonl")
N_LATENTS, L0, TOKENS, BATCH_SIZE = 4096, 32, 2_000_000, 2048
PROLU_TOKENS = 5_000_000
PROLU_MULTIPLES = {"ste": (0.5, 0.35, 0.7), "relu": (1.0, 0.5, 2.0)}
MULTIPLES = (1.0, 0.5, 2.0, 0.25, 4.0)
ORDER = ("relu", "prolu", "gated", "jumprelu", "batch_topk", "matryoshka", "topk")


def experiment(architecture: str, multiple: float) -> Experiment:
    columns = {"architecture": architecture, "n_latents": N_LATENTS, "target_l0": L0}
    autoencoder = AutoencoderConfig(architecture=architecture, n_latents=N_LATENTS, k=L0)
    if architecture == "prolu":
        autoencoder = replace(autoencoder, prolu_gradient="ste")
    return at_rate(columns, autoencoder, multiple, TOKENS)


def prolu_experiment(gradient: Literal["ste", "relu"], multiple: float, target_l0: int) -> Experiment:
    columns = {"architecture": "prolu", "prolu_gradient": gradient, "n_latents": N_LATENTS, "target_l0": target_l0}
    autoencoder = AutoencoderConfig(architecture="prolu", n_latents=N_LATENTS, prolu_gradient=gradient)
    return at_rate(columns, autoencoder, multiple, PROLU_TOKENS)


def at_rate(columns: dict[str, Any], autoencoder: AutoencoderConfig, multiple: float, tokens: int) -> Experiment:
    """The experiment of these columns at a multiple of TopK's rule for the learning rate."""
    rate = float(f"{multiple * auto_learning_rate(N_LATENTS, BATCH_SIZE, tokens):.4g}")
    columns |= {"batch_size": BATCH_SIZE, "tokens": tokens, "multiple": multiple, "learning_rate": rate, "seed": 0}
    target = float(columns["target_l0"]) if ARCHITECTURES[autoencoder.architecture].has_penalty else None
    training = TrainingConfig(tokens=tokens, batch_size=BATCH_SIZE, learning_rate=rate, target_l0=target)
    return Experiment(columns, autoencoder, InitialiseConfig(), training)


def at_target(row: dict[str, Any]) -> float:
    """The normalised MSE as if L0 had been reached exactly; infinite where it is far off."""
    share = row["l0"] / row["target_l0"]
    return row["normalized_mse"] * math.sqrt(share) if 0.5 <= share <= 2 else math.inf


def show() -> None:
    by_architecture: dict[str, dict[float, dict[str, Any]]] = defaultdict(dict)
    for row in read_json_lines(RESULTS):
        by_architecture[row["architecture"]][row["multiple"]] = row
    multiples = sorted(MULTIPLES)
    table = Table("", *(f"× {multiple:g}" for multiple in multiples), "best", title="Normalised MSE as if at L0 32")
    for architecture, rows in by_architecture.items():
        cells = [f"{at_target(rows[m]):.4f} (L0 {rows[m]['l0']:.1f})" if m in rows else "" for m in multiples]
        best = min(rows, key=lambda multiple: at_target(rows[multiple]))
        table.add_row(architecture, *cells, f"× {best:g}")
    Console(width=150).print(table)


def show_prolu() -> None:
    rows = read_json_lines(PROLU_RESULTS)
    table = Table("gradient", "rate", "target L0", "L0", "normalised MSE", "as if at the target", "silent latents")
    table.title = "ProLU, five million tokens"
    for row in sorted(rows, key=lambda row: (row["prolu_gradient"], row["target_l0"], row["multiple"])):
        corrected = f"{at_target(row):.4f}"
        figures = (f"{row['l0']:.1f}", f"{row['normalized_mse']:.4f}", corrected, f"{row['dead_share']:.2%}")
        table.add_row(row["prolu_gradient"], f"× {row['multiple']:g}", str(row["target_l0"]), *figures)
    Console(width=150).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("job", choices=["run", "prolu", "show"])
    parser.add_argument("--share", default="1/1", help="run only every n-th row, as 2/3")
    options = parser.parse_args()
    if options.job == "run":
        wanted = [experiment(name, multiple) for multiple in MULTIPLES for name in ORDER]
        run_missing(wanted, RESULTS, Console(stderr=True), options.share)
    elif options.job == "prolu":
        wanted = [
            prolu_experiment(gradient, multiple, target)
            for target in (64, 16)
            for gradient in ("ste", "relu")
            for multiple in PROLU_MULTIPLES[gradient]
        ]
        run_missing(wanted, PROLU_RESULTS, Console(stderr=True), options.share)
    else:
        show()
        show_prolu()


if __name__ == "__main__":
    main()
