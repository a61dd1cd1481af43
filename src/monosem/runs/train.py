"""Training, from a configuration to a run's directory; and going on after an interruption."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from monosem.data.shuffle import Batch, shuffled_batches
from monosem.errors import UserError
from monosem.evaluation.record import Evaluation
from monosem.runlog import ProgressLine, require_packages
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import plan_runs, prepare_directory, read_config, require_no_run, write_configs
from monosem.runs.end_to_end import BlockBatch, block_batches
from monosem.runs.evaluate import evaluate_inputs
from monosem.runs.hookpoint_run import HookpointRun
from monosem.runs.inputs import Inputs, LiveActivations, open_inputs
from monosem.runs.interruption import Interruption
from monosem.runs.trainers import begun_runs, continued_runs, new_trainers
from monosem.training.losses import EndToEndLoss
from monosem.training.trainer import Trainer, TrainingConfig

if TYPE_CHECKING:
    from rich.console import Console


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop by a signal, and did so with a checkpoint."""

    def __init__(self, signal_number: int, how_to_go_on: str) -> None:
        super().__init__(f"after a checkpoint; go on with: {how_to_go_on}")
        self.signal_number = signal_number


class TrainedRun(NamedTuple):
    """A finished run, and what its evaluation found."""

    config: RunConfig
    evaluation: Evaluation

    @property
    def directory(self) -> Path:
        """Where it lies."""
        return self.config.out


def train(config: RunConfig, *, overwrite: bool = False, console: "Console | None" = None) -> list[TrainedRun]:
    """Train an autoencoder for each hookpoint, evaluate it, and write its run's directory.

    Args:
        overwrite: replace the run that ``config.out`` may hold already.
        console: where progress is shown; by default standard error.

    Returns:
        The run in ``config.out``, or with several hookpoints one inside it for each.

    Raises:
        UserError: the configuration or anything it names does not work.
        Interrupted: a signal asked to stop; a checkpoint holds what was done.
    """
    console = console or default_console()
    require_packages(config.log)
    if not overwrite:
        require_no_run(config.out)  # before anything that takes long; and nothing is removed before all is well
    inputs = open_inputs(config, console)
    planned = plan_runs(config, inputs.hookpoints, inputs.caches)
    trainers = new_trainers(planned, inputs)
    prepare_directory(config.out, overwrite=overwrite)
    for run in planned:
        prepare_directory(run.config.out, overwrite=False)
    write_configs(config, planned)
    return _train_and_evaluate(config, inputs, begun_runs(trainers, inputs), console)


def resume(out: Path, *, console: "Console | None" = None) -> list[TrainedRun]:
    """Go on with an interrupted run: on the CPU, bit for bit as if it had never stopped.

    Raises:
        UserError: there is no run, its newest checkpoint is damaged, or what it reads is not what it was.
        Interrupted: a signal asked to stop; a checkpoint holds what was done.
    """
    console = console or default_console()
    config = dataclasses.replace(read_config(out), out=out)  # it may have been moved since
    require_packages(config.log)
    inputs = open_inputs(config, console)
    planned = plan_runs(config, inputs.hookpoints, inputs.caches)
    return _train_and_evaluate(config, inputs, continued_runs(planned, inputs), console)


def _train_and_evaluate(
    config: RunConfig, inputs: Inputs, opening: Iterable[HookpointRun], console: "Console"
) -> list[TrainedRun]:
    runs = train_side_by_side(inputs, opening, console, how_to_go_on=f"monosem train --resume {config.out}")
    return [TrainedRun(run, evaluate_inputs(run, inputs.subject, inputs.text, console)) for run in runs]


def train_side_by_side(
    inputs: Inputs,
    opening: Iterable[HookpointRun],
    console: "Console",
    *,
    how_to_go_on: str,
    whole: Callable[[int], str] | None = None,
) -> list[RunConfig]:
    """Train runs from one stream of batches, and save their autoencoders: each as it would be trained alone.

    Args:
        opening: runs of the same batch size, seed and shuffle, as many steps on; opened one by one, and closed
            whatever happens. One of a smaller budget ends before the others.
        whole: of tokens trained on, words for the live line about the job that these runs are a part of.

    Returns:
        The runs' configurations.

    Raises:
        Interrupted: a signal asked to stop; a checkpoint of every run holds what was done.
        UserError: too many batches in a row were not finite.
    """
    with ExitStack() as stack:
        runs = [stack.enter_context(run) for run in opening]
        _describe(inputs, runs, console)
        _serve_batches(inputs, runs, console, how_to_go_on, whole)
    return [run.config for run in runs]


def _describe(inputs: Inputs, runs: Sequence[HookpointRun], console: "Console") -> None:
    def say(words: str) -> None:
        console.print(words, markup=False, highlight=False, soft_wrap=True)

    sites = dict.fromkeys(str(run.site) for run in runs)
    say(f"Subject: {inputs.subject.name} on {inputs.subject.device}, reading {', '.join(sites)}")
    for described in dict.fromkeys(_describe_trainer(run.trainer) for run in runs):
        say(described)
    if runs[0].trainer.progress.batches:
        say(f"Going on after {runs[0].trainer.tokens:,} tokens")


