"""The settings of an autoencoder."""

from dataclasses import dataclass
from typing import Literal

from monosem.errors import UserError
from monosem.sae.preprocess import PREPROCESSES, Preprocess


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """What an autoencoder is, apart from its weights."""

    architecture: str = "topk"
    """One of the names in monosem.sae.architectures."""
    n_latents: int = 4096
    """Size of the dictionary."""
    k: int = 32
    """topk, batch_topk, matryoshka: latents kept a token, in the last two on average over a batch."""
    nonlinearity: Literal["relu", "identity"] = "relu"
    """topk: nonlinearity on the kept values."""
    multi_topk: bool = False
    """topk: add L(4k)/8 to the loss, so that the code works at every sparsity."""
    prefixes: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    """matryoshka: the nested shares of the latents that each reconstruct by themselves, ending in 1."""
    prolu_gradient: Literal["relu", "ste"] = "relu"
    """prolu: which of the two published straight-through gradients; by the first the code is better and sparser than
    asked for, by the second a target L0 is met (docs/results)."""
    bandwidth: float = 0.001
    """jumprelu: width ε of the kernel in the thresholds' straight-through gradient."""
    initial_threshold: float | None = None
    """jumprelu: every threshold's start, scaled with the encoder where its magnitude is matched; by default
    1 / √d_model."""
    encoder_bias: bool = True
    """Train b_enc from zero (as the paper's code does); without it b_enc stays zero (as its equation has it)."""
    preprocess: Preprocess = "unit_norm"
    """What is done to raw activations first and undone last."""
    crosscoder: bool = False
    """One autoencoder for all hookpoints together, instead of one for each."""
    skip: bool = False
    """Transcoders: a trained linear map from input to target beside the latents."""

    def __post_init__(self) -> None:
        if self.n_latents < 1:
            raise UserError(f"n_latents={self.n_latents} is below 1; an autoencoder needs at least one latent.")
        if self.k < 1:
            raise UserError(f"k={self.k} is below 1; keep at least one latent a token.")
        if self.preprocess not in PREPROCESSES:
            raise UserError(f"Unknown preprocess '{self.preprocess}'. Known: {', '.join(PREPROCESSES)}.")
        for name, known in (("nonlinearity", ("identity", "relu")), ("prolu_gradient", ("relu", "ste"))):
            if getattr(self, name) not in known:
                raise UserError(f"Unknown {name} '{getattr(self, name)}'. Known: {', '.join(known)}.")
        if self.multi_topk and 4 * self.k > self.n_latents:
            raise UserError(
                f"multi_topk keeps 4k = {4 * self.k} latents, more than n_latents={self.n_latents}; lower k."
            )
        for name in ("bandwidth", "initial_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value} is not positive; give a positive number.")
        if list(self.prefixes) != sorted(set(self.prefixes)) or not self.prefixes or self.prefixes[-1] != 1:
            raise UserError(f"prefixes={list(self.prefixes)} are not rising shares that end in 1, such as 0.25 0.5 1.")
