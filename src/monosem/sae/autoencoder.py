"""The autoencoder: raw activations in, sparse codes, raw activations out.

Row i belongs to latent i in every tensor: ``W_enc [n_latents, d_model]``, ``W_dec [n_latents, d_model]``,
``b_enc [n_latents]``; ``b_pre [d_model]`` is subtracted before encoding and added after decoding.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.errors import UserError
from monosem.ops import sparse
from monosem.sae.activations import KeptLatents, keep_topk
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
    """Latents kept a token."""
    nonlinearity: Literal["relu", "identity"] = "relu"
    """Nonlinearity on the kept values."""
    encoder_bias: bool = True
    """Train b_enc from zero (as the paper's code does); without it b_enc stays zero (as its equation has it)."""
    preprocess: Preprocess = "unit_norm"
    """What is done to raw activations first and undone last."""

    def __post_init__(self) -> None:
        if self.n_latents < 1:
            raise UserError(f"n_latents={self.n_latents} is below 1; an autoencoder needs at least one latent.")
        if self.k < 1:
            raise UserError(f"k={self.k} is below 1; keep at least one latent a token.")
        if self.k > self.n_latents:
            raise UserError(f"k={self.k} exceeds n_latents={self.n_latents}; lower k or raise n_latents.")
        if self.preprocess not in PREPROCESSES:
            raise UserError(f"Unknown preprocess '{self.preprocess}'. Known: {', '.join(PREPROCESSES)}.")
        if self.nonlinearity not in ("relu", "identity"):
            raise UserError(f"Unknown nonlinearity '{self.nonlinearity}'. Known: identity, relu.")


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where an autoencoder belongs: the activations it was trained on."""

    model: str
    """The subject model: hub id, directory or 'builtin'."""
    revision: str | None
    hookpoint: str
    context_length: int
    """Tokens a block."""


class Autoencoder(nn.Module, ABC):
    """Weights, preprocessing and decoding; each architecture says how pre-activations become kept latents."""

    parameter_names: ClassVar[tuple[str, ...]] = ("W_enc", "b_enc", "W_dec", "b_pre")

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
        """Choose each token's latents from its pre-activations."""

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
        values = torch.cat([piece.latent_values for piece in kept])
        batch, k = values.shape
        return Codes(
            values=values.flatten(),
            indices=torch.cat([piece.latent_indices for piece in kept]).flatten(),
            row_offsets=torch.arange(0, batch * k + 1, k, device=values.device),
            mean=torch.cat([piece.mean for piece in inputs]),
            norm=torch.cat([piece.norm for piece in inputs]),
            n_latents=self.n_latents,
        )

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "batch d_model"]:
        """Raw activations from codes; preprocessing is undone with each token's own mean and norm."""
        even = (len(codes.mean), self.config.k)
        kept = KeptLatents(codes.values.view(even), codes.indices.view(even))
        return undo_preprocess(self.reconstruct(kept), codes.mean, codes.norm)

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


class TopKAutoencoder(Autoencoder):
    """z = TopK(W_enc (x − b_pre) + b_enc), x̂ = W_decᵀ z + b_pre (Gao et al. 2024, §2.3)."""

    def keep(self, pre_activations: Float[Tensor, "batch n_latents"]) -> KeptLatents:
        return keep_topk(pre_activations, self.config.k, self.config.nonlinearity)