def _describe_trainer(trainer: Trainer) -> str:
    sae = trainer.sae
    return (
        f"Autoencoder: {sae.config.architecture}, n_latents {sae.n_latents:,}, {_sparsity(trainer)}, "
        f"d_model {sae.d_model}; learning rate {trainer.learning_rate:.2e} "
        f"after {trainer.warmup_tokens:,} tokens of warm-up, dead after {trainer.settings.dead_tokens:,} tokens"
    )


def _sparsity(trainer: Trainer) -> str:
    """What makes the autoencoder sparse."""
    if not trainer.sae.has_penalty:
        return f"k {trainer.sae.config.k}"
    if trainer.config.target_l0 is not None:
        return f"target L0 {trainer.config.target_l0:g}"
    return f"sparsity coefficient {trainer.config.sparsity_coefficient:g}"


def _serve_batches(
    inputs: Inputs,
    runs: Sequence[HookpointRun],
    console: "Console",
    how_to_go_on: str,
    whole: Callable[[int], str] | None,
) -> None:
    """Serve every batch to every run until its budget is spent, and save its autoencoder then; or until a signal."""
    training, first = runs[0].trainer.config, runs[0].trainer.progress.batches
    steps = max(run.trainer.config.steps for run in runs)
    going = _save_ended(runs, first)
    with (
        Interruption() as interruption,
        ProgressLine("Training", steps * training.batch_size, console, done=runs[0].trainer.tokens) as line,
    ):
        batches = _batches(inputs, training, first)
        for index in range(first, steps):
            batch = next(batches)
            bad = [run for run in going if not run.step(batch.activations, _end_to_end(batch, run))]
            tokens = (index + 1) * training.batch_size
            line.update(tokens, [*_news(going), *([] if whole is None else [whole(tokens)])])
            reports = [_report_bad_batch(run, batch, inputs, console) for run in bad]
            given_up = [
                _too_many_bad_batches(run.config, report)
                for run, report in zip(bad, reports, strict=True)
                if run.trainer.progress.bad_in_a_row >= training.max_bad_batches
            ]
            has_ended = any(run.trainer.config.steps == index + 1 for run in going)
            if has_ended or given_up or interruption.received or going[0].checkpoint_due():
                _save_checkpoints(going)
            if given_up:
                raise UserError(given_up[0])
            if interruption.received:
                raise Interrupted(interruption.received, how_to_go_on)
            going = _save_ended(going, index + 1)


def _save_ended(runs: Sequence[HookpointRun], batches: int) -> list[HookpointRun]:
    """Save the autoencoders of runs that so many batches are the end of; the others are returned."""
    for run in runs:
        if run.trainer.config.steps <= batches:
            run.save_autoencoder()
    return [run for run in runs if run.trainer.config.steps > batches]


def _news(runs: Sequence[HookpointRun]) -> list[str]:
    """The last numbers of a run; of several the errors, from the least to the largest."""
    if len(runs) == 1:
        return runs[0].news()
    errors = [error for run in runs if (error := run.last_normalized_mse) is not None]
    return [f"nmse {min(errors):.4f} to {max(errors):.4f}"] if errors else []


def _batches(inputs: Inputs, training: TrainingConfig, first: int) -> Iterator[Batch]:
    """From batch ``first`` on: of rows mixed token by token, or, to train on the subject's loss, of whole blocks."""
    if training.end_to_end != "none" and isinstance(inputs.source, LiveActivations):
        return block_batches(inputs.source, batch_size=training.batch_size, start=first)
    return shuffled_batches(
        inputs.source,
        batch_size=training.batch_size,
        seed=training.seed,
        buffer_batches=training.shuffle_batches,
        start=first,
    )


def _end_to_end(batch: Batch, run: HookpointRun) -> EndToEndLoss | None:
    kind = run.trainer.config.end_to_end
    return batch.loss(run.site, kind) if kind != "none" and isinstance(batch, BlockBatch) else None


def _save_checkpoints(runs: Sequence[HookpointRun]) -> None:
    """One checkpoint for every run, and only then remove old ones, so that all always have one in common."""
    for run in runs:
        run.save_checkpoint()
    for run in runs:
        run.prune_checkpoints()


def _report_bad_batch(run: HookpointRun, batch: Batch, inputs: Inputs, console: "Console") -> str:
    """Say that a batch was skipped, and which."""
    finite = torch.stack([batch.activations[name].isfinite().all(dim=1).cpu() for name in run.site.hookpoints]).all(0)
    where = "its loss is not finite"
    if not bool(finite.all()):
        where = f"a non-finite activation at {inputs.name_of(int(batch.positions[~finite][0]))}"
    step = f"step {batch.index}, {run.site}: {where}"
    words = f"Skipped a batch ({run.trainer.progress.skipped:,} so far): {step}"
    console.print(words, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return step


def _too_many_bad_batches(config: RunConfig, last: str) -> str:
    return (
        f"{config.training.max_bad_batches} batches in a row were not finite, the last at {last}. "
        f"A checkpoint is in {config.out}. "
        "Lower the learning rate, set --clip-norm, run the subject in float32, or raise --max-bad-batches."
    )
