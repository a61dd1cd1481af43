"""``monosem frontier``: train a grid of architectures and sparsities from one stream, and compare them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli.parsing import parse, take_option
from monosem.cli.show import show_comparison
from monosem.config import load_toml
from monosem.runs.config import FrontierConfig
from monosem.runs.frontier import frontier

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Frontier:
    """Train architectures × sparsities × sizes from one stream of activations and compare them; run again to go on.

    monosem frontier --architectures topk relu --l0 16 32 64 --tokens 2e6 --out runs/frontier
    """

    frontier: FrontierConfig
    config: Path | None = None
    """Start from this TOML file; flags given beside it win."""
    overwrite: bool = False
    """Replace the grid's runs that --out holds already."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, train, compare, print."""
    file, rest = take_option(arguments, "--config")
    default = None if file is None else Frontier(frontier=load_toml(FrontierConfig, Path(file)))
    command: Frontier = parse(Frontier, rest, "frontier", default=default)
    found = frontier(command.frontier, overwrite=command.overwrite, console=console)
    show_comparison(found, command.frontier.out)
