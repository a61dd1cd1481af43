"""What a sweep trains: runs that differ in what its grids list."""

import dataclasses
import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from monosem.errors import UserError
from monosem.runs.config import RunConfig, of_architecture, shared_settings
from monosem.sae.architectures import ARCHITECTURES, require_known, require_used
from monosem.subject.model import SubjectConfig

RUNS = "runs"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Every combination of the values listed; of what is not listed, the value of the sweep's own configuration."""

    subject: tuple[str, ...] = ()
    """Hub ids, local directories or 'builtin'."""
    layer: tuple[int, ...] = ()
    """Blocks, counted from 0, after which the residual stream is read."""
    architecture: tuple[str, ...] = ()
    """Names of architectures."""
    n_latents: tuple[int, ...] = ()
    """Sizes of the dictionary."""
    k: tuple[int, ...] = ()
    """Latents kept a token; of an architecture that has no k, the L0 that its penalty is steered to."""
    tokens: tuple[int, ...] = ()
    """Tokens to train on."""
    learning_rate: tuple[float | Literal["auto"], ...] = ()
    """Adam's learning rates."""
    seed: tuple[int, ...] = ()
    """Seeds."""

    def __post_init__(self) -> None:
        for name, values in self.lists().items():
            if len(set(values)) != len(values):
                raise UserError(f"{name}={list(values)} in a [[grid]] names a value twice; give each once.")
        for name in self.architecture:
            require_known(name)

    def lists(self) -> dict[str, tuple[Any, ...]]:
        """What is listed, by name."""
        return {each.name: values for each in dataclasses.fields(self) if (values := getattr(self, each.name))}

    def points(self) -> Iterator[dict[str, Any]]:
        """The combinations."""
        lists = self.lists()
        return (dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))


@dataclass(frozen=True, kw_only=True)
class SweepConfig(RunConfig):
    """A sweep: every run of its grids. What they don't list is as in any run's config.toml."""

    grid: tuple[Grid, ...] = field(default_factory=lambda: (Grid(),))
    """Grids; a run that several of them name is one run."""
    together: int = 6
    """Autoencoders trained side by side, from one pass of the subject: as many as memory holds."""

    def __post_init__(self) -> None:
        if self.together < 1:
            raise UserError(f"together={self.together} is below 1; train at least one at a time.")
        if not self.grid:
            raise UserError("A sweep needs a [[grid]]; list in it what the runs are to differ in.")
        self._refuse_unused()
        self.runs()  # each validates itself

    def _refuse_unused(self) -> None:
        """Settings that every grid lists have no use elsewhere."""
        places = {
            **dict.fromkeys(("architecture", "n_latents", "k"), self.autoencoder),
            **dict.fromkeys(("tokens", "learning_rate", "seed"), self.training),
            **dict.fromkeys(("subject", "layer"), self.subject),
        }
        for name, place in places.items():
            value = getattr(place, name)
            if value != getattr(type(place)(), name) and all(name in grid.lists() for grid in self.grid):
                raise UserError(f"{name}={value} would not be used, for every [[grid]] lists it; leave it out.")
        if (target := self.training.target_l0) is not None and all("k" in grid.lists() for grid in self.grid):
            raise UserError(f"target_l0={target:g} would not be used, for every [[grid]] lists k; leave it out.")
        require_used(self.autoencoder, sorted({name for grid in self.grid for name in self._architectures(grid)}))

    def _architectures(self, grid: Grid) -> Sequence[str]:
        return grid.architecture or (self.autoencoder.architecture,)

    def runs(self) -> list[RunConfig]:
        """All runs, in the grids' order, each in a directory inside ``out/runs``.

        Raises:
            UserError: two subjects or hookpoints have the same short name.
        """
        found: dict[str, RunConfig] = {}
        for point in (point for grid in self.grid for point in grid.points()):
            run = self._run(point)
            if found.setdefault(run.out.name, run) != run:
                raise UserError(f"Two runs would be called {run.out.name}: {run.subject} and another; use two sweeps.")
        return list(found.values())

    def _run(self, point: dict[str, Any]) -> RunConfig:
        subject = dataclasses.replace(self.subject, **_of(point, "subject", "layer"))
        training = dataclasses.replace(self.training, **_of(point, "tokens", "learning_rate", "seed"))
        autoencoder = self.autoencoder
        if own := _of(point, "architecture", "n_latents", "k"):
            architecture = own.get("architecture", autoencoder.architecture)
            target = training.target_l0 or autoencoder.k
            l0 = own.get("k", target if ARCHITECTURES[architecture].has_penalty else autoencoder.k)
            n_latents = own.get("n_latents", autoencoder.n_latents)
            autoencoder, training = of_architecture(autoencoder, training, architecture, n_latents, round(l0))
        changed: dict[str, Any] = {"subject": subject, "autoencoder": autoencoder, "training": training}
        run = RunConfig(out=self.out, **{**shared_settings(self), **changed})
        return dataclasses.replace(run, out=self.out / RUNS / run_name(run))


def _of(point: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: point[name] for name in names if name in point}


def run_name(run: RunConfig) -> str:
    """What tells a run from the others of a sweep, as the name of its directory."""
    autoencoder, training = run.autoencoder, run.training
    rate = training.learning_rate if isinstance(training.learning_rate, str) else f"{training.learning_rate:g}"
    place = _place(run.subject)
    return "-".join(
        (
            *place,
            autoencoder.architecture,
            f"n{autoencoder.n_latents}",
            f"k{asked_l0(run)}",
            f"t{training.tokens}",
            f"lr{rate}",
            f"s{training.seed}",
        )
    )


def asked_l0(run: RunConfig) -> str:
    """Active latents a token, as configured: k, a target, or by which coefficient."""
    if not ARCHITECTURES[run.autoencoder.architecture].has_penalty:
        return str(run.autoencoder.k)
    if run.training.target_l0 is not None:
        return f"{run.training.target_l0:g}"
    return f"x{run.training.sparsity_coefficient:g}"


def _place(subject: SubjectConfig) -> list[str]:
    """The subject's short name, and where it is read where that was said."""
    parts = [subject.subject.rstrip("/").rpartition("/")[2]]
    if subject.layer is not None:
        parts.append(f"layer{subject.layer}")
    parts += subject.hookpoint
    return [re.sub(r"[^A-Za-z0-9._]+", "_", part) for part in parts]
