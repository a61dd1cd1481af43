"""Runs of one stream of activations, a group at a time: prepared, trained side by side, evaluated; and gone on with."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from monosem.errors import UserError
from monosem.runs.config import RunConfig
from monosem.runs.directory import (
    AUTOENCODER,
    CHECKPOINTS,
    CONFIG,
    PlannedRun,
    prepare_directory,
    read_config,
    write_config,
)
from monosem.runs.evaluate import evaluate_inputs
from monosem.runs.inputs import Inputs
from monosem.runs.train import train_side_by_side
from monosem.runs.trainers import continued_runs
from monosem.sae.site import Site

if TYPE_CHECKING:
    from rich.console import Console


def require_same(runs: Sequence[RunConfig]) -> None:
    """What lies in the runs' directories must be of these runs; the directories may have been moved.

    Raises:
        UserError: one holds a run of another configuration.
    """
    for run in runs:
        if (run.out / CONFIG).exists() and dataclasses.replace(read_config(run.out), out=run.out) != run:
            raise UserError(
                f"{run.out} holds a run of another configuration; choose another --out, or replace it by --overwrite."
            )


def prepare(runs: Sequence[RunConfig], *, overwrite: bool) -> None:
    """Make the runs' directories where an earlier call did not, or all anew."""
    for run in runs:
        if overwrite or not (run.out / CONFIG).exists():
            prepare_directory(run.out, overwrite=overwrite)
            write_config(run)


def in_groups(runs: Sequence[RunConfig], together: int) -> list[list[RunConfig]]:
    """Runs to train side by side; those with checkpoints go on first, and among themselves."""
    begun = [run for run in runs if (run.out / CHECKPOINTS).exists()]
    new = [run for run in runs if run not in begun]
    return [part[start : start + together] for part in (begun, new) for start in range(0, len(part), together)]


def train_and_evaluate(
    group: Sequence[RunConfig],
    inputs: Inputs,
    console: "Console",
    how_to_go_on: str,
    whole: Callable[[int], str] | None = None,
) -> None:
    """Train those without an autoencoder side by side, then evaluate all; ``whole`` as for ``train_side_by_side``."""
    site = Site(tuple(inputs.hookpoints), group[0].subject.target)
    untrained = [PlannedRun(site, run) for run in group if not (run.out / AUTOENCODER).exists()]
    if untrained:
        opening = continued_runs(untrained, inputs)
        train_side_by_side(inputs, opening, console, how_to_go_on=how_to_go_on, whole=whole)
    for run in group:
        evaluate_inputs(run, inputs.subject, inputs.text, console)
