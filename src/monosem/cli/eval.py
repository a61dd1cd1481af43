"""``monosem eval``: evaluate a run's autoencoder on held-out text."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from monosem.cli.parsing import parse
from monosem.cli.show import show_files, standard_output
from monosem.errors import UserError
from monosem.evaluation.suite import SuiteConfig
from monosem.evaluation.tables import evaluation_table, sentences_table
from monosem.runs.directory import read_run
from monosem.runs.evaluate import evaluate

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluate a run's autoencoder on held-out text; print the table and write eval.json into the run.

    monosem eval runs/first --suite full

    monosem eval runs/first --suite full --only words --words.url http://localhost:8000/v1 --words.model NAME
    """

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """The run's directory."""
    suite: Literal["basic", "full"] = "basic"
    """basic: reconstruction, firing and downstream loss; full: probes, explanations, ablations and the rest too."""
    only: str | None = None
    """Of the full suite these parts, such as probes,n2g; results of the others stay as they are."""
    eval_tokens: int | None = None
    """Held-out tokens for the reconstruction; by default as the run's config.toml says."""
    downstream_tokens: int | None = None
    """How many of these for cross-entropy and KL."""
    bootstrap_samples: int | None = None
    """Samples of documents behind each interval."""
    compute_law: Path | None = None
    """JSON with a law of the subject's family, points of training FLOPs and loss or coefficients: tells the compute at
    which the family has the loss with the reconstruction."""
    settings: Annotated[SuiteConfig, tyro.conf.arg(name="")] = field(default_factory=SuiteConfig)


def main(arguments: list[str], console: "Console") -> None:
    """Parse, evaluate, print."""
    command: Eval = parse(Eval, arguments, "eval", prefixes=True)
    if command.suite == "basic" and not command.only and command.settings != SuiteConfig():
        raise UserError("Settings of the full suite's parts would not be used; add --suite full, or leave them out.")
    names = ("eval_tokens", "downstream_tokens", "bootstrap_samples")
    given = {name: getattr(command, name) for name in names if getattr(command, name) is not None}
    evaluation = evaluate(
        command.run,
        evaluation=dataclasses.replace(read_run(command.run).evaluation, **given),
        suite=command.settings if command.suite == "full" or command.only else None,
        only=tuple(command.only.split(",")) if command.only else (),
        compute_law=command.compute_law,
        console=console,
    )
    out = standard_output()
    out.print(evaluation_table(evaluation))
    if (sentences := sentences_table(evaluation)) is not None:
        out.print(sentences)
    show_files(command.run, out)
