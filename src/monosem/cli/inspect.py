"""``monosem inspect``: what an autoencoder sees in a text."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from monosem.cli.parsing import parse
from monosem.cli.show import show_inspection, show_latents
from monosem.errors import UserError
from monosem.runs.inspect import Reader

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """Show a text token by token with its strongest latents, and where each of these fires most in the corpus.

    monosem inspect runs/first "for i in range(10):"
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""
    text: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[TEXT]")] = ""
    """The text to look at."""
    latent: int | None = None
    """Show this latent instead."""
    per_token: int = 3
    """Latents a token."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, read, print."""
    command: Inspect = parse(Inspect, arguments, "inspect")
    if bool(command.text) == (command.latent is not None):
        raise UserError('Give a text or a latent: monosem inspect RUN "some text", or monosem inspect RUN --latent 7.')
    if command.per_token < 1:
        raise UserError(f"per_token={command.per_token} is below 1; show at least one latent a token.")
    reader = Reader(command.run, console=console)
    if command.latent is None:
        show_inspection(reader.inspect(command.text, per_token=command.per_token))
        return
    if not 0 <= command.latent < reader.sae.n_latents:
        raise UserError(
            f"latent={command.latent} is out of range; this autoencoder has 0 … {reader.sae.n_latents - 1}."
        )
    show_latents([reader.view(command.latent)])
