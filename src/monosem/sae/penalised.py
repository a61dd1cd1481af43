"""Architectures that a penalty makes sparse: ReLU, ProLU, Gated, JumpReLU.

Decoder rows have unit length in all of them, so that a penalty on latents cannot be had for less by longer rows.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.sae.activations import KeptLatents, keep_positive
from monosem.sae.autoencoder import Autoencoder, AutoencoderConfig, TrainingPass
from monosem.sae.straight_through import jumprelu, prolu, step


class PenalisedAutoencoder(Autoencoder):
    """Dense latents z ≥ 0 from pre-activations; x̂ = W_decᵀ z + b_pre."""

    @abstractmethod
    def latents(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        """z, differentiable as the architecture is trained."""

    @abstractmethod
    def penalty(
        self, pre_activations: Float[Tensor, "batch n_latents"], latents: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, " batch"]:
        """What is to be small for each token."""

    def keep(self, pre_activations: Float[Tensor, "batch n_latents"]) -> KeptLatents:
        return keep_positive(self.latents(pre_activations))

    def training_pass(self, x: Float[Tensor, "batch d_model"]) -> TrainingPass:
        pre_activations = self.pre_activations(x)
        latents = self.latents(pre_activations)
        return TrainingPass(
            reconstructions=((1.0, latents @ self.W_dec + self.b_pre), *self.other_reconstructions(pre_activations)),
            penalty=self.penalty(pre_activations, latents).mean(),
            pre_activations=pre_activations.detach(),
            active=(latents > 0).sum(dim=0),
        )

    def other_reconstructions(
        self, pre_activations: Float[Tensor, "batch n_latents"]
    ) -> tuple[tuple[float, Float[Tensor, "batch d_model"]], ...]:
        """More terms of the loss, with their weights; by default none."""
        return ()


class ReLUAutoencoder(PenalisedAutoencoder):
    """z = ReLU(W_enc (x − b_pre) + b_enc), penalty ‖z‖₁."""

    def latents(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        return torch.relu(pre_activations)

    def penalty(
        self, pre_activations: Float[Tensor, "batch n_latents"], latents: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, " batch"]:
        return latents.sum(dim=1)


class ProLUAutoencoder(PenalisedAutoencoder):
    """z = m · 1[m + b_enc > 0] · 1[m > 0] with m = W_enc (x − b_pre), penalty ‖z‖₁ (Taggart 2024)."""

    settings: ClassVar[frozenset[str]] = frozenset({"prolu_gradient"})

    def latents(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        return prolu(pre_activations - self.b_enc, self.b_enc, self.config.prolu_gradient == "ste")

    def penalty(
        self, pre_activations: Float[Tensor, "batch n_latents"], latents: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, " batch"]:
        return latents.sum(dim=1)


class GatedAutoencoder(PenalisedAutoencoder):
    """Gate and magnitude apart (Rajamanoharan et al. 2024), sharing the encoder's directions.

    z = 1[π > 0] · ReLU(exp(r_mag) · W_enc (x − b_pre) + b_mag) with π = W_enc (x − b_pre) + b_enc. The penalty is
    ‖ReLU(π)‖₁; and ReLU(π), decoded by a frozen copy of the decoder, has to reconstruct x as well, for the gate has no
    other gradient.
    """

    parameter_names: ClassVar[tuple[str, ...]] = (*Autoencoder.parameter_names, "r_mag", "b_mag")

    def __init__(self, config: AutoencoderConfig, d_model: int) -> None:
        super().__init__(config, d_model)
        self.r_mag = nn.Parameter(torch.zeros(config.n_latents))
        self.b_mag = nn.Parameter(torch.zeros(config.n_latents))

    def latents(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        magnitude = torch.relu(self.r_mag.exp() * (pre_activations - self.b_enc) + self.b_mag)
        return magnitude * (pre_activations > 0)

    def penalty(
        self, pre_activations: Float[Tensor, "batch n_latents"], latents: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, " batch"]:
        return torch.relu(pre_activations).sum(dim=1)

    def other_reconstructions(
        self, pre_activations: Float[Tensor, "batch n_latents"]
    ) -> tuple[tuple[float, Float[Tensor, "batch d_model"]], ...]:
        return ((1.0, torch.relu(pre_activations) @ self.W_dec.detach() + self.b_pre.detach()),)


class JumpReLUAutoencoder(PenalisedAutoencoder):
    """z = π · 1[π > θ], π = W_enc (x − b_pre) + b_enc, with learned thresholds θ > 0; the penalty is L0 itself.

    Rajamanoharan et al. 2024b. ``log_threshold`` is what is trained.
    """

    parameter_names: ClassVar[tuple[str, ...]] = (*Autoencoder.parameter_names, "log_threshold")
    settings: ClassVar[frozenset[str]] = frozenset({"bandwidth", "initial_threshold"})

    def __init__(self, config: AutoencoderConfig, d_model: int) -> None:
        super().__init__(config, d_model)
        self.log_threshold = nn.Parameter(torch.zeros(config.n_latents))

    def start(self) -> None:
        self.log_threshold.fill_(math.log(self.config.initial_threshold))

    def latents(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        return jumprelu(pre_activations, self.log_threshold.exp(), self.config.bandwidth)

    def penalty(
        self, pre_activations: Float[Tensor, "batch n_latents"], latents: Float[Tensor, "batch n_latents"]
    ) -> Float[Tensor, " batch"]:
        return step(pre_activations, self.log_threshold.exp(), self.config.bandwidth).sum(dim=1)
