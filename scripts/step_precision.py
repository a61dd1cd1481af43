"""Does the fast step train as well as the plain one? The same five million tokens by each.

    python scripts/step_precision.py    # rows go to docs/results/step_precision.jsonl; prints the table

The eager step is plain float32. The fused one chooses latents by a bfloat16 product, decides in float32, and takes
AuxK's products in bfloat16. Activations of the bundled subject, k = 32, learning rate 'auto'.
"""

import argparse
from pathlib import Path

from cached_runs import Experiment, run_missing
from rich.console import Console
from rich.table import Table

from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig
from monosem.training.trainer import TrainingConfig

RESULTS = Path("docs/results/step_precision.jsonl")
TOKENS, K = 5_000_000, 32
RUNS = ((2048, 0), (8192, 0))
STEPS = {"eager": ("eager", "float32"), "fused": ("fused", "float32"), "fused, bfloat16 moments": ("fused", "bfloat16")}


def experiment(n_latents: int, seed: int, name: str) -> Experiment:
    step, moments = STEPS[name]
    return Experiment(
        {"n_latents": n_latents, "k": K, "tokens": TOKENS, "seed": seed, "step": name},
        AutoencoderConfig(n_latents=n_latents, k=K),
        InitialiseConfig(),
        TrainingConfig(tokens=TOKENS, step=step, moments=moments, seed=seed),  # type: ignore[arg-type]
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    experiments = [experiment(*run, name) for run in RUNS for name in STEPS]
    rows = run_missing(experiments, RESULTS, Console(stderr=True))
    table = Table("n", "seed", "step", "normalised MSE", "against eager", "dead share")
    eager = {(row["n_latents"], row["seed"]): row["normalized_mse"] for row in rows if row["step"] == "eager"}
    for row in sorted(rows, key=lambda row: (row["n_latents"], row["seed"])):
        excess = row["normalized_mse"] / eager[row["n_latents"], row["seed"]] - 1
        figures = (f"{row['normalized_mse']:.5f}", f"{excess:+.2%}", f"{row['dead_share']:.2%}")
        table.add_row(f"{row['n_latents']:,}", str(row["seed"]), row["step"], *figures)
    Console().print(table)


if __name__ == "__main__":
    main()
