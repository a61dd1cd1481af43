"""The complete configuration of a run: every part's own, side by side."""

import dataclasses
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monosem.errors import UserError
from monosem.evaluation.basics import EvaluationConfig
from monosem.runlog import LogConfig
from monosem.sae.architectures import ARCHITECTURES, own_settings, require_architecture, require_known, require_used
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig
from monosem.subject.model import SubjectConfig
from monosem.subject.text import TextConfig
from monosem.training.trainer import TrainingConfig, require_fitting

# Short budgets still see a fair part of a long text: about twenty seconds of tokenising, once.
LEAST_TEXT_TOKENS = 20_000_000


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run. Written to ``config.toml``, from which it can be run again."""

    out: Path
    """The run's directory, made by the run."""
    activations: tuple[str, ...] = ()
    """Train from these directories of cached activations instead of running the subject model along."""
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    text: TextConfig = field(default_factory=TextConfig)
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    initialise: InitialiseConfig = field(default_factory=InitialiseConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        require_architecture(self.autoencoder)
        name = self.autoencoder.architecture
        require_fitting(name, ARCHITECTURES[name].has_penalty, self.training)
        if (target := self.training.target_l0) is not None and target > self.autoencoder.n_latents:
            raise UserError(f"target_l0={target:g} exceeds n_latents={self.autoencoder.n_latents}; lower target_l0.")
        if self.autoencoder.skip and self.subject.target is None:
            raise UserError("skip=True is for transcoders and there is no target; give --target, or leave it out.")
        if self.activations and self.training.end_to_end != "none":
            raise UserError(
                f"end_to_end={self.training.end_to_end} needs the subject to read on from the reconstruction; "
                f"leave activations={list(self.activations)} out."
            )
        if self.activations and (self.subject.layer is not None or self.subject.hookpoint):
            raise UserError(
                f"activations={list(self.activations)} name their own hookpoint; leave layer and hookpoint out."
            )

    @property
    def text_limit(self) -> int | None:
        """How many training tokens of the text to take; None: all of it, as always with the bundled corpus."""
        return text_limit(self.text, self.training.tokens, self.evaluation.eval_tokens)


@dataclass(frozen=True, kw_only=True)
class FrontierConfig(RunConfig):
    """A grid of runs that share a subject, a hookpoint and a stream of activations; the rest is as in each run.

    An architecture is trained at every ``l0`` with every ``n_latents``: by k where it has one, else by ``target_l0``.
    Settings of ``autoencoder`` that only some architectures use go to these.
    """

    architectures: tuple[str, ...] = ("topk", "batch_topk", "jumprelu", "gated", "prolu", "relu")
    """Names of architectures."""
    l0: tuple[int, ...] = (8, 16, 32, 64, 128)
    """Active latents a token."""
    sizes: tuple[int, ...] = (4096,)
    """Numbers of latents."""
    together: int = 5
    """Autoencoders trained side by side, from one pass of the subject: as many as memory holds."""

    def __post_init__(self) -> None:
        for name in ("architectures", "l0", "sizes"):
            values = getattr(self, name)
            if not values or len(set(values)) != len(values):
                raise UserError(f"{name}={list(values)} is empty or names a value twice; give each once.")
        for name in self.architectures:
            require_known(name)
        if self.together < 1:
            raise UserError(f"together={self.together} is below 1; train at least one at a time.")
        for name, grid in (("n_latents", "sizes"), ("k", "l0"), ("architecture", "architectures")):
            if (value := getattr(self.autoencoder, name)) != getattr(AutoencoderConfig(), name):
                raise UserError(f"{name}={value} would not be used: a frontier's are in {grid}; leave it out.")
        for name in ("sparsity_coefficient", "target_l0"):
            if (value := getattr(self.training, name)) is not None:
                raise UserError(f"{name}={value} would not be used: a frontier's targets are in l0; leave it out.")
        require_used(self.autoencoder, self.architectures)
        if all(ARCHITECTURES[name].has_penalty for name in self.architectures):
            require_fitting(self.architectures[0], True, dataclasses.replace(self.training, target_l0=1.0))
        self.runs()  # each validates itself

    def runs(self) -> list[RunConfig]:
        """The grid's runs, an architecture after the other, each in a directory inside ``out``."""
        grid = itertools.product(self.architectures, self.sizes, self.l0)
        return [self._run(*place) for place in grid]

    def _run(self, architecture: str, n_latents: int, l0: int) -> RunConfig:
        autoencoder, training = of_architecture(self.autoencoder, self.training, architecture, n_latents, l0)
        shared: dict[str, Any] = {**shared_settings(self), "autoencoder": autoencoder, "training": training}
        return RunConfig(out=self.out / f"{architecture}-{n_latents}-{l0}", **shared)


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """The settings of a grid's runs as the grid has them; each run changes those in which it differs."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(RunConfig) if field.name != "out"}


def of_architecture(
    autoencoder: AutoencoderConfig, training: TrainingConfig, architecture: str, n_latents: int, l0: int
) -> tuple[AutoencoderConfig, TrainingConfig]:
    """Settings for an architecture of so many latents, of which about ``l0`` are active a token.

    By k where the architecture has one, else by ``target_l0``. Settings that it has no use for are left out.
    """
    own = own_settings(autoencoder, architecture)
    if ARCHITECTURES[architecture].has_penalty:
        unused = {name: getattr(TrainingConfig(), name) for name in ("aux_coefficient", "k_aux", "aux_share")}
        training = dataclasses.replace(training, target_l0=float(l0), **unused)
    else:
        own["k"] = l0
    shared = {name: getattr(autoencoder, name) for name in ("preprocess", "encoder_bias", "crosscoder", "skip")}
    return AutoencoderConfig(architecture=architecture, n_latents=n_latents, **shared, **own), training


def text_limit(text: TextConfig, training_tokens: int, eval_tokens: int) -> int | None:
    """Training tokens to read of a text, so that neither training nor evaluation runs short of what the text has."""
    if text.is_builtin:
        return None
    for_evaluation = int(eval_tokens * (1 - text.held_out) / text.held_out)
    return max(LEAST_TEXT_TOKENS, int(1.1 * max(training_tokens, for_evaluation)))


@dataclass(frozen=True, kw_only=True)
class CacheConfig:
    """A cache of activations, written once and trained from many times."""

    out: str
    """Directory of the cache (s3:// and gs:// too); with several hookpoints, of one directory for each."""
    tokens: int = 2_000_000
    """Kept tokens to store for each hookpoint."""
    store_dtype: str = "bfloat16"
    """bfloat16 or float32, on disk."""
    seed: int = 0
    """Decides the order of the text; train from the cache with the same seed to see what a live run would."""
    subject: SubjectConfig = field(default_factory=SubjectConfig)
    text: TextConfig = field(default_factory=TextConfig)

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UserError(f"tokens={self.tokens} is below 1; give a positive number.")
        if self.store_dtype not in ("bfloat16", "float32"):
            raise UserError(f"store_dtype='{self.store_dtype}' is not one of bfloat16, float32.")
