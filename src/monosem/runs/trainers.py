"""The trainers of a job's hookpoints: new ones that start from a sample, or as a checkpoint left them."""

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.errors import UserError
from monosem.randomness import derive_generator
from monosem.runs.config import RunConfig
from monosem.runs.directory import CHECKPOINTS, PlannedRun
from monosem.runs.held_out import HeldOutRows, held_out_reader
from monosem.runs.hookpoint_run import HookpointRun
from monosem.runs.inputs import Inputs
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.initialise import initialise
from monosem.sae.site import Provenance, Site, Widths
from monosem.sae.storage import load_autoencoder
from monosem.training.checkpoint import checkpoints, load_checkpoint
from monosem.training.trainer import Trainer, sample_variance

# Tokens that the starting point is estimated from: the geometric median, the variance, the encoder's magnitude.
SAMPLE_TOKENS = 32_768


def new_trainers(planned: Sequence[PlannedRun], inputs: Inputs) -> list[tuple[PlannedRun, Trainer]]:
    """A trainer at its start for each run, all from one sample of the activations.

    Raises:
        UserError: no activation is finite, or the saved autoencoder to start from is missing or of another shape.
    """
    fewest = min(run.config.training.shuffle_batches * run.config.training.batch_size for run in planned)
    rows = inputs.source.rows(0, min(SAMPLE_TOKENS, fewest)).activations
    trainers: list[tuple[PlannedRun, Trainer]] = []
    for run in planned:
        sae = _empty_autoencoder(run, inputs)
        x, y = _initial_sample(sae, run.site, rows)
        _start(sae, x, y, run.config)
        trainers.append((run, Trainer(sae, run.config.training, sample_variance(y))))
    return trainers


def begun_runs(trainers: Iterable[tuple[PlannedRun, Trainer]], inputs: Inputs) -> Iterator[HookpointRun]:
    """Runs at their start."""
    held_out = held_out_reader(inputs)
    return (
        HookpointRun(run.config, run.site, trainer, inputs.extent, held_out=held_out(run)) for run, trainer in trainers
    )


def continued_runs(planned: Sequence[PlannedRun], inputs: Inputs) -> Iterator[HookpointRun]:
    """Runs as the newest checkpoint that all have left them, or where there is none, at their start.

    Raises:
        UserError: as ``new_trainers`` or ``resumed_run`` says.
    """
    checkpoint = newest_common_checkpoint([run.config.out for run in planned])
    if checkpoint is None:
        return begun_runs(new_trainers(planned, inputs), inputs)
    held_out = held_out_reader(inputs)
    return (resumed_run(run, inputs, checkpoint, held_out(run)) for run in planned)


def _empty_autoencoder(run: PlannedRun, inputs: Inputs) -> Autoencoder:
    widths, site = inputs.source.widths, run.site
    target = None if site.target is None else widths[site.target]
    sae = new_autoencoder(run.config.autoencoder, Widths(tuple(widths[name] for name in site.inputs), target))
    sae.provenance = Provenance(
        model=inputs.subject.name,
        revision=inputs.subject.revision,
        hookpoints=site.inputs,
        target=site.target,
        context_length=run.config.subject.context_length,
    )
    return sae.to(inputs.subject.device)


@torch.no_grad()
def _initial_sample(
    sae: Autoencoder, site: Site, rows: Mapping[str, Float[Tensor, "tokens _"]]
) -> tuple[Float[Tensor, "finite d_model"], Float[Tensor, "finite d_target"]]:
    """What the first rows give to encode and to reconstruct, without those that are not finite.

    A transcoder's target is from here on measured in its root mean square length.

    Raises:
        UserError: none is finite.
    """
    device = sae.W_enc.device
    raw, wanted = site.read(rows).to(device), site.wanted(rows).to(device).float()
    finite = raw.isfinite().all(dim=1) & wanted.isfinite().all(dim=1)
    if not bool(finite.any()):
        raise UserError(f"None of the first {len(raw):,} activations at {site} is finite; run the subject in float32.")
    if sae.is_transcoder:
        sae.target_scale.copy_(wanted[finite].square().sum(dim=1).mean().sqrt().clamp_min(1e-30))
    return sae.training_pair(raw[finite], wanted[finite])


def _start(
    sae: Autoencoder, x: Float[Tensor, "tokens d_model"], y: Float[Tensor, "tokens d_target"], config: RunConfig
) -> None:
    """Initialise the weights, or take over those of a saved autoencoder."""
    if config.initialise.init_from is None:
        generator = derive_generator(config.training.seed, "initialise")
        initialise(sae, x, config.initialise, generator, y if sae.is_transcoder else None)
        return
    saved = load_autoencoder(config.initialise.init_from, device=str(sae.W_enc.device))
    theirs = dict(saved.named_parameters())
    for name, parameter in sae.named_parameters():
        found = theirs.get(name)
        if found is None or found.shape != parameter.shape:
            has = "no " + name if found is None else f"{name} of {list(found.shape)}"
            raise UserError(
                f"init_from={config.initialise.init_from} has {has} and this run needs {list(parameter.shape)}; "
                "give it the same --architecture, --n-latents and a hookpoint of the same width."
            )
        with torch.no_grad():
            parameter.copy_(found)


def newest_common_checkpoint(directories: Sequence[Path]) -> str | None:
    """The name of the newest checkpoint that every run has; None: start at the beginning."""
    names = [[path.name for path in checkpoints(directory / CHECKPOINTS)] for directory in directories]
    common = [name for name in names[0] if all(name in others for others in names)]
    return common[-1] if common else None


def resumed_run(run: PlannedRun, inputs: Inputs, checkpoint: str, held_out: HeldOutRows | None = None) -> HookpointRun:
    """A run as a checkpoint left it; later ones, which not all runs of the job have, are removed.

    Raises:
        UserError: the checkpoint is damaged, newer than this version, or does not fit the configuration or the data.
    """
    config, path = run.config, run.config.out / CHECKPOINTS / checkpoint
    saved = load_checkpoint(path)
    for name, before in saved.record["extent"].items():
        if inputs.extent.get(name) != before:
            raise UserError(
                f"The data of {config.out} are not what they were: {before:,} {name} when {path.name} was written, "
                f"{inputs.extent.get(name, 0):,} now; restore them to go on, or start a new run."
            )
    sae = _empty_autoencoder(run, inputs)
    for name, parameter in sae.named_parameters():
        if (shape := saved.states["weights"][name].shape) != parameter.shape:
            raise UserError(
                f"{path} has {name} of {list(shape)} and config.toml asks for {list(parameter.shape)}; "
                "undo the change of the configuration to go on, or start a new run."
            )
    trainer = Trainer(sae, config.training, saved.record["variance"])
    trainer.restore(saved)
    found = checkpoints(path.parent)
    for newer in found[found.index(path) + 1 :]:
        shutil.rmtree(newer)
    return HookpointRun(config, run.site, trainer, inputs.extent, saved, held_out)
