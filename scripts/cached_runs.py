"""Many small trainings on one cache of the bundled subject's activations: what the recorded experiments share."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from monosem.data.index import INDEX, open_shards
from monosem.data.shuffle import shuffled_batches
from monosem.data.sources import CachedActivations, Rows
from monosem.files import append_line
from monosem.randomness import derive_generator
from monosem.runlog import read_json_lines
from monosem.runs.cache import cache
from monosem.runs.config import CacheConfig
from monosem.runs.inputs import open_held_out, open_text
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.subject.loading import load_subject
from monosem.subject.model import SubjectConfig
from monosem.training.trainer import Trainer, TrainingConfig, sample_variance

HELD_OUT_TOKENS = 200_000
LARGEST_BUFFER = 8 * 8192
CACHE = Path("build/activations")


class InMemory:
    """The first rows of a cache, read once: the trainings below read each row many times over."""

    def __init__(self, source: CachedActivations, tokens: int) -> None:
        self._all = source.rows(0, tokens + LARGEST_BUFFER)  # a run's last buffer may reach beyond its last token
        self.widths = source.widths

    @property
    def reads_ahead(self) -> bool:
        """No: they are here."""
        return False

    def rows(self, start: int, stop: int) -> Rows:
        activations = {name: tensor[start:stop] for name, tensor in self._all.activations.items()}
        return Rows(activations, self._all.positions[start:stop])


class Activations(NamedTuple):
    """Training activations and preprocessed held-out ones, at the bundled subject's default hookpoint."""

    training: InMemory
    hookpoint: str
    held_out: Tensor


def open_activations(tokens: int, console: Console) -> Activations:
    """Cache what is missing and read it all."""
    subject = load_subject(SubjectConfig())
    place = CACHE / str(subject.revision)
    stored = open_shards(place).rows_stored if (place / INDEX).exists() else 0
    config = CacheConfig(out=str(place), tokens=max(tokens, stored))
    directories = cache(config, console=console)
    source = CachedActivations(directories, seed=0)
    (hookpoint,) = source.widths
    text = open_text(config.text, subject, None, console)
    blocks = open_held_out(config.subject, subject, text.held_out, HELD_OUT_TOKENS)
    raw = subject.capture(blocks.tokens, [hookpoint])[hookpoint][blocks.kept]
    return Activations(InMemory(source, tokens), hookpoint, raw)


def train_once(
    activations: Activations, autoencoder: AutoencoderConfig, start: InitialiseConfig, training: TrainingConfig
) -> dict[str, Any]:
    """Train one autoencoder; its held-out normalised MSE, L0 and share of silent latents, with the averaged weights."""
    began = time.monotonic()
    width = activations.training.widths[activations.hookpoint]
    sae = new_autoencoder(autoencoder, width)
    sample = activations.training.rows(0, 32_768).activations[activations.hookpoint]
    x = sae.preprocess(sample).x
    initialise(sae, x, start, derive_generator(training.seed, "initialise"))
    trainer = Trainer(sae, training, sample_variance(x))
    batches = shuffled_batches(activations.training, batch_size=training.batch_size, seed=training.seed)
    for _ in range(training.steps):
        trainer.step(next(batches).activations[activations.hookpoint])
    trainer.take_averaged_weights()
    return {**held_out_figures(sae, activations.held_out), "seconds": round(time.monotonic() - began, 1)}


def held_out_figures(sae: Autoencoder, raw: Tensor) -> dict[str, float]:
    """Normalised MSE, L0 and the share of latents silent on all of the held-out activations."""
    x = sae.preprocess(raw).x
    spread = float((x - x.mean(dim=0)).double().square().sum())
    error, active, fired = 0.0, 0, torch.zeros(sae.n_latents, dtype=torch.bool)
    with torch.no_grad():
        for piece in x.split(4096):
            kept = sae.keep(sae.pre_activations(piece))
            error += float((piece - sae.reconstruct(kept)).double().square().sum())
            is_active = kept.values > 0
            active += int(is_active.sum())
            fired[kept.indices[is_active]] = True
    dead = 1 - float(fired.float().mean())
    return {"normalized_mse": round(error / spread, 6), "l0": round(active / len(x), 3), "dead_share": round(dead, 5)}


class Experiment(NamedTuple):
    """One training, and the columns that name it."""

    columns: dict[str, Any]
    autoencoder: AutoencoderConfig
    start: InitialiseConfig
    training: TrainingConfig


def run_missing(
    experiments: Iterable[Experiment], results: Path, console: Console, share: str = "1/1"
) -> list[dict[str, Any]]:
    """Run every experiment whose row is not in the file yet; each row is written as soon as it is known.

    Args:
        share: ``2/3`` runs every third of what is missing, from the second: for several processes side by side.
    """
    wanted = list(experiments)
    rows = read_json_lines(results) if results.exists() else []
    done = [{name: row[name] for name in wanted[0].columns} for row in rows]
    first, every = map(int, share.split("/"))
    missing = [experiment for experiment in wanted if experiment.columns not in done][first - 1 :: every]
    if not missing:
        return rows
    activations = open_activations(max(experiment.training.tokens for experiment in missing), console)
    for number, experiment in enumerate(missing, start=1):
        found = train_once(activations, experiment.autoencoder, experiment.start, experiment.training)
        row = {**experiment.columns, **found, "torch": torch.__version__, "device": "cpu"}
        rows.append(row)
        append_line(results, json.dumps(row))
        console.print(f"{number}/{len(missing)}  {row}", highlight=False, soft_wrap=True)
    return rows
