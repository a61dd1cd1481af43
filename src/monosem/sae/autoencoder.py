"""The autoencoder: raw activations in, sparse codes, raw activations out.

Row i belongs to latent i in every tensor: ``W_enc [n_latents, d_model]``, ``W_dec [n_latents, d_model]``,
``b_enc [n_latents]``; ``b_pre [d_model]`` is subtracted before encoding and added after decoding.

A crosscoder reads and reconstructs the activations of several hookpoints, side by side in one vector, each hookpoint's
preprocessed by itself: its latents have a block of a (unit) decoder row for each. A transcoder gives the activations of
another hookpoint than it reads: ``W_dec [n_latents, d_target]``, with ``b_dec [d_target]`` of its own and, if asked, a
linear map beside the latents, ``W_skip [d_model, d_target]``. Its target is not normalised by token, for at inference
only the input is known, but divided by one number, ``target_scale``.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from monosem.errors import UserError
from monosem.ops import sparse
from monosem.ops.reference import Chosen, above, even_rows, joined, sparse_decode
from monosem.sae.codes import Codes
from monosem.sae.config import AutoencoderConfig
from monosem.sae.interventions import Interventions, value_changes
from monosem.sae.preprocess import Preprocessed, preprocess, undo_preprocess
from monosem.sae.site import Provenance, Widths

# The dense [rows, n_latents] pre-activations of one piece stay below 256 MB in float32.
_DENSE_ELEMENTS = 1 << 26


class Term(NamedTuple):
    """One reconstruction error of the loss."""

    weight: float
    latents: Float[Tensor, "..."]
    """What is decoded, in the place of the pre-activations it was made of."""
    trains_decoder: bool = True
    """Otherwise a frozen copy of the decoder and of b_pre decodes."""


class Response(NamedTuple):
    """What an autoencoder makes of pre-activations in training."""

    terms: tuple[Term, ...]
    """The first decodes the whole code, and trains the decoder."""
    penalty: Float[Tensor, ""]
    """What the sparsity coefficient multiplies, averaged over tokens; zero where k sets the sparsity."""
    running: Mapping[str, Float[Tensor, ""]] = {}
    """This batch's values of what the autoencoder keeps running means of, by the name of its parameter."""


@runtime_checkable
class Encode(Protocol):
    """Finds among a batch's pre-activations those that are needed; without gradients."""

    def largest(self, k: int) -> Chosen:
        """Every token's k largest, strongest first."""
        ...

    def above(self, floors: Float[Tensor, " n_latents"]) -> Chosen:
        """All that are above their latent's floor."""
        ...


class DensePreActivations(NamedTuple):
    """All of a batch's pre-activations, to be searched."""

    values: Float[Tensor, "batch n_latents"]

    def largest(self, k: int) -> Chosen:
        """Every token's k largest, strongest first."""
        return even_rows(*sparse.topk(self.values, k))

    def above(self, floors: Float[Tensor, " n_latents"]) -> Chosen:
        """All that are above their latent's floor."""
        return above(self.values, floors)


class TrainingPass(NamedTuple):
    """What an autoencoder makes of a batch in training: all that its losses and counters need."""

    reconstructions: tuple[tuple[float, Float[Tensor, "batch d_target"]], ...]
    """Weight in the loss and reconstruction, preprocessed; the first is the whole code's."""
    penalty: Float[Tensor, ""]
    """What the sparsity coefficient multiplies, averaged over tokens; zero where k sets the sparsity."""
    pre_activations: Float[Tensor, "batch n_latents"]
    """Detached."""
    active: Int[Tensor, " n_latents"]
    """On how many of the batch's tokens each latent is active."""
    running: Mapping[str, Float[Tensor, ""]] = {}
    """As in ``Response``."""


