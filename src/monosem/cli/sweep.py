"""``monosem sweep``: train every run of a file's grids, on one machine or many, into one table."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.cli.parsing import parse
from monosem.cli.show import standard_output
from monosem.config import load_toml, require_positive
from monosem.scaling.config import SweepConfig
from monosem.scaling.processes import sweep_in_processes
from monosem.scaling.results import TABLE, Row
from monosem.scaling.shares import read_share
from monosem.scaling.sweep import sweep

if TYPE_CHECKING:
    from rich.console import Console

# Rows that fit a terminal.
_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train and evaluate every run of a sweep's grids; run again to go on.

    The file is a run's config.toml with grids of what the runs differ in: [[grid]] with lists of subject, layer,
    architecture, n_latents, k, tokens, learning_rate and seed. The results are one table, out/results.parquet.
    """

    config: Path
    """The sweep's TOML file."""
    part: str = "1/1"
    """Train only this part, as 2/4: the other parts may run elsewhere at the same time, with the same out."""
    processes: int = 1
    """Split the work among so many processes, each with a GPU or some cores of its own."""

    def __post_init__(self) -> None:
        require_positive(self, "processes")


def main(arguments: list[str], console: "Console") -> None:
    """Parse, train, print."""
    command: Sweep = parse(Sweep, arguments, "sweep")
    config, share = load_toml(SweepConfig, command.config), read_share(command.part)
    if command.processes > 1:
        rows = sweep_in_processes(command.config, config, share, command.processes, console=console)
    else:
        rows = sweep(config, share, console=console)
    _show(rows, config.out)


def _show(rows: list[Row], out: Path) -> None:
    """The table of the rows by normalised MSE, the best first, as many as fit."""
    from rich.table import Table

    console = standard_output()
    columns = ("architecture", "n_latents", "k", "tokens", "learning_rate", "seed", "normalized_mse", "l0")
    table = Table(*("nmse" if name == "normalized_mse" else name for name in columns))
    for row in sorted(rows, key=lambda row: row["normalized_mse"])[:_SHOWN]:
        table.add_row(*(_told(row[name]) for name in columns))
    console.print(table)
    left_out = f"; the {_SHOWN} best are shown" if len(rows) > _SHOWN else ""
    console.print(f"{len(rows)} runs in {out / TABLE}{left_out}", highlight=False)


def _told(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
