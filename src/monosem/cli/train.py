"""``monosem train``: train an autoencoder, or go on with an interrupted run."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli.parsing import parse, take_option
from monosem.cli.show import show_trained
from monosem.config import load_toml
from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.runs.train import resume, train

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a sparse autoencoder on a language model's activations, evaluate it and save it.

    monosem train --subject builtin --n-latents 4096 --k 32 --tokens 2e6 --out runs/first
    """

    run: RunConfig
    config: Path | None = None
    """Start from this config.toml; flags given beside it win."""
    resume: Path | None = None
    """Go on with the interrupted run in this directory; takes no other flag."""
    overwrite: bool = False
    """Replace the run that --out holds already."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, train, print."""
    directory, rest = take_option(arguments, "--resume")
    if directory is not None:
        if rest:
            raise UserError(
                f"--resume takes no other flag (found {' '.join(rest)}): its settings stand in {directory}/config.toml."
            )
        show_trained(resume(Path(directory), console=console))
        return
    file, rest = take_option(arguments, "--config")
    default = None if file is None else Train(run=load_toml(RunConfig, Path(file)))
    command: Train = parse(Train, rest, "train", default=default)
    show_trained(train(command.run, overwrite=command.overwrite, console=console))
