"""Training, from a configuration to a run's directory; and going on after an interruption."""

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.data.shuffle import Batch, shuffled_batches
from monosem.errors import UserError
from monosem.evaluation.suite import Evaluation
from monosem.randomness import derive_generator
from monosem.runlog import ProgressLine, require_packages
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import (
    CHECKPOINTS,
    prepare_directory,
    read_config,
    require_no_run,
    run_configs,
    write_configs,
)
from monosem.runs.evaluate import evaluate_inputs
from monosem.runs.hookpoint_run import HookpointRun
from monosem.runs.inputs import Inputs, open_inputs
from monosem.runs.interruption import Interruption
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder, Provenance, TopKAutoencoder
from monosem.sae.initialise import initialise
from monosem.sae.preprocess import preprocess
from monosem.sae.storage import load_autoencoder
from monosem.training.checkpoint import checkpoints, load_checkpoint
from monosem.training.trainer import Trainer, sample_variance

if TYPE_CHECKING:
    from rich.console import Console

# Tokens that the starting point is estimated from: the geometric median, the variance, the encoder's magnitude.
SAMPLE_TOKENS = 32_768


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop by a signal, and did so with a checkpoint."""

    def __init__(self, signal_number: int, out: Path) -> None:
        super().__init__(f"after a checkpoint; go on with: monosem train --resume {out}")
        self.signal_number = signal_number


class TrainedRun(NamedTuple):
    """A finished run: its directory and what its evaluation found."""

    directory: Path
    evaluation: Evaluation


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
    prepare_directory(config.out, overwrite=overwrite)
    runs = list(run_configs(config, inputs.hookpoints).values())
    for run in runs:
        prepare_directory(run.out, overwrite=False)
    write_configs(config, runs)
    return _run(config, inputs, console)


def resume(out: Path, *, console: "Console | None" = None) -> list[TrainedRun]:
    """Go on with an interrupted run: on the CPU, bit for bit as if it had never stopped.

    Raises:
        UserError: there is no run, its newest checkpoint is damaged, or what it reads is not what it was.
        Interrupted: a signal asked to stop; a checkpoint holds what was done.
    """
    console = console or default_console()
    config = dataclasses.replace(read_config(out), out=out)  # it may have been moved since
    require_packages(config.log)
    return _run(config, open_inputs(config, console), console)


def _run(config: RunConfig, inputs: Inputs, console: "Console") -> list[TrainedRun]:
    configs = run_configs(config, inputs.hookpoints)
    with ExitStack() as stack:
        runs = [stack.enter_context(run) for run in _open_runs(configs, inputs)]
        _describe(config, inputs, runs, console)
        _train_all(config, inputs, runs, console)
        for run in runs:
            run.save_autoencoder()
    return [
        TrainedRun(run.config.out, evaluate_inputs(run.config, inputs.subject, inputs.text, console)) for run in runs
    ]


def _open_runs(configs: Mapping[str, RunConfig], inputs: Inputs) -> Iterator[HookpointRun]:
    """Every hookpoint's run, all at the newest checkpoint that all of them have, or all at their start."""
    checkpoint = _newest_common_checkpoint([config.out for config in configs.values()])
    samples = _initial_samples(next(iter(configs.values())), inputs) if checkpoint is None else {}
    for hookpoint, config in configs.items():
        sae = new_autoencoder(config.autoencoder, inputs.source.widths[hookpoint])
        assert isinstance(sae, TopKAutoencoder)
        sae.provenance = Provenance(
            model=inputs.subject.name,
            revision=inputs.subject.revision,
            hookpoint=hookpoint,
            context_length=config.subject.context_length,
        )
        sae.to(inputs.subject.device)
        if checkpoint is None:
            yield _started(config, inputs, hookpoint, sae, samples.pop(hookpoint))
        else:
            yield _resumed(config, inputs, hookpoint, sae, config.out / CHECKPOINTS / checkpoint)


def _initial_samples(config: RunConfig, inputs: Inputs) -> dict[str, Float[Tensor, "tokens _"]]:
    """The first rows of each hookpoint, preprocessed; those that are not finite are left out.

    Raises:
        UserError: none is finite.
    """
    rows = min(SAMPLE_TOKENS, config.training.shuffle_batches * config.training.batch_size)
    samples: dict[str, Tensor] = {}
    for hookpoint, raw in inputs.source.rows(0, rows).activations.items():
        x = preprocess(raw.to(inputs.subject.device), config.autoencoder.preprocess).x
        samples[hookpoint] = x[x.isfinite().all(dim=1)]
        if len(samples[hookpoint]) == 0:
            raise UserError(
                f"None of the first {rows:,} activations at {hookpoint} is finite; run the subject with --dtype float32."
            )
    return samples


def _started(
    config: RunConfig, inputs: Inputs, hookpoint: str, sae: TopKAutoencoder, sample: Float[Tensor, "tokens d_model"]
) -> HookpointRun:
    _start(sae, sample, config)
    trainer = Trainer(sae, config.training, sample_variance(sample))
    return HookpointRun(config, hookpoint, trainer, inputs.extent)


