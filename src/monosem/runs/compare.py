"""Comparing runs that were evaluated alike: a table, a figure, and comparison.json."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from monosem.config import to_flat_dict
from monosem.errors import UserError
from monosem.evaluation import comparison
from monosem.evaluation.comparison import Comparison, Run
from monosem.evaluation.document_sums import DocumentSums, load_document_sums
from monosem.evaluation.figures import comparison_figure
from monosem.evaluation.record import load_evaluation
from monosem.files import write_atomically
from monosem.runs.config import RunConfig
from monosem.runs.console import default_console
from monosem.runs.directory import CONFIG, DOCUMENT_SUMS, EVALUATION, hookpoint_directories, read_run
from monosem.sae.architectures import ARCHITECTURES

if TYPE_CHECKING:
    from rich.console import Console

COMPARISON = "comparison.json"
FIGURES = ("comparison.png", "comparison.svg")

# What stands in eval.json and must be the same for all.
_ALIKE = ("subject", "hookpoint", "context_length", "tokens", "documents", "downstream_tokens")
# Settings by which runs of one curve may differ.
_OF_SPARSITY = ("out", "activations", "autoencoder.k", "training.target_l0", "training.sparsity_coefficient")
_NOT_OF_THE_RESULT = (
    "log.",
    "evaluation.",
    "subject.subject_batch",
    "training.checkpoint",
    "training.keep_checkpoints",
)


def compare(
    runs: Sequence[Path],
    out: Path,
    *,
    l0: Sequence[float] = (),
    reference: str | None = None,
    samples: int = 1000,
    seed: int = 0,
    console: "Console | None" = None,
) -> Comparison:
    """Compare evaluated runs, and write comparison.json and the figure, as PNG and SVG, into a directory.

    Args:
        runs: directories of runs; one that holds several runs stands for all of them.
        l0: where to interpolate; by default the powers of two that two curves reach.
        reference: the curve that the others are divided by; by default topk's, if there is one.
        samples: samples of documents behind each interval.
        console: where is said which of the runs in a directory are left out, not being evaluated; by default standard
            error.

    Raises:
        UserError: a run is missing, not evaluated, or was evaluated on something else than the others.
    """
    for place in l0:
        if not place > 0:
            raise UserError(f"l0={place:g} is not positive; give positive numbers.")
    if samples < 1:
        raise UserError(f"bootstrap_samples={samples} is below 1; give a positive number.")
    directories = list(dict.fromkeys(found for run in runs for found in expand_runs(run)))
    _tell_left_out(runs, directories, console or default_console())
    if not directories:
        raise UserError("No run to compare; name directories that `monosem train` or `monosem frontier` wrote.")
    configs = {directory: read_run(directory) for directory in directories}
    records = {directory: load_evaluation(directory / EVALUATION).record for directory in directories}
    sums = {directory: load_document_sums(directory / DOCUMENT_SUMS) for directory in directories}
    first = directories[0]
    for directory in directories[1:]:
        _require_alike(first, directory, records, sums)
    names = curve_names(configs)
    reference = _reference(reference, list(names.values()))
    _make(out)
    found = comparison.compare(
        records[first]["subject"],
        records[first]["hookpoint"],
        [
            Run(
                name=str(directory),
                curve=names[directory],
                settings=_told(configs[directory]),
                dead_share=records[directory]["metrics"]["dead_share"]["value"],
                measured=comparison.measure(sums[directory], samples=samples, seed=seed),
            )
            for directory in directories
        ],
        l0,
        reference,
    )
    write_atomically(out / COMPARISON, (json.dumps(found.to_dict(), indent=1) + "\n").encode())
    for name in FIGURES:
        comparison_figure(found, out / name)
    return found


def expand_runs(directory: Path) -> list[Path]:
    """The single runs that a directory is or holds.

    Raises:
        UserError: there is none.
    """
    if inside := hookpoint_directories(directory):
        return inside
    if (directory / EVALUATION).exists():
        return [directory]
    inside = sorted(path.parent for path in directory.glob(f"*/{EVALUATION}"))
    if inside:
        return inside
    if (directory / CONFIG).exists():
        raise UserError(f"{directory} has not been evaluated; run: monosem eval {directory}")
    raise UserError(f"{directory} holds no run; name a directory that `monosem train` or `monosem frontier` wrote.")


def _tell_left_out(runs: Sequence[Path], taken: Sequence[Path], console: "Console") -> None:
    found = {path.parent for run in runs for path in run.glob(f"*/{CONFIG}")}
    if left_out := sorted(found - set(taken)):
        names = ", ".join(map(str, left_out))
        words = f"Left out, not being evaluated yet: {names}"
        console.print(words, style="yellow", markup=False, highlight=False, soft_wrap=True)


def _make(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made: {error.strerror}; choose another place.") from error


def _require_alike(
    one: Path, other: Path, records: Mapping[Path, Mapping[str, Any]], sums: Mapping[Path, DocumentSums]
) -> None:
    """Two runs' numbers can be set side by side only if they are of the same activations and the same tokens.

    Raises:
        UserError: they are not; says in what they differ.
    """
    for name in _ALIKE:
        mine, theirs = records[one][name], records[other][name]
        if mine != theirs:
            raise UserError(
                f"{other} was evaluated with {name} = {theirs!r} and {one} with {mine!r}; evaluate them alike "
                "(monosem eval --eval-tokens, --downstream-tokens), or compare runs of one subject and hookpoint."
            )
    for part, name in (("activations", "squared_norm"), ("next_tokens", "cross_entropy")):
        mine, theirs = (getattr(sums[directory], part).get(name) for directory in (one, other))
        if not _nearly_equal(mine, theirs):
            raise UserError(
                f"{other} and {one} were evaluated on other {part.replace('_', ' ')}: another text, another revision "
                "of the subject, or another preprocess; evaluate them again, or compare runs that share these."
            )


def _nearly_equal(mine: Tensor | None, theirs: Tensor | None) -> bool:
    return (
        mine is not None
        and theirs is not None
        and mine.shape == theirs.shape
        and torch.allclose(mine, theirs, rtol=1e-4, atol=0)
    )


def curve_names(configs: Mapping[Path, RunConfig]) -> dict[Path, str]:
    """The name of each run's curve: its architecture, and those settings by which curves of this architecture differ.

    Runs that differ in sparsity alone share a curve.
    """
    settings = {run: _settings(config) for run, config in configs.items()}
    by_architecture: dict[str, list[Path]] = defaultdict(list)
    for run, config in configs.items():
        by_architecture[config.autoencoder.architecture].append(run)
    names: dict[Path, str] = {}
    for architecture, runs in by_architecture.items():
        keys = sorted({key for run in runs for key in settings[run]})
        telling = [key for key in keys if len({str(settings[run].get(key)) for run in runs}) > 1]
        for run in runs:
            told = (f"{key.rpartition('.')[2]} {settings[run].get(key, 'default')}" for key in telling)
            names[run] = ", ".join((architecture, *told))
    return names


def _settings(config: RunConfig) -> dict[str, Any]:
    """What may change a run's curve, flat: ``autoencoder.n_latents`` and the like."""
    return {
        key: value
        for key, value in to_flat_dict(config).items()
        if key not in _OF_SPARSITY and not key.startswith(_NOT_OF_THE_RESULT)
    }


def _told(config: RunConfig) -> dict[str, Any]:
    multiple = ARCHITECTURES[config.autoencoder.architecture].rate_multiple
    return {
        "architecture": config.autoencoder.architecture,
        "n_latents": config.autoencoder.n_latents,
        "tokens": config.training.tokens,
        "learning_rate": config.training.resolved_learning_rate(config.autoencoder.n_latents, multiple),
        "seed": config.training.seed,
    }


def _reference(asked: str | None, curves: Sequence[str]) -> str:
    if asked is not None:
        if asked not in curves:
            raise UserError(
                f"reference='{asked}' is no curve of these runs; they are: {', '.join(sorted(set(curves)))}."
            )
        return asked
    topk = [curve for curve in curves if curve.startswith("topk")]
    return (topk or list(curves))[0]
