"""A run's directory: ``config.toml``, ``metrics.jsonl``, ``checkpoints/``, ``sae/``, ``eval.json``, ``figures/``.

A job with several hookpoints has a directory with its ``config.toml`` and ``hookpoints.json``, which names the
directories inside it: a whole run's for each hookpoint.
"""

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from monosem.config import load_toml, to_toml
from monosem.errors import UserError
from monosem.files import write_atomically
from monosem.runs.config import RunConfig
from monosem.sae.site import Site

CONFIG = "config.toml"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
AUTOENCODER = "sae"
EVALUATION = "eval.json"
EXAMPLES = "examples.safetensors"
DOCUMENT_SUMS = "document_sums.safetensors"
FIGURES = "figures"
RESULTS = "evaluation"
REPORT = "report.html"
HOOKPOINTS = "hookpoints.json"

_OWN = (
    CONFIG,
    METRICS,
    CHECKPOINTS,
    AUTOENCODER,
    EVALUATION,
    EXAMPLES,
    DOCUMENT_SUMS,
    FIGURES,
    RESULTS,
    REPORT,
    HOOKPOINTS,
    "viewer.sqlite",
    "viewer.unfinished",
    "tensorboard",
    "wandb",
    "wandb_id.txt",
)


def require_no_run(out: Path) -> None:
    """Refuse a place that is taken.

    Raises:
        UserError: it holds a run already, or is a file.
    """
    if out.is_file():
        raise UserError(f"out={out} is a file; name a directory.")
    if any((out / name).exists() for name in _OWN):
        raise UserError(
            f"{out} already holds a run; go on with it by --resume {out}, replace it by --overwrite, "
            "or choose another --out."
        )


def prepare_directory(out: Path, *, overwrite: bool) -> None:
    """Make the directory; with ``overwrite``, first remove the run it holds (and nothing else).

    Raises:
        UserError: it holds a run already, or cannot be made.
    """
    try:
        if overwrite and out.is_dir():
            _remove_run(out)
        require_no_run(out)
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"out={out} cannot be made: {error.strerror}; choose another place.") from error


def _remove_run(directory: Path) -> None:
    for inside in hookpoint_directories(directory):
        if inside.is_dir():
            _remove_run(inside)
            if not any(inside.iterdir()):
                inside.rmdir()
    for name in _OWN:
        path = directory / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def hookpoint_directories(out: Path) -> list[Path]:
    """The runs inside the directory of a job with several hookpoints; none in that of a single run."""
    try:
        names = json.loads((out / HOOKPOINTS).read_bytes())
    except (OSError, ValueError):
        return []
    return [out / name for name in names if Path(name).name == name != ".."]


class PlannedRun(NamedTuple):
    """A single run of a job: at which place in the subject, and with a configuration of its own."""

    site: Site
    config: RunConfig


def plan_runs(config: RunConfig, hookpoints: Sequence[str], caches: Mapping[str, str]) -> list[PlannedRun]:
    """The runs of a job: of one hookpoint, or a crosscoder's, the configuration as it is; of several one for each.

    Args:
        hookpoints: those to read.
        caches: directories of cached activations by hookpoint, where these are trained from.
    """
    target = config.subject.target
    if len(hookpoints) == 1 or config.autoencoder.crosscoder:
        return [PlannedRun(Site(tuple(hookpoints), target), config)]
    planned: list[PlannedRun] = []
    for hookpoint in hookpoints:
        site = Site((hookpoint,), target)
        out = config.out / hookpoint.replace(":", "-")
        if caches:
            own = dataclasses.replace(config, out=out, activations=tuple(caches[name] for name in site.hookpoints))
        else:
            subject = dataclasses.replace(config.subject, hookpoint=(hookpoint,))
            own = dataclasses.replace(config, out=out, subject=subject)
        planned.append(PlannedRun(site, own))
    return planned


def write_configs(config: RunConfig, planned: Sequence[PlannedRun]) -> None:
    """Write the job's configuration, and those of its runs where there are several."""
    runs = [run.config for run in planned]
    if len(runs) > 1:
        names = [run.out.name for run in runs]
        write_atomically(config.out / HOOKPOINTS, (json.dumps(names, indent=1) + "\n").encode())
    for each in dict.fromkeys((config, *runs)):
        write_config(each)


def write_config(config: RunConfig) -> None:
    """Write a run's configuration into its directory."""
    write_atomically(config.out / CONFIG, to_toml(config).encode())


def read_config(run: Path) -> RunConfig:
    """The configuration of the run in a directory.

    Raises:
        UserError: there is none, or it is not as it should be.
    """
    if not (run / CONFIG).exists():
        raise UserError(f"{run} holds no run ({CONFIG} is missing); name a directory that `monosem train` wrote.")
    return load_toml(RunConfig, run / CONFIG)


def read_run(run: Path) -> RunConfig:
    """The configuration of a single run, whose autoencoder lies in the directory or will.

    Raises:
        UserError: there is none, or the directory holds the runs of several hookpoints.
    """
    config = read_config(run)
    if inside := hookpoint_directories(run):
        raise UserError(f"{run} holds the runs of several hookpoints; name one of: {', '.join(map(str, inside))}.")
    return config
