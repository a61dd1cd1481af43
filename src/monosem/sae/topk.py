"""TopK and its relatives that choose over a whole batch: k sets the sparsity, and no penalty is needed."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from monosem.ops import sparse
from monosem.sae.activations import KeptLatents, activate, keep_positive, keep_topk
from monosem.sae.autoencoder import Autoencoder, AutoencoderConfig, TrainingPass


class TopKAutoencoder(Autoencoder):
    """z = TopK(W_enc (x − b_pre) + b_enc), x̂ = W_decᵀ z + b_pre (Gao et al. 2024, §2.3); Multi-TopK (§4.2)."""

    settings: ClassVar[frozenset[str]] = frozenset({"k", "nonlinearity", "multi_topk"})
    has_penalty: ClassVar[bool] = False
    has_fixed_k: ClassVar[bool] = True

    def keep(self, pre_activations: Float[Tensor, "batch n_latents"]) -> KeptLatents:
        return keep_topk(pre_activations, self.config.k, self.config.nonlinearity)

    def training_pass(self, x: Float[Tensor, "batch d_model"]) -> TrainingPass:
        """One dense product without gradients; these go through the kept latents alone."""
        k = self.config.k
        with torch.no_grad():
            pre_activations = self.pre_activations(x)
            _, indices = sparse.topk(pre_activations, 4 * k if self.config.multi_topk else k)
        kept = sparse.selected_pre_activations(x - self.b_pre, self.W_enc, self.b_enc, pre_activations, indices)
        values = activate(kept, self.config.nonlinearity)
        codes = [(1.0, KeptLatents(values[:, :k], indices[:, :k]))]
        if self.config.multi_topk:
            codes.append((1 / 8, KeptLatents(values, indices)))
        is_active = values[:, :k] > 0
        return TrainingPass(
            reconstructions=tuple((weight, self.reconstruct(code)) for weight, code in codes),
            penalty=x.new_zeros(()),
            pre_activations=pre_activations,
            active=torch.bincount(indices[:, :k][is_active], minlength=self.n_latents),
        )


class BatchTopKAutoencoder(Autoencoder):
    """Of a batch's B · n positive pre-activations keep the B · k largest (Bussmann et al. 2024).

    At inference a token keeps what exceeds ``threshold``, the running mean over training of the smallest positive
    value that a batch kept, so that a token's code does not depend on its company.
    """

    parameter_names: ClassVar[tuple[str, ...]] = (*Autoencoder.parameter_names, "threshold")
    settings: ClassVar[frozenset[str]] = frozenset({"k"})
    has_penalty: ClassVar[bool] = False

    def __init__(self, config: AutoencoderConfig, d_model: int) -> None:
        super().__init__(config, d_model)
        self.threshold = nn.Parameter(torch.zeros(()), requires_grad=False)

    def keep(self, pre_activations: Float[Tensor, "batch n_latents"]) -> KeptLatents:
        above = (pre_activations > 0) & (pre_activations >= self.threshold)
        return keep_positive(pre_activations.where(above, 0))

    def training_latents(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        """The batch's kept latents, dense; all else zero."""
        return torch.relu(pre_activations).where(largest_of_batch(pre_activations.detach(), self.config.k), 0)

    def training_pass(self, x: Float[Tensor, "batch d_model"]) -> TrainingPass:
        pre_activations = self.pre_activations(x)
        latents = self.training_latents(pre_activations)
        return TrainingPass(
            reconstructions=self.training_reconstructions(latents),
            penalty=x.new_zeros(()),
            pre_activations=pre_activations.detach(),
            active=(latents > 0).sum(dim=0),
            running={"threshold": smallest_positive(latents.detach())},
        )

    def training_reconstructions(
        self, latents: Float[Tensor, "batch n_latents"]
    ) -> tuple[tuple[float, Float[Tensor, "batch d_model"]], ...]:
        """Weights and reconstructions; here one."""
        return ((1.0, latents @ self.W_dec + self.b_pre),)


def largest_of_batch(pre_activations: Float[Tensor, "batch n_latents"], k: int) -> Tensor:
    """Which entries are among the batch · k largest of all, a mask; of equal ones at the limit, any."""
    batch, n_latents = pre_activations.shape
    flat = pre_activations.flatten()
    kept = flat.topk(min(batch * k, batch * n_latents), sorted=False).indices
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, kept, True).view(batch, n_latents)


def smallest_positive(latents: Float[Tensor, "batch n_latents"]) -> Float[Tensor, ""]:
    """The least of the positive entries; infinite where there is none."""
    return latents.where(latents > 0, torch.inf).min()


class MatryoshkaAutoencoder(BatchTopKAutoencoder):
    """BatchTopK whose nested prefixes of the dictionary each reconstruct (Bussmann et al. 2025).

    One choice over all latents; each prefix then decodes what was kept inside it. The loss is the mean over prefixes.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"k", "prefixes"})

    def training_reconstructions(
        self, latents: Float[Tensor, "batch n_latents"]
    ) -> tuple[tuple[float, Float[Tensor, "batch d_model"]], ...]:
        """The whole dictionary's first, then those of the shorter prefixes; each counts the same."""
        ends = [round(share * self.n_latents) for share in self.config.prefixes]
        reconstruction: Tensor = self.b_pre
        found: list[Tensor] = []
        for start, end in zip([0, *ends], ends, strict=False):
            reconstruction = reconstruction + latents[:, start:end] @ self.W_dec[start:end]
            found.append(reconstruction)
        return tuple((1 / len(found), prefix) for prefix in reversed(found))