def _resumed(config: RunConfig, inputs: Inputs, hookpoint: str, sae: TopKAutoencoder, path: Path) -> HookpointRun:
    """The run as a checkpoint left it.

    Raises:
        UserError: the checkpoint is damaged, newer than this version, or does not fit the configuration or the data.
    """
    saved = load_checkpoint(path)
    for name, before in saved.record["extent"].items():
        if inputs.extent.get(name) != before:
            raise UserError(
                f"The data of {config.out} are not what they were: {before:,} {name} when {path.name} was written, "
                f"{inputs.extent.get(name, 0):,} now; restore them to go on, or start a new run."
            )
    for name, parameter in sae.named_parameters():
        if (shape := saved.states["weights"][name].shape) != parameter.shape:
            raise UserError(
                f"{path} has {name} of {list(shape)} and config.toml asks for {list(parameter.shape)}; "
                "undo the change of the configuration to go on, or start a new run."
            )
    trainer = Trainer(sae, config.training, saved.record["variance"])
    trainer.restore(saved)
    found = checkpoints(path.parent)
    for newer in found[found.index(path) + 1 :]:  # another hookpoint's run has not got so far
        shutil.rmtree(newer)
    return HookpointRun(config, hookpoint, trainer, inputs.extent, saved)


def _start(sae: Autoencoder, sample: Float[Tensor, "tokens d_model"], config: RunConfig) -> None:
    """Initialise the weights, or take over those of a saved autoencoder."""
    if config.initialise.init_from is None:
        initialise(sae, sample, config.initialise, derive_generator(config.training.seed, "initialise"))
        return
    saved = load_autoencoder(config.initialise.init_from, device=str(sae.W_enc.device))
    for name, parameter in sae.named_parameters():
        theirs = getattr(saved, name)
        if theirs.shape != parameter.shape:
            raise UserError(
                f"init_from={config.initialise.init_from} has {name} of {list(theirs.shape)} and this run needs "
                f"{list(parameter.shape)}; give it the same --n-latents and a hookpoint of the same width."
            )
        with torch.no_grad():
            parameter.copy_(theirs)


def _describe(config: RunConfig, inputs: Inputs, runs: Sequence[HookpointRun], console: "Console") -> None:
    trainer, sae = runs[0].trainer, runs[0].trainer.sae
    console.print(
        f"Subject: {inputs.subject.name} on {inputs.subject.device}, reading {', '.join(inputs.hookpoints)}\n"
        f"Autoencoder: {config.autoencoder.architecture}, n_latents {sae.n_latents:,}, k {sae.config.k}, "
        f"d_model {sae.d_model}; learning rate {trainer.learning_rate:.2e}, "
        f"dead after {trainer.settings.dead_tokens:,} tokens",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    if trainer.progress.batches:
        console.print(f"Going on after {trainer.tokens:,} tokens", highlight=False)


def _train_all(config: RunConfig, inputs: Inputs, runs: Sequence[HookpointRun], console: "Console") -> None:
    """Serve every batch to every run until the budget is spent or a signal comes."""
    training, first = config.training, runs[0].trainer.progress.batches
    total = training.steps * training.batch_size
    with (
        Interruption() as interruption,
        ProgressLine("Training", total, console, done=runs[0].trainer.tokens) as line,
    ):
        batches = shuffled_batches(
            inputs.source,
            batch_size=training.batch_size,
            seed=training.seed,
            buffer_batches=training.shuffle_batches,
            start=first,
        )
        for index in range(first, training.steps):
            batch = next(batches)
            bad = [run for run in runs if not run.step(batch.activations[run.hookpoint])]
            line.update(runs[0].trainer.tokens, runs[0].news())
            reports = [_report_bad_batch(run, batch, inputs, console) for run in bad]
            is_last = index + 1 == training.steps
            too_many = max(run.trainer.progress.bad_in_a_row for run in runs) >= training.max_bad_batches
            if is_last or too_many or interruption.received or runs[0].checkpoint_due():
                _save_checkpoints(runs)
            if too_many:
                raise UserError(_too_many_bad_batches(config, reports[-1]))
            if interruption.received:
                raise Interrupted(interruption.received, config.out)


def _save_checkpoints(runs: Sequence[HookpointRun]) -> None:
    """One checkpoint for every run, and only then remove old ones, so that all always have one in common."""
    for run in runs:
        run.save_checkpoint()
    for run in runs:
        run.prune_checkpoints()


def _report_bad_batch(run: HookpointRun, batch: Batch, inputs: Inputs, console: "Console") -> str:
    """Say that a batch was skipped, and which."""
    finite = batch.activations[run.hookpoint].isfinite().all(dim=1).cpu()
    where = "its loss is not finite"
    if not bool(finite.all()):
        where = f"a non-finite activation at {inputs.name_of(int(batch.positions[~finite][0]))}"
    step = f"step {batch.index}, {run.hookpoint}: {where}"
    words = f"Skipped a batch ({run.trainer.progress.skipped:,} so far): {step}"
    console.print(words, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return step


def _too_many_bad_batches(config: RunConfig, last: str) -> str:
    return (
        f"{config.training.max_bad_batches} batches in a row were not finite, the last at {last}. "
        f"A checkpoint is in {config.out}. "
        "Lower the learning rate, set --clip-norm, run the subject in float32, or raise --max-bad-batches."
    )
