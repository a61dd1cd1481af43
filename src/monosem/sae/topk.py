"""TopK and its relatives that choose over a whole batch: k sets the sparsity, and no penalty is needed."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.ops import sparse
from monosem.ops.reference import Chosen
from monosem.sae.activations import activate, keep_positive
from monosem.sae.autoencoder import Autoencoder, Encode, Response, Term, TrainingPass
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Widths

# Share of the running threshold above which a batch's candidates are looked for first: its own is rarely lower.
CAUTION = 0.85


class TopKAutoencoder(Autoencoder):
    """z = TopK(W_enc (x − b_pre) + b_enc), x̂ = W_decᵀ z + b_pre (Gao et al. 2024, §2.3); Multi-TopK (§4.2)."""

    settings: ClassVar[frozenset[str]] = frozenset({"k", "nonlinearity", "multi_topk"})
    has_penalty: ClassVar[bool] = False

    @property
    def k_widest(self) -> int:
        """Latents a token that training needs: k, or 4k for Multi-TopK."""
        return 4 * self.config.k if self.config.multi_topk else self.config.k

    def choose(self, encode: Encode) -> Chosen:
        """Exactly the k largest; a value that the ReLU zeroes is kept but not active."""
        kept = encode.largest(self.config.k)
        return kept._replace(values=activate(kept.values, self.config.nonlinearity))

    def candidates(self, encode: Encode) -> Chosen:
        return encode.largest(self.k_widest)

    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        """Of the candidates, for all are no code of TopK's."""
        latents, no_penalty = activate(pre_activations, self.config.nonlinearity), pre_activations.new_zeros(())
        if not self.config.multi_topk:
            return Response((Term(1.0, latents),), no_penalty)
        is_in_k = torch.arange(self.k_widest, device=latents.device) < self.config.k
        terms = (Term(1.0, latents * is_in_k.repeat(batch)), Term(1 / 8, latents))
        return Response(terms, no_penalty)

    def training_pass(self, x: Float[Tensor, "batch d_model"]) -> TrainingPass:
        """One dense product without gradients; these go through the kept latents alone."""
        k = self.config.k
        with torch.no_grad():
            pre_activations = self.pre_activations(x)
            _, indices = sparse.topk(pre_activations, self.k_widest)
        kept = sparse.selected_pre_activations(x - self.b_pre, self.W_enc, self.b_enc, pre_activations, indices)
        values = activate(kept, self.config.nonlinearity)
        widths = ((1.0, k), (1 / 8, self.k_widest)) if self.config.multi_topk else ((1.0, k),)
        offset, is_active = self.offset(x), values[:, :k] > 0
        return TrainingPass(
            reconstructions=tuple(
                (weight, sparse.sparse_decode(values[:, :width], indices[:, :width], self.W_dec) + offset)
                for weight, width in widths
            ),
            penalty=x.new_zeros(()),
            pre_activations=pre_activations,
            active=torch.bincount(indices[:, :k][is_active], minlength=self.n_latents),
        )


class BatchTopKAutoencoder(Autoencoder):
    """Of a batch's B · n positive pre-activations keep the B · k largest (Bussmann et al. 2024).

    At inference a token keeps what reaches ``threshold``, the running mean over training of the smallest positive
    value that a batch kept, so that a token's code does not depend on its company.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"k"})
    has_penalty: ClassVar[bool] = False

    def __init__(self, config: AutoencoderConfig, widths: Widths) -> None:
        super().__init__(config, widths)
        self.threshold = nn.Parameter(torch.zeros(()), requires_grad=False)

    def choose(self, encode: Encode) -> Chosen:
        just_below = torch.nextafter(self.threshold, -torch.ones_like(self.threshold)).clamp(min=0)
        return keep_positive(encode.above(just_below.expand(self.n_latents).contiguous()))

    def candidates(self, encode: Encode) -> Chosen:
        """The batch's largest, looked for above a floor that leaves few, or if that leaves too few above zero."""
        zeros = torch.zeros_like(self.b_enc)
        found = encode.above(zeros + CAUTION * self.threshold.clamp(min=0))
        wanted = self.config.k * (len(found.row_offsets) - 1)
        if len(found.values) < wanted and self.threshold > 0:
            found = encode.above(zeros)
        return strongest(found, wanted)

    def restrict(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        return pre_activations.where(largest_of_batch(pre_activations.detach(), self.config.k), 0)

    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        latents = torch.relu(pre_activations)
        return Response(
            terms=self.terms(latents, indices),
            penalty=latents.new_zeros(()),
            running={"threshold": smallest_positive(latents.detach())},
        )

    def terms(self, latents: Float[Tensor, "... some"], indices: Int[Tensor, " some"]) -> tuple[Term, ...]:
        """What is decoded; here all."""
        return (Term(1.0, latents),)


def largest_of_batch(pre_activations: Float[Tensor, "batch n_latents"], k: int) -> Tensor:
    """Which entries are among the batch · k largest of all, a mask; of equal ones at the limit, any."""
    batch, n_latents = pre_activations.shape
    flat = pre_activations.flatten()
    kept = flat.topk(min(batch * k, batch * n_latents), sorted=False).indices
    return torch.zeros_like(flat, dtype=torch.bool).index_fill_(0, kept, True).view(batch, n_latents)


def strongest(chosen: Chosen, count: int) -> Chosen:
    """The ``count`` largest values of all, where there are more; of equal ones at the limit, any."""
    if len(chosen.values) <= count:
        return chosen
    kept = chosen.values.topk(count, sorted=False).indices.sort().values
    return Chosen(chosen.values[kept], chosen.indices[kept], torch.searchsorted(kept, chosen.row_offsets))


def smallest_positive(latents: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """The least of the positive entries; infinite where there is none."""
    return torch.cat([latents.where(latents > 0, torch.inf).flatten(), latents.new_full((1,), torch.inf)]).min()


class MatryoshkaAutoencoder(BatchTopKAutoencoder):
    """BatchTopK whose nested prefixes of the dictionary each reconstruct (Bussmann et al. 2025).

    One choice over all latents; each prefix then decodes what was kept inside it. The loss is the mean over prefixes.
    """

    settings: ClassVar[frozenset[str]] = frozenset({"k", "prefixes"})

    def terms(self, latents: Float[Tensor, "... some"], indices: Int[Tensor, " some"]) -> tuple[Term, ...]:
        """The whole dictionary's first, then those of the shorter prefixes; each counts the same."""
        ends = [round(share * self.n_latents) for share in reversed(self.config.prefixes)]
        return tuple(Term(1 / len(ends), latents * (indices < end)) for end in ends)
