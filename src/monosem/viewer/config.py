"""The settings of an index."""

from dataclasses import dataclass, fields
from typing import Literal

from monosem.config import require_positive


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """What is indexed, and how much is kept of it for each latent."""

    tokens: int = 2_000_000
    """Kept tokens, at most, in whole blocks that lie evenly spread over the split."""
    split: Literal["training", "held_out"] = "training"
    """Which of the run's texts."""
    examples_top: int = 20
    """Strongest contexts a latent."""
    examples_band: int = 5
    """Contexts a latent drawn from each band between two quantiles of its activations."""
    tokens_per_latent: int = 10
    """Tokens of the vocabulary that a latent fires on, by summed activation."""
    logit_effects: int = 10
    """Tokens that a latent promotes, and as many that it suppresses."""
    neighbours: int = 10
    """Nearest latents, of each kind of nearness."""

    def __post_init__(self) -> None:
        require_positive(self, *(field.name for field in fields(self) if field.name != "split"))
