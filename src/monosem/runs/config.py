"""The complete configuration of a run: every part's own, side by side."""

from dataclasses import dataclass, field
from pathlib import Path

from monosem.errors import UserError
from monosem.evaluation.suite import EvaluationConfig
from monosem.runlog import LogConfig
from monosem.sae.architectures import ARCHITECTURES, require_architecture
from monosem.sae.autoencoder import AutoencoderConfig
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
        if self.activations and (self.subject.layer is not None or self.subject.hookpoint):
            raise UserError(
                f"activations={list(self.activations)} name their own hookpoint; leave layer and hookpoint out."
            )

    @property
    def text_limit(self) -> int | None:
        """How many training tokens of the text to take; None: all of it, as always with the bundled corpus."""
        return text_limit(self.text, self.training.tokens, self.evaluation.eval_tokens)


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
