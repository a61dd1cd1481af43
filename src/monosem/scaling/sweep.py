"""Running a sweep: groups of runs from shared streams, gone on with after an interruption, gathered in one table."""

import shutil
import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from monosem.config import to_toml
from monosem.errors import UserError
from monosem.files import write_atomically
from monosem.runlog import clock, require_packages
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import AUTOENCODER, CHECKPOINTS, CONFIG
from monosem.runs.groups import in_groups, prepare, require_same, train_and_evaluate
from monosem.runs.inputs import Inputs, open_inputs
from monosem.sae.storage import load_autoencoder
from monosem.scaling.budget import dense_equivalent_flops
from monosem.scaling.config import RUNS, SweepConfig
from monosem.scaling.results import Row, gather_rows, require_same_settings, row_of, write_row
from monosem.scaling.shares import Share, stream_of, take_share, total_work

if TYPE_CHECKING:
    from rich.console import Console

HOW_TO_GO_ON = "the same command"


def sweep(config: SweepConfig, share: Share = Share(), *, console: "Console | None" = None) -> list[Row]:  # noqa: B008 (frozen)
    """Train and evaluate what is missing of a share of a sweep; the same call goes on where one stopped.

    Runs of one stream of activations are trained side by side. Each leaves its directory in ``out/runs``, without
    checkpoints, and a row in ``out/results.parquet``. A run whose row is in the table is finished, whether or not its
    directory is still there.

    Args:
        share: which part of the sweep; others may run at the same time, with the same ``out``.

    Returns:
        The rows of the whole sweep that are there.

    Raises:
        UserError: the configuration or anything it names does not work, or ``out`` holds runs of another configuration.
        Interrupted: a signal asked to stop; a checkpoint holds what was done.
    """
    console = console or default_console()
    require_packages(config.log)
    runs = config.runs()
    groups = take_share(runs, share, config.together)
    finished = finished_names(config)
    pending = [left for group in groups if (left := [run for run in group if run.out.name not in finished])]
    missing = [run for group in pending for run in group]
    require_same(missing)
    _make(config)
    whole = Whole(missing)
    opened: tuple[Hashable, Inputs] | None = None
    for number, group in enumerate(pending, start=1):
        if opened is None or opened[0] != stream_of(group[0]):
            opened = stream_of(group[0]), _open(group[0], runs, console)
        prepare(group, overwrite=False)
        names = ", ".join(run.out.name for run in group)
        console.print(f"Group {number} of {len(pending)}: {names}", highlight=False, soft_wrap=True)
        for part in in_groups(group, config.together):
            train_and_evaluate(part, opened[1], console, HOW_TO_GO_ON, whole.of(part))
            _finish(part, opened[1], config.out)
            whole.add(part)
    return gather_rows(config.out)


def finished_names(config: SweepConfig) -> set[str]:
    """The runs that the table or a row in a run's directory tells of.

    Raises:
        UserError: one was finished with other settings.
    """
    rows = gather_rows(config.out)
    require_same_settings(rows, config.runs())
    return {row["name"] for row in rows}


class Whole:
    """How far a sweep is, in words, by the work done since it began or was gone on with."""

    def __init__(self, runs: Sequence[RunConfig]) -> None:
        self._total, self._done, self._started = total_work(runs), 0, time.monotonic()

    def add(self, runs: Sequence[RunConfig]) -> None:
        """These are finished."""
        self._done += total_work(runs)

    def of(self, runs: Sequence[RunConfig]) -> Callable[[int], str]:
        """Words about the whole while these are trained, by how many tokens they have been trained on."""
        return lambda tokens: self.words(total_work(runs, up_to=tokens))

    def words(self, in_training: int) -> str:
        """With so much work done of what is in training."""
        done, elapsed = self._done + in_training, time.monotonic() - self._started
        words = f"sweep {done / self._total:.0%}"
        if done and elapsed > 10:
            words += f", {clock(elapsed * (self._total - done) / done)} left"
        return words


def _make(config: SweepConfig) -> None:
    try:
        (config.out / RUNS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={config.out} cannot be made: {error.strerror}; choose another place.") from error
    write_atomically(config.out / CONFIG, to_toml(config).encode())


def _open(run: RunConfig, runs: Sequence[RunConfig], console: "Console") -> Inputs:
    """What all runs of a run's stream read: as much text as the longest of them needs, whichever are missing."""
    alike = [other for other in runs if stream_of(other) == stream_of(run)]
    inputs = open_inputs(max(alike, key=lambda other: other.training.tokens), console)
    if len(inputs.hookpoints) > 1 and not run.autoencoder.crosscoder:
        raise UserError(f"A run of a sweep has one hookpoint, not {', '.join(inputs.hookpoints)}; give one.")
    return inputs


def _finish(group: Sequence[RunConfig], inputs: Inputs, out: Path) -> None:
    """Leave the runs' rows, and remove their checkpoints, which nothing needs any more."""
    for run in group:
        sae = load_autoencoder(run.out / AUTOENCODER)
        flops = dense_equivalent_flops(sae.config, sae.widths)
        write_row(row_of(run, sae, inputs.subject, flops.per_token), run.out)
        shutil.rmtree(run.out / CHECKPOINTS, ignore_errors=True)
    gather_rows(out)