class Autoencoder(nn.Module, ABC):
    """Weights, preprocessing and decoding; each architecture says how pre-activations become latents.

    At inference by ``choose``; in training by ``respond``, elementwise, on all of a batch's pre-activations or, which
    comes to the same, on ``candidates``, those that can matter.
    """

    settings: ClassVar[frozenset[str]] = frozenset()
    """The settings of ``AutoencoderConfig`` that are this architecture's own."""
    has_penalty: ClassVar[bool] = True
    """Whether a penalty with a coefficient makes it sparse; otherwise k does, and AuxK revives its dead latents."""
    first_coefficient: ClassVar[float] = 0.1
    """Where a penalty's coefficient starts that is steered towards an L0: its order of magnitude for an L1 norm."""
    rate_multiple: ClassVar[float] = 1.0
    """Of the automatic learning rate, which is TopK's (docs/results/frontier/rates.jsonl)."""
    latent_parameters: ClassVar[tuple[str, ...]] = ()
    """The parameters, a number for each latent, that ``respond`` takes up; b_enc among them acts there alone."""

    def __init__(self, config: AutoencoderConfig, widths: Widths) -> None:
        super().__init__()
        self.config, self.widths = config, widths
        self.d_model = sum(widths.inputs)
        self.d_target = self.d_model if widths.target is None else widths.target
        self.provenance: Provenance | None = None
        self.training_summary: dict[str, int | float] = {}
        self.W_enc = nn.Parameter(torch.zeros(config.n_latents, self.d_model))
        self.b_enc = nn.Parameter(torch.zeros(config.n_latents), requires_grad=config.encoder_bias)
        self.W_dec = nn.Parameter(torch.zeros(config.n_latents, self.d_target))
        self.b_pre = nn.Parameter(torch.zeros(self.d_model))
        if self.is_transcoder:
            self.b_dec = nn.Parameter(torch.zeros(self.d_target))
            self.target_scale = nn.Parameter(torch.ones(()), requires_grad=False)
        if config.skip:
            self.W_skip = nn.Parameter(torch.zeros(self.d_model, self.d_target))

    @property
    def is_transcoder(self) -> bool:
        """Whether it gives other activations than it reads."""
        return self.widths.target is not None

    @property
    def n_latents(self) -> int:
        return self.config.n_latents

    @abstractmethod
    def choose(self, encode: Encode) -> Chosen:
        """Find each token's latents among its pre-activations, as at inference; strongest first."""

    def keep(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Chosen:
        """The latents of tokens whose pre-activations are all there."""
        return self.choose(DensePreActivations(pre_activations))

    @abstractmethod
    def candidates(self, encode: Encode) -> Chosen:
        """A batch's pre-activations without which ``respond`` gives the same terms, penalty and gradients."""

    @abstractmethod
    def respond(
        self, pre_activations: Float[Tensor, "... some"], indices: Int[Tensor, " some"], batch: int
    ) -> Response:
        """Latents and penalty of a batch's pre-activations, differentiable as the architecture is trained.

        Args:
            pre_activations: ``[batch, n_latents]``, all of them; or ``[some]``, the candidates of all tokens.
            indices: the latents that they, or their columns, belong to.
            batch: tokens.
        """

    def training_pass(self, x: Float[Tensor, "batch d_model"]) -> TrainingPass:
        """Encode and decode preprocessed inputs, differentiably, as in training; dense, by plain PyTorch."""
        pre_activations = self.pre_activations(x)
        latents = torch.arange(self.n_latents, device=x.device)
        response = self.respond(self.restrict(pre_activations), latents, len(x))
        return TrainingPass(
            reconstructions=tuple((term.weight, self._decode_dense(term, x)) for term in response.terms),
            penalty=response.penalty,
            pre_activations=pre_activations.detach(),
            active=(response.terms[0].latents > 0).sum(dim=0),
            running=response.running,
        )

    def restrict(self, pre_activations: Float[Tensor, "batch n_latents"]) -> Float[Tensor, "batch n_latents"]:
        """Pre-activations with zeros in the place of those that the batch as a whole rules out; here none."""
        return pre_activations

    def _decode_dense(self, term: Term, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_target"]:
        if term.trains_decoder:
            return term.latents @ self.W_dec + self.offset(x)
        return term.latents @ self.W_dec.detach() + self.offset(x).detach()

    def start(self) -> None:
        """Set what only this architecture has to where training starts; the rest is ``initialise``'s."""

    def scale_encoder(self, factor: float) -> None:
        """Scale all pre-activations, while b_enc is zero, and with them all latents."""
        self.W_enc.mul_(factor)

    def preprocess(self, raw: Float[Tensor, "batch d_model"]) -> Preprocessed:
        """The autoencoder's own inputs for these raw activations; each hookpoint's by itself."""
        raw = raw.to(self.W_enc.device)
        if len(self.widths.inputs) == 1:
            return preprocess(raw, self.config.preprocess)
        parts = [preprocess(part, self.config.preprocess) for part in raw.split(self.widths.inputs, dim=1)]
        xs, means, norms = zip(*parts, strict=True)
        return Preprocessed(torch.cat(xs, dim=1), torch.stack(means, dim=1), torch.stack(norms, dim=1))

    def training_pair(
        self, raw: Float[Tensor, "batch d_model"], raw_target: Float[Tensor, "batch d_target"] | None = None
    ) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch d_target"]]:
        """What is encoded and what is to be reconstructed, of raw activations; of an autoencoder the same."""
        x = self.preprocess(raw).x.to(self.W_enc.dtype)
        if not self.is_transcoder:
            return x, x
        assert raw_target is not None, "a transcoder needs its target"
        return x, raw_target.to(self.W_enc) / self.target_scale

    def pre_activations(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch n_latents"]:
        """Every latent before any nonlinearity, dense, for preprocessed inputs."""
        return torch.addmm(self.pre_activation_bias, x - self.b_pre, self.W_enc.T)

    @property
    def pre_activation_bias(self) -> Float[Tensor, " n_latents"]:
        """What is added to the encoder's product: b_enc, or zeros where ``respond`` takes that up."""
        return torch.zeros_like(self.b_enc) if "b_enc" in self.latent_parameters else self.b_enc

    def of(self, name: str, indices: Int[Tensor, " some"]) -> Float[Tensor, " some"]:
        """A latent parameter's numbers for these latents; differentiable, with a gradient summed in a fixed order."""
        return getattr(self, name).index_select(0, indices)

    @property
    def decoder_bias(self) -> Float[Tensor, " d_target"]:
        """b_pre, or a transcoder's b_dec."""
        return self.b_dec if self.is_transcoder else self.b_pre

    def offset(self, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "#batch d_target"]:
        """What a reconstruction holds beside the decoded latents: the decoder's bias, and the linear skip."""
        if not self.config.skip:
            return self.decoder_bias[None]
        return self.decoder_bias + (x - self.b_pre) @ self.W_skip

    def reconstruct(
        self, kept: Chosen, offset: Float[Tensor, "#batch d_target"] | None = None
    ) -> Float[Tensor, "batch d_target"]:
        """The preprocessed reconstruction; the offset is ``offset``'s, by default the decoder's bias."""
        values, indices, row_offsets = kept
        decoded = sparse_decode(values.to(self.W_dec.dtype), indices, self.W_dec, row_offsets)
        return decoded + (self.decoder_bias if offset is None else offset)

    @torch.no_grad()
    def encode(self, activations: Float[Tensor, "*tokens d_model"]) -> Codes:
        """Codes of raw activations, one row of codes a token. Leading dimensions are flattened in order."""
        flat = self._flatten(activations)
        pieces = [self._encode_piece(piece) for piece in flat.split(max(1, _DENSE_ELEMENTS // self.n_latents))]
        inputs, kept = zip(*pieces, strict=True)
        return Codes(
            *joined(kept),
            mean=torch.cat([piece.mean for piece in inputs]),
            norm=torch.cat([piece.norm for piece in inputs]),
            n_latents=self.n_latents,
            offset=torch.cat([self.offset(piece.x) for piece in inputs]) if self.config.skip else None,
        )

    @torch.no_grad()
    def reconstruct_codes(self, codes: Codes) -> Float[Tensor, "batch d_target"]:
        """The preprocessed reconstruction, in the space of training."""
        return self.reconstruct(Chosen(codes.values, codes.indices, codes.row_offsets), codes.offset)

    @torch.no_grad()
    def decode(self, codes: Codes) -> Float[Tensor, "batch d_target"]:
        """Raw activations from codes; preprocessing is undone with each token's own mean and norm."""
        return self.undo_preprocess(self.reconstruct_codes(codes), codes.mean, codes.norm)

    def undo_preprocess(
        self,
        reconstruction: Float[Tensor, "batch d_target"],
        mean: Float[Tensor, "batch ..."],
        norm: Float[Tensor, "batch ..."],
    ) -> Float[Tensor, "batch d_target"]:
        """Raw activations of preprocessed ones, given what was taken from the inputs."""
        if self.is_transcoder:
            return reconstruction * self.target_scale
        if len(self.widths.inputs) == 1:
            return undo_preprocess(reconstruction, mean, norm)
        parts = reconstruction.split(self.widths.inputs, dim=1)
        return torch.cat([undo_preprocess(part, mean[:, i], norm[:, i]) for i, part in enumerate(parts)], dim=1)

    @torch.no_grad()
    def forward(self, activations: Float[Tensor, "*tokens d_model"]) -> Float[Tensor, "*tokens d_target"]:
        """Raw activations, encoded and decoded, in the shape and dtype they came in."""
        decoded = self.decode(self.encode(activations))
        return decoded.reshape(*activations.shape[:-1], self.d_target).to(activations.dtype)

    @torch.no_grad()
    def intervene(
        self,
        activations: Float[Tensor, "*tokens d_model"],
        latents: Interventions,
        *,
        keep_error: bool = True,
        target: Float[Tensor, "*tokens d_target"] | None = None,
    ) -> Float[Tensor, "*tokens d_target"]:
        """Raw activations with some latents at other values: plus norm · Δz · W_dec[latent] for ``unit_norm``.

        The other latents keep theirs. A transcoder changes ``target``, what it should give for these activations.

        Args:
            keep_error: change the activations themselves, which keep what the reconstruction misses; otherwise the
                reconstruction.

        Raises:
            UserError: a latent or a strength is none: see ``value_changes``.
        """
        codes = self.encode(activations)
        changes = value_changes(codes, latents).to(self.W_dec.dtype) @ self.W_dec[list(latents)]
        changes = self.undo_preprocess(changes, torch.zeros_like(codes.mean), codes.norm)
        wanted = activations if target is None else target
        assert wanted.shape[-1] == self.d_target, "a transcoder changes its target"
        base = wanted.reshape(-1, self.d_target).to(changes) if keep_error else self.decode(codes)
        return (base + changes).reshape(wanted.shape)

    def _encode_piece(self, flat: Float[Tensor, "batch d_model"]) -> tuple[Preprocessed, Chosen]:
        inputs = self.preprocess(flat)
        inputs = Preprocessed(*(part.to(self.W_enc.dtype) for part in inputs))
        return inputs, self.keep(self.pre_activations(inputs.x))

    def _flatten(self, activations: Float[Tensor, "*tokens d_in"]) -> Float[Tensor, "batch d_in"]:
        if activations.shape[-1] != self.d_model:
            raise UserError(
                f"The activations are {activations.shape[-1]} wide and this autoencoder's d_model is {self.d_model}; "
                "give it activations from the hookpoint it was trained on (of a crosscoder all of them, side by side)."
            )
        return activations.reshape(-1, self.d_model)
