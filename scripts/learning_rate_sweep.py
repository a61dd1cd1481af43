"""Fit the rule behind ``--learning-rate auto`` to a recorded sweep on the bundled subject.

    python scripts/learning_rate_sweep.py run    # the missing rows of docs/results/learning_rate.jsonl
    python scripts/learning_rate_sweep.py fit    # the rule that fits it best
    python scripts/learning_rate_sweep.py check  # train with the rule in use, and compare with the sweep's best

The best rate of a setting is that of the least normalised MSE among the rows with at most 1% dead latents, refined by a
parabola over log rate where both neighbours are such rows too. The rule is
rate = c · (n / 4096)^a · (B / 2048)^b · (T / 1M)^g, fitted to these by least squares in logarithms.
"""

import argparse
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from cached_runs import Experiment, run_missing
from rich.console import Console
from rich.table import Table

from monosem.runlog import read_json_lines
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig
from monosem.training.schedules import auto_learning_rate
from monosem.training.trainer import TrainingConfig

RESULTS = Path("docs/results/learning_rate.jsonl")
K = 32
MOST_DEAD = 0.01

# (n_latents, batch_size, tokens): learning rates
GRID: dict[tuple[int, int, int], tuple[float, ...]] = {
    (2048, 2048, 1_000_000): (2e-3, 4e-3, 8e-3, 1.6e-2),
    (8192, 2048, 1_000_000): (1e-3, 2e-3, 2.8e-3, 4e-3, 8e-3),
    (2048, 512, 1_000_000): (1e-3, 2e-3, 4e-3, 8e-3),
    (2048, 8192, 1_000_000): (4e-3, 8e-3, 1.13e-2, 1.6e-2, 3.2e-2),
    (8192, 8192, 1_000_000): (2e-3, 4e-3, 5.6e-3, 8e-3, 1.6e-2),
    (8192, 2048, 5_000_000): (1e-3, 1.4e-3, 2e-3, 4e-3),
    (2048, 2048, 5_000_000): (1e-3, 2e-3, 4e-3, 8e-3),
}


def experiment(n_latents: int, batch_size: int, tokens: int, learning_rate: float) -> Experiment:
    columns = {
        "n_latents": n_latents,
        "k": K,
        "batch_size": batch_size,
        "tokens": tokens,
        "learning_rate": learning_rate,
        "seed": 0,
    }
    training = TrainingConfig(tokens=tokens, batch_size=batch_size, learning_rate=learning_rate)
    return Experiment(columns, AutoencoderConfig(n_latents=n_latents, k=K), InitialiseConfig(), training)


def run(share: str, most_tokens: float) -> None:
    """Run the grid's missing rows of settings with at most so many tokens."""
    settings = {setting: rates for setting, rates in GRID.items() if setting[2] <= most_tokens}
    wanted = [experiment(*setting, rate) for setting, rates in settings.items() for rate in rates]
    run_missing(wanted, RESULTS, Console(stderr=True), share)


def read_rows() -> list[dict[str, Any]]:
    return read_json_lines(RESULTS)


def by_setting(rows: list[dict[str, Any]]) -> dict[tuple[int, int, int], list[tuple[float, dict[str, Any]]]]:
    grouped: dict[tuple[int, int, int], list[tuple[float, dict[str, Any]]]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["learning_rate"]):
        grouped[row["n_latents"], row["batch_size"], row["tokens"]].append((row["learning_rate"], row))
    return grouped


def best_rate(found: list[tuple[float, dict[str, Any]]]) -> float:
    """The rate of the least normalised MSE that few dead latents allow, between the grid's rates if they can tell."""
    alive = [row["dead_share"] <= MOST_DEAD for _, row in found]
    errors = [row["normalized_mse"] for _, row in found]
    best = min((index for index, is_alive in enumerate(alive) if is_alive), key=errors.__getitem__)
    around = slice(best - 1, best + 2)
    if not (0 < best < len(found) - 1 and all(alive[around])):
        return found[best][0]
    x = np.log([rate for rate, _ in found[around]])
    second, first, _ = np.polyfit(x, np.log(errors[around]), 2)
    return math.exp(-first / (2 * second))


def fit() -> None:
    """Print the rule that fits the sweep best, and each setting's own best rate beside what it gives."""
    grouped = by_setting(read_rows())
    features = [(1.0, math.log(n / 4096), math.log(b / 2048), math.log(t / 1e6)) for n, b, t in grouped]
    rates = [math.log(best_rate(found)) for found in grouped.values()]
    solution = np.linalg.lstsq(np.array(features), np.array(rates), rcond=None)[0]
    c, a, b, g = solution
    table = Table("n", "B", "T", "best rate", "rule", "least nmse", "its dead share")
    for setting, feature in sorted(zip(grouped, features, strict=True)):
        found = grouped[setting]
        least = min((row for _, row in found), key=lambda row: row["normalized_mse"])
        fitted = math.exp(float(np.dot(solution, feature)))
        cells = (f"{best_rate(found):.2e}", f"{fitted:.2e}", f"{least['normalized_mse']:.4f}")
        table.add_row(*(f"{count:,}" for count in setting), *cells, f"{least['dead_share']:.2%}")
    console = Console()
    rule = f"rate = {math.exp(c):.3e} · (n / 4096)^{a:.3f} · (B / 2048)^{b:.3f} · (T / 1M)^{g:.3f}"
    console.print(rule, highlight=False)
    console.print(table)


def check(share: str) -> None:
    """Train with ``--learning-rate auto`` at every setting of the sweep's grid and compare."""
    wanted = [experiment(*setting, float(f"{auto_learning_rate(*setting):.4g}")) for setting in GRID]
    rows = run_missing(wanted, RESULTS, Console(stderr=True), share)
    grouped = by_setting(rows)
    table = Table("n", "B", "T", "auto rate", "nmse", "sweep's best", "excess", "dead share")
    for (columns, *_), setting in zip(wanted, GRID, strict=True):
        auto = next((row for rate, row in grouped[setting] if rate == columns["learning_rate"]), None)
        if auto is None:  # another share's
            continue
        least = min(row["normalized_mse"] for _, row in grouped[setting])
        cells = (f"{auto['learning_rate']:.2e}", f"{auto['normalized_mse']:.4f}", f"{least:.4f}")
        excess = auto["normalized_mse"] / least - 1
        table.add_row(*(f"{count:,}" for count in setting), *cells, f"{excess:+.1%}", f"{auto['dead_share']:.2%}")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("job", choices=["run", "fit", "check"])
    parser.add_argument("--share", default="1/1", help="run only every n-th row, as 2/3")
    parser.add_argument("--most-tokens", type=float, default=math.inf, help="leave longer trainings for later")
    options = parser.parse_args()
    if options.job == "run":
        run(options.share, options.most_tokens)
    elif options.job == "fit":
        fit()
    else:
        check(options.share)


if __name__ == "__main__":
    main()
