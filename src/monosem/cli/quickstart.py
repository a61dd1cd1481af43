"""``monosem quickstart``: the main job on the bundled subject, with nothing to download."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monosem import recipes
from monosem.cli.parsing import parse
from monosem.cli.show import print_line, show_latents, show_trained, standard_output
from monosem.runs.inspect import Reader
from monosem.runs.train import train

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Quickstart:
    """Train an autoencoder of 4,096 latents on the bundled subject model, evaluate it and show a few of its latents."""

    out: Path = Path("runs/quickstart")
    """The run's directory."""
    tokens: int = 2_000_000
    """How many tokens to train on."""
    eval_tokens: int = 200_000
    """How many held-out tokens to evaluate on."""
    overwrite: bool = False
    """Replace the run that --out holds already."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, train, print the table, five latents and the next commands to try."""
    command: Quickstart = parse(Quickstart, arguments, "quickstart")
    config = recipes.quickstart(command.out, command.tokens, command.eval_tokens)
    show_trained(train(config, overwrite=command.overwrite, console=console))
    show_latents(Reader(command.out, console=console).telling_latents(5))
    out = standard_output()
    out.print("[bold]Next[/]")
    for line in next_commands(command.out):
        print_line(f"  {line}", out)


def next_commands(out: Path) -> list[str]:
    """What to try after the quickstart."""
    return [
        f'monosem inspect {out} "for i in range(10):"',
        f"monosem eval {out} --downstream-tokens 2e5",
        "monosem train --k 64 --n-latents 8192 --tokens 5e6 --out runs/wider",
        "monosem train --subject openai-community/gpt2 --text my_text/ --out runs/gpt2",
    ]
