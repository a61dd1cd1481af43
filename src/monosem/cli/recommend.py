"""``monosem recommend``: how large a dictionary, for how many tokens, at which learning rate."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli.parsing import parse
from monosem.cli.show import standard_output
from monosem.laws.law import Estimate
from monosem.scaling.recommend import Recommendation, recommend

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Recommend:
    """Say what to train for an amount of compute, by laws fitted with `monosem fit`.

    monosem recommend --budget 1e14 --k 16
    monosem recommend --budget 1e15 --laws runs/sweep/laws --subject openai-community/gpt2 --k 32
    """

    budget: float
    """FLOPs of training the autoencoder, as if it were dense: 12 · n_latents · d_model a token."""
    laws: Path | None = None
    """Directory of fitted laws; by default those of the builtin subject."""
    subject: str | None = None
    """Make sure that the laws are of this subject model."""
    k: float | None = None
    """Latents a token."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, ask the laws, print."""
    command: Recommend = parse(Recommend, arguments, "recommend")
    found = recommend(command.budget, command.laws, k=command.k, subject=command.subject)
    _show(found)


def _show(found: Recommendation) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    runs = found.runs
    title = f"{runs['subject']} · {runs['hookpoint']} · {runs['architecture']}, k {found.k:g}, {found.budget:.3g} FLOPs"
    table = Table(title=Text(title, style="bold"), box=box.SIMPLE, show_header=False, title_justify="left")
    rows: list[tuple[str, Estimate | None, str]] = [
        ("Latents", found.n_latents, ",.0f"),
        ("Tokens", found.tokens, ".2e"),
        ("Learning rate", found.learning_rate, ".2e"),
        ("Normalised MSE", found.normalized_mse, ".4f"),
        ("Increase of cross-entropy", found.cross_entropy_increase, ".3f"),
        ("Tokens to convergence", found.tokens_to_convergence, ".2e"),
    ]
    for name, estimate, form in rows:
        if estimate is not None:
            interval = f"[{estimate.low:{form}}, {estimate.high:{form}}]"
            table.add_row(name, f"{estimate.value:{form}}", Text(interval, style="dim"))
    console = standard_output()
    console.print(table)
    for note in found.notes:
        console.print(note, highlight=False)
    console.print(train_command(found), highlight=False, soft_wrap=True)


def train_command(found: Recommendation) -> str:
    """The command line that trains what is recommended; of an architecture with a penalty k is its target L0."""
    from monosem.sae.architectures import ARCHITECTURES

    architecture = found.runs["architecture"]
    assert found.n_latents.value is not None and found.tokens.value is not None
    sparsity = "--target-l0" if ARCHITECTURES[architecture].has_penalty else "--k"
    rate = None if found.learning_rate is None else found.learning_rate.value
    flags = {
        "--subject": found.runs["subject"],
        "--hookpoint": found.runs["hookpoint"],
        "--architecture": architecture,
        "--n-latents": str(round(found.n_latents.value)),
        sparsity: f"{found.k:g}",
        "--tokens": str(round(found.tokens.value)),
        "--batch-size": str(found.runs["batch_size"]),
        **({} if rate is None else {"--learning-rate": f"{rate:.3g}"}),
        "--out": "runs/recommended",
    }
    return "monosem train " + " ".join(f"{name} {value}" for name, value in flags.items())
