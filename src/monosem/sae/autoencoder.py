"""The autoencoder: raw activations in, sparse codes, raw activations out.

Row i belongs to latent i in every tensor: ``W_enc [n_latents, d_model]``, ``W_dec [n_latents, d_model]``,
``b_enc [n_latents]``; ``b_pre [d_model]`` is subtracted before encoding and added after decoding.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.errors import UserError
from monosem.ops import sparse
from monosem.sae.activations import KeptLatents
from monosem.sae.codes import Codes
from monosem.sae.preprocess import PREPROCESSES, Preprocess, Preprocessed, preprocess, undo_preprocess

# The dense [rows, n_latents] pre-activations of one piece stay below 256 MB in float32.
_DENSE_ELEMENTS = 1 << 26


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
    prolu_gradient: Literal["ste", "relu"] = "ste"
    """prolu: which of the two published straight-through gradients."""
    bandwidth: float = 0.001
    """jumprelu: width ε of the kernel in the thresholds' straight-through gradient."""
    initial_threshold: float = 0.001
    """jumprelu: every threshold's start."""
    encoder_bias: bool = True
    """Train b_enc from zero (as the paper's code does); without it b_enc stays zero (as its equation has it)."""
    preprocess: Preprocess = "unit_norm"
    """What is done to raw activations first and undone last."""

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
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)} is not positive; give a positive number.")
        if list(self.prefixes) != sorted(set(self.prefixes)) or not self.prefixes or self.prefixes[-1] != 1:
            raise UserError(f"prefixes={list(self.prefixes)} are not rising shares that end in 1, such as 0.25 0.5 1.")
        if round(self.prefixes[0] * self.n_latents) < 1:
            raise UserError(f"prefixes={list(self.prefixes)} begin with no latent of n_latents={self.n_latents}.")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an autoencoder belongs: the activations it was trained on."""

    model: str
    """The subject model: hub id, directory or 'builtin'."""
    revision: str | None
    hookpoint: str
    context_length: int
    """Tokens a block."""


class TrainingPass(NamedTuple):
    """What an autoencoder makes of a batch in training: all that its losses and counters need."""

    reconstructions: tuple[tuple[float, Float[Tensor, "batch d_model"]], ...]
    """Weight in the loss and reconstruction, preprocessed; the first is the whole code's."""
    penalty: Float[Tensor, ""]
    """What the sparsity coefficient multiplies, averaged over tokens; zero where k sets the sparsity."""
    pre_activations: Float[Tensor, "batch n_latents"]
    """Detached."""
    active: Int[Tensor, " n_latents"]
    """On how many of the batch's tokens each latent is active."""
    running: Mapping[str, Float[Tensor, ""]] = {}
    """This batch's values of what the autoencoder keeps running means of, by the name of its parameter."""


class Autoencoder(nn.Module, ABC):
    """Weights, preprocessing and decoding; each architecture says how pre-activations become kept latents."""

    parameter_names: ClassVar[tuple[str, ...]] = ("W_enc", "b_enc", "W_dec", "b_pre")
    settings: ClassVar[frozenset[str]] = frozenset()
    """The settings of ``AutoencoderConfig`` that are this architecture's own."""
    has_penalty: ClassVar[bool] = True
    """Whether a penalty with a coefficient makes it sparse; otherwise k does, and AuxK revives its dead latents."""
    has_fixed_k: ClassVar[bool] = False
    """Whether every token keeps exactly k latents, some perhaps zero."""

    def __init__(self, config: AutoencoderConfig, d_model: int) -> None:
        super().__init__()
        self.config = config
        self.d_model = d_model
        self.provenance: Provenance | None = None
        self.training_summary: dict[str, int | float] = {}
        self.W_enc = nn.Parameter(torch.zeros(config.n_latents, d_model))
        self.b_enc = nn.Parameter(torch.zeros(config.n_latents), requires_grad=config.encoder_bias)
        self.W_dec = nn.Parameter(torch.zeros(config.n_latents, d_model))
        self.b_pre = nn.Parameter(torch.zeros(d_model))

    @property
    def n_latents(self) -> int:
        return self.config.n_latents

    @abstractmethod
    def keep(self, pre_activations: Float[Tensor, "batch n_latents"]) -> KeptLatents:
        """Choose each token's latents from its pre-activations, as at inference."""

    @abstractmethod
    def training_pass(self, x: Float[Tensor, "batch d_model"]) -> TrainingPass:
        """Encode and decode preprocessed inputs, differentiably, as in training."""

    def start(self) -> None:
        """Set what only this architecture has to where training starts; the rest is ``initialise``'s."""

    def preprocess(self, raw: Float[Tensor, "batch d_model"]) -> Preprocessed:
        """The autoencoder's own inputs for these raw activations."""
        return preprocess(raw.to(self.W_enc.device), self.config.preprocess)

    def pre_activations(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Every latent before any nonlinearity, dense, for preprocessed inputs."""
        return torch.addmm(self.b_enc, x - self.b_pre, self.W_enc.T)

    def reconstruct(self, kept: KeptLatents) -> Float[Tensor, "batch d_model"]:
        """The preprocessed reconstruction."""
        return sparse.sparse_decode(kept.latent_values, kept.latent_indices, self.W_dec) + self.b_pre

    @torch.no_grad()
    def encode(self, activations: Float[Tensor, "*tokens d_model"]) -> Codes:
        """Codes of raw activations, one row of codes a token. Leading dimensions are flattened in order."""
        flat = self._flatten(activations)
        pieces = [self._encode_piece(piece) for piece in flat.split(max(1, _DENSE_ELEMENTS // self.n_latents))]
        inputs, kept = zip(*pieces, strict=True)
        in_code = [
            torch.ones_like(piece.latent_indices, dtype=torch.bool) if self.has_fixed_k else piece.latent_values > 0
            for piece in kept
        ]
        counts = torch.cat([mask.sum(dim=1) for mask in in_code])
        return Codes(
            values=torch.cat([piece.latent_values[mask] for piece, mask in zip(kept, in_code, strict=True)]),
            indices=torch.cat([piece.latent_indices[mask] for piece, mask in zip(kept, in_code, strict=True)]),
            row_offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            mean=torch.cat([piece.mean for piece in inputs]),
            norm=torch.cat([piece.norm for piece in inputs]),
            n_latents=self.n_latents,
        )

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "batch d_model"]:
        """Raw activations from codes; preprocessing is undone with each token's own mean and norm."""
        return undo_preprocess(self.reconstruct(KeptLatents(*codes.padded())), codes.mean, codes.norm)

    @torch.no_grad()
    def forward(self, activations: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens d_model"]:
        """Raw activations, encoded and decoded, in the shape and dtype they came in."""
        return self.decode(self.encode(activations)).reshape(activations.shape).to(activations.dtype)

    def _encode_piece(self, flat: Float[Tensor, "batch d_model"]) -> tuple[Preprocessed, KeptLatents]:
        inputs = self.preprocess(flat)
        inputs = Preprocessed(*(part.to(self.W_enc.dtype) for part in inputs))
        return inputs, self.keep(self.pre_activations(inputs.x))

    def _flatten(self, activations: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "batch d_in"]:
        if activations.shape[-1] != self.d_model:
            raise UserError(
                f"The activations are {activations.shape[-1]} wide and this autoencoder's d_model is {self.d_model}; "
                "give it activations from the hookpoint it was trained on."
            )
        return activations.reshape(-1, self.d_model)
