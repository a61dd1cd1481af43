"""Architectures that a penalty makes sparse: ReLU, ProLU, Gated, JumpReLU.

Decoder rows have unit length in all of them, so that a penalty on latents cannot be had for less by longer rows.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.ops.reference import Chosen
from monosem.sae.activations import keep_positive
from monosem.sae.autoencoder import Autoencoder, Encode, Response, Term
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Widths
from monosem.sae.straight_through import jumprelu, prolu, step


class PenalisedAutoencoder(Autoencoder):
    """Latents z ≥ 0, each from its own pre-activation; x̂ = W_decᵀ z + b_pre."""

    @abstractmethod
    def floors(self) -> Float[Tensor, " n_latents"]:
        """Pre-activations that are not above these give no latent, no penalty and no gradient."""

    def candidates(self, encode: Encode) -> Chosen:
        return encode.above(self.floors())

    def choose(self, encode: Encode) -> Chosen:
        candidates = self.candidates(encode)
        response = self.respond(candidates.values, candidates.indices, len(candidates.row_offsets) - 1)
        return keep_positive(candidates._replace(values=response.terms[0].latents))


class ReLUAutoencoder(PenalisedAutoencoder):
    """z = ReLU(W_enc (x − b_pre) + b_enc), penalty ‖z‖₁."""

    rate_multiple: ClassVar[float] = 2.0

    def floors(self) -> Float[Tensor, " n_latents"]:
        return torch.zeros_like(self.b_enc)

    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        z = torch.relu(pre_activations)
        return Response((Term(1.0, z),), z.sum() / batch)


class ProLUAutoencoder(PenalisedAutoencoder):
    """z = m · 1[m + b_enc > 0] · 1[m > 0] with m = W_enc (x − b_pre), penalty ‖z‖₁ (Taggart 2024).

    By the gradient ``relu`` latents fall silent without a penalty too: L0 can end at half of its target, λ at nothing.
    """

    rate_multiple: ClassVar[float] = 0.5
    settings: ClassVar[frozenset[str]] = frozenset({"prolu_gradient"})
    latent_parameters: ClassVar[tuple[str, ...]] = ("b_enc",)

    def floors(self) -> Float[Tensor, " n_latents"]:
        return torch.relu(-self.b_enc)

    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        z = prolu(pre_activations, self.of("b_enc", indices), self.config.prolu_gradient == "ste")
        return Response((Term(1.0, z),), z.sum() / batch)


class GatedAutoencoder(PenalisedAutoencoder):
    """Gate and magnitude apart (Rajamanoharan et al. 2024), sharing the encoder's directions.

    z = 1[π > 0] · ReLU(exp(r_mag) · m + b_mag) with m = W_enc (x − b_pre) and π = m + b_enc. The penalty is
    ‖ReLU(π)‖₁; and ReLU(π), decoded by a frozen copy of the decoder, has to reconstruct x as well, for the gate has no
    other gradient.
    """

    latent_parameters: ClassVar[tuple[str, ...]] = ("b_enc", "r_mag", "b_mag")
    rate_multiple: ClassVar[float] = 2.0

    def __init__(self, config: AutoencoderConfig, widths: Widths) -> None:
        super().__init__(config, widths)
        self.r_mag = nn.Parameter(torch.zeros(config.n_latents))
        self.b_mag = nn.Parameter(torch.zeros(config.n_latents))

    def floors(self) -> Float[Tensor, " n_latents"]:
        return -self.b_enc

    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        gate = torch.relu(pre_activations + self.of("b_enc", indices))
        magnitude = torch.relu(self.of("r_mag", indices).exp() * pre_activations + self.of("b_mag", indices))
        terms = (Term(1.0, magnitude * (gate > 0)), Term(1.0, gate, trains_decoder=False))
        return Response(terms, gate.sum() / batch)


class JumpReLUAutoencoder(PenalisedAutoencoder):
    """z = π · 1[π > θ], π = W_enc (x − b_pre) + b_enc, with learned thresholds θ > 0; the penalty is L0 itself.

    Rajamanoharan et al. 2024b. ``log_threshold`` is what is trained. It moves by about the learning rate a step, so a
    run of a thousand steps ends within a factor of ten from where it starts: the paper's start, 0.001, is for runs of a
    million steps, and a short one takes ``initial_threshold`` near the end.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"bandwidth", "initial_threshold"})
    latent_parameters: ClassVar[tuple[str, ...]] = ("log_threshold",)
    first_coefficient: ClassVar[float] = 3e-4
    rate_multiple: ClassVar[float] = 2.0

    def __init__(self, config: AutoencoderConfig, widths: Widths) -> None:
        super().__init__(config, widths)
        self.log_threshold = nn.Parameter(torch.zeros(config.n_latents))

    def start(self) -> None:
        self.log_threshold.fill_(math.log(self.config.initial_threshold or self.d_model**-0.5))

    def scale_encoder(self, factor: float) -> None:
        """The thresholds are scaled along."""
        super().scale_encoder(factor)
        self.log_threshold.add_(math.log(factor))

    def floors(self) -> Float[Tensor, " n_latents"]:
        """The thresholds get their gradient from pre-activations on both sides."""
        return self.log_threshold.exp() - self.config.bandwidth / 2

    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        threshold, bandwidth = self.of("log_threshold", indices).exp(), self.config.bandwidth
        z = jumprelu(pre_activations, threshold, bandwidth)
        return Response((Term(1.0, z),), step(pre_activations, threshold, bandwidth).sum() / batch)
