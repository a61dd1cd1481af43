"""``monosem cache``: store activations on disk."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from monosem.cli.parsing import parse
from monosem.cli.show import print_line, standard_output
from monosem.runs.cache import cache
from monosem.runs.config import CacheConfig

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Cache:
    """Store a subject model's activations, to train from with --activations. Interrupted, the same command goes on.

    monosem cache --subject builtin --tokens 5e6 --out activations/builtin
    """

    cache: CacheConfig
    overwrite: bool = False
    """Replace the cache that --out holds already."""


def main(arguments: list[str], console: "Console") -> None:
    """Parse, cache, print."""
    command: Cache = parse(Cache, arguments, "cache")
    try:
        directories = cache(command.cache, overwrite=command.overwrite, console=console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Finished shards are kept; the same command goes on.") from None
    for directory in directories:
        print_line(f"Activations  {directory}", standard_output())
