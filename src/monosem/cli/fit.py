"""``monosem fit``: the laws that a sweep's results follow, as tables, figures and files."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from monosem.cli.parsing import parse
from monosem.cli.show import standard_output
from monosem.errors import UserError
from monosem.files import write_atomically
from monosem.runlog import ProgressLine
from monosem.scaling.fits import KINDS, fit
from monosem.scaling.law_figures import draw_fits
from monosem.scaling.law_tables import law_latex, law_markdown, law_table
from monosem.scaling.results import Row
from monosem.scaling.selection import FitConfig, read_rows
from monosem.scaling.storage import save_fits

if TYPE_CHECKING:
    from rich.console import Console

ALL = "all"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """Fit laws to the results of sweeps: learning-rate, compute, tokens, latents, joint, subject, downstream, or all.

    monosem fit joint runs/sweep --out runs/sweep/laws

    Writes into --out, for each law, its coefficients (JSON), a figure (PNG, SVG) and a table (Markdown, LaTeX).
    """

    law: tyro.conf.Positional[str]
    """Which law, or 'all' that the results determine."""
    results: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of sweeps, or their tables."""
    out: Path | None = None
    """Where to write; by default laws/ in the first sweep's directory."""
    config: Annotated[FitConfig, tyro.conf.arg(name="")] = field(default_factory=FitConfig)


def main(arguments: list[str], console: "Console") -> None:
    """Parse, fit, write, print."""
    command: Fit = parse(Fit, arguments, "fit")
    if not command.results:
        raise UserError("There are no results to fit; name the directories of one or more sweeps.")
    if command.law not in (ALL, *KINDS):
        raise UserError(f"Unknown law '{command.law}'. Known: {', '.join(KINDS)}, {ALL}.")
    rows = read_rows(command.results, command.config)
    first = command.results[0]
    out = command.out or (first.parent if first.suffix == ".parquet" else first) / "laws"
    out.mkdir(parents=True, exist_ok=True)
    asked = list(KINDS) if command.law == ALL else [command.law]
    refused: dict[str, str] = {}
    with ProgressLine("Fitting", len(asked), console, unit="laws", transient=True) as line:
        for number, what in enumerate(asked):
            line.update(number, [what])
            try:
                _fit(what, rows, command.config, out)
            except UserError as error:
                if command.law != ALL:
                    raise
                refused[what] = str(error)
        line.update(len(asked))
    if len(refused) == len(asked):
        raise UserError(" ".join(dict.fromkeys(refused.values())))
    for what, why in refused.items():
        console.print(f"[yellow]No law of {what}:[/] {why}", highlight=False, soft_wrap=True)
    console.print(f"Laws, figures and tables are in {out}", highlight=False)


def _fit(what: str, rows: list[Row], config: FitConfig, out: Path) -> None:
    fits = fit(what, rows, config)
    save_fits(fits, rows, config, out / f"{what}.json")
    draw_fits(fits, rows, out)
    write_atomically(out / f"{what}.md", law_markdown(fits).encode())
    write_atomically(out / f"{what}.tex", law_latex(fits).encode())
    standard_output().print(law_table(fits))
