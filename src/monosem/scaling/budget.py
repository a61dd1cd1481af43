"""What training an autoencoder costs: floating-point operations by part, in two accounts, and the bytes a run holds.

*Dense-equivalent* is what scaling laws count, and what a loss is drawn against: matrix products alone, as if latents
were dense. With n latents, inputs d wide and targets t wide (t = d but for transcoders), a token costs

    encoder              2 · n · d    W_enc x
    decoder              2 · n · t    z W_dec
    latent_gradients     2 · n · t    W_dec times the gradient of the reconstruction
    decoder_gradient     2 · n · t    the gradient of W_dec
    encoder_gradient     2 · n · d    the gradient of W_enc
    input_gradient       2 · n · d    the gradient of the pre-activations times W_enc, by which b_pre learns

which is 6 · n · (d + t), the usual six a weight (Kaplan et al. 2020). The last part belongs to it because b_pre is
subtracted before encoding; without it there would be 4 · n · d + 6 · n · t, five a weight where t = d. The decoder's
three parts are paid for every term of the loss: twice by Multi-TopK, for each prefix's own rows by Matryoshka; Gated's
frozen decoder has no gradient of its own. A linear skip adds 6 · d · t. The account knows no k, no L0 and no dead
latents, so AuxK is not in it; nor are biases, nonlinearities, the losses, Adam, and the subject model.

*Executed* is what the fused step does, as the CPU's kernels do it: the encoder's product is dense, all else touches the
latents that a token chose, and some parts are paid once a step for every weight. A multiplication, an addition, a
subtraction, a division and a root count one each, a fused multiply-add two. Not counted, for these are no operations on
floating-point numbers: choosing latents, which is comparing, and rounding to bfloat16, which is done on integers. Left
out, for they are small: the bias that is added while choosing (about one in 2 · d of the product), and what is done to
every entry of ``[batch, d_model]``, of the chosen values, and of AuxK's ``[dead, tokens]`` (each time one in 8 · d of
its products).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch

from monosem.errors import UserError
from monosem.sae.architectures import new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.penalised import GatedAutoencoder
from monosem.sae.site import Widths
from monosem.sae.topk import MatryoshkaAutoencoder
from monosem.training.auxiliary import padded
from monosem.training.losses import LossSettings
from monosem.training.trainer import TrainingConfig, require_fitting

# A weight's moments: one product with the gradient's scale, 3 and 4 for the moments; 6 to move it.
ADAM = 14
# average += share · (weight − average)
AVERAGE = 3


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of some tokens' training."""

    parts: Mapping[str, int | float]
    """By part, for all the tokens together."""
    tokens: int

    @property
    def total(self) -> int | float:
        """Of all parts."""
        return sum(self.parts.values())

    @property
    def per_token(self) -> float:
        """The total's share of a token."""
        return self.total / self.tokens


class _Term(NamedTuple):
    """A reconstruction that the loss has an error of."""

    rows: int
    """How many rows of W_dec it may take."""
    trains_decoder: bool = True


def dense_equivalent_flops(config: AutoencoderConfig, widths: int | Widths, tokens: int = 1) -> Flops:
    """The dense-equivalent account of so many tokens; a whole run's is that of ``TrainingConfig.tokens``.

    Args:
        widths: as ``new_autoencoder`` takes them.

    Raises:
        UserError: there is no such autoencoder.
    """
    sae = _without_weights(config, widths)
    terms = _terms(sae)
    encoder = 2 * sae.n_latents * sae.d_model
    decoder = 2 * sae.d_target * sum(term.rows for term in terms)
    of_a_token = {
        "encoder": encoder,
        "decoder": decoder,
        "latent_gradients": decoder,
        "decoder_gradient": 2 * sae.d_target * sum(term.rows for term in terms if term.trains_decoder),
        "encoder_gradient": encoder,
        "input_gradient": encoder,
        "skip": _skip(sae),
    }
    return Flops({name: tokens * flops for name, flops in of_a_token.items()}, tokens)


def executed_flops(
    config: AutoencoderConfig,
    widths: int | Widths,
    training: TrainingConfig,
    *,
    active: int | float | Sequence[int | float] | None = None,
    dead: int = 0,
) -> Flops:
    """The executed account of one fused step, of ``training.batch_size`` tokens.

    ``exact_candidates`` are the chosen pre-activations once more, in float32, for those that decided may be rounded: a
    lower bound, for bfloat16 has the kernels look at some more (at k = 32 about one in ten), BatchTopK and Matryoshka
    at all that are above a cautious floor. ``input_gradient`` supposes that some token of the batch chose each latent.

    Args:
        active: how many latents a token has other than zero: of the whole code, or a number for every term of the loss
            (k and 4k of Multi-TopK; of Matryoshka's prefixes, the whole dictionary first; of Gated's magnitudes and
            gates). By default k, or the target L0. One number stands for all terms, of which Matryoshka's prefixes may
            have fewer; of Multi-TopK it stands for k.
        dead: how many latents are dead, at whose codes AuxK's four products are dense.

    Raises:
        UserError: there is no such autoencoder or run, it does not take the fused step, or ``active`` or ``dead`` are
            missing or out of range.
    """
    sae = _without_weights(config, widths)
    _require_fused(sae, training)
    if not 0 <= dead <= sae.n_latents:
        raise UserError(f"dead={dead} is not between 0 and n_latents={sae.n_latents}.")
    actives = _actives(sae, training, active)
    size, d_model, batch_size = sae.W_dec.numel(), sae.d_model, training.batch_size
    chosen = max(actives) * batch_size
    parameters = sum(parameter.numel() for parameter in sae.parameters() if parameter.requires_grad)
    has_auxk = dead > 0 and not sae.has_penalty and training.aux_coefficient > 0
    # AuxK's gradients come as rows, to be added to the dead latents' own.
    added = dead * (2 * d_model + 1) if has_auxk else 0
    gradients = _gradients(sae, actives, batch_size)
    # No gradient is stored: for its norm all of it is made, squared, and made again.
    clipping = sum(gradients.values()) + added + 2 * (2 * size + sae.n_latents)
    parts = {
        "encoder": 2 * size * batch_size,
        "exact_candidates": (2 * d_model + 1) * chosen,
        "decoder": 2 * d_model * sum(actives) * batch_size,
        "latent_gradients": 2 * d_model * len(actives) * chosen,
        **gradients,
        "auxk": 8 * padded(dead) * d_model * _aux_tokens(training) + added if has_auxk else 0,
        "clipping": 0 if training.clip_norm is None else clipping,
        "adam": ADAM * parameters,
        "unit_rows": 3 * size + 2 * sae.n_latents,
        "average": 0 if training.ema_tokens == 0 else AVERAGE * parameters,
        "skip": _skip(sae) * batch_size,
    }
    return Flops(parts, batch_size)


def training_bytes(
    config: AutoencoderConfig, widths: int | Widths, training: TrainingConfig, *, rounds_products: bool = False
) -> dict[str, int]:
    """What a run holds from step to step, in bytes by part; a step's own matrices, AuxK's among them, come on top.

    Args:
        rounds_products: whether the fused step's kernels keep a bfloat16 copy of W_enc (``ops.sparse.Kernels``).

    Raises:
        UserError: there is no such autoencoder.
    """
    sae = _without_weights(config, widths)
    trained = [parameter for parameter in sae.parameters() if parameter.requires_grad]
    numbers = sum(parameter.numel() for parameter in trained)
    return {
        "weights": sum(parameter.nbytes for parameter in sae.parameters()),
        "moments": 2 * numbers * (2 if training.moments == "bfloat16" else 4),
        "average": sum(parameter.nbytes for parameter in trained) if training.ema_tokens != 0 else 0,
        "rounded": 2 * sae.W_enc.numel() if rounds_products else 0,
        "counters": 8 * sae.n_latents,
    }


def _without_weights(config: AutoencoderConfig, widths: int | Widths) -> Autoencoder:
    """An autoencoder whose parameters have shapes and take no memory."""
    with torch.device("meta"):
        return new_autoencoder(config, widths)


def _terms(sae: Autoencoder) -> tuple[_Term, ...]:
    """The loss's terms, in the order in which the architecture gives them."""
    if isinstance(sae, MatryoshkaAutoencoder):
        return tuple(_Term(round(share * sae.n_latents)) for share in reversed(sae.config.prefixes))
    if isinstance(sae, GatedAutoencoder):
        return _Term(sae.n_latents), _Term(sae.n_latents, trains_decoder=False)
    return (_Term(sae.n_latents),) * (2 if sae.config.multi_topk else 1)


def _require_fused(sae: Autoencoder, training: TrainingConfig) -> None:
    """Refuse a run that is none, or does not take the fused step."""
    require_fitting(sae.config.architecture, sae.has_penalty, training)
    if training.step != "fused" or training.end_to_end != "none" or sae.W_enc.shape != sae.W_dec.shape:
        raise UserError(
            f"step='{training.step}', end_to_end='{training.end_to_end}' and widths {sae.d_model} → {sae.d_target} "
            "make no fused step, the only one whose executed operations are counted; ask for dense_equivalent_flops."
        )


def _actives(
    sae: Autoencoder, training: TrainingConfig, active: int | float | Sequence[int | float] | None
) -> tuple[int | float, ...]:
    """For every term, how many latents a token has other than zero."""
    terms = _terms(sae)
    if active is None:
        active = training.target_l0 if sae.has_penalty else sae.config.k
    if active is None:
        raise UserError(
            f"active is missing: architecture '{sae.config.architecture}' has no k and the run no target_l0; give how "
            "many latents a token has active."
        )
    most = [term.rows for term in terms]
    if isinstance(active, Sequence):
        actives = tuple(active)
    elif sae.config.multi_topk:
        actives = (active, 4 * active)
    else:
        actives = (active, *(min(active, rows) for rows in most[1:]))
    if len(actives) != len(most) or not all(0 <= count <= rows for count, rows in zip(actives, most, strict=True)):
        raise UserError(
            f"active={active} does not give each term of the loss from 0 to as many latents as it has: {most}."
        )
    return actives


def _gradients(sae: Autoencoder, actives: Sequence[int | float], batch_size: int) -> dict[str, int | float]:
    """What the gradients of the large parameters cost the batch, without AuxK's."""
    trained = sum(count for term, count in zip(_terms(sae), actives, strict=True) if term.trains_decoder)
    size = sae.W_dec.numel()
    return {
        "decoder_gradient": 2 * sae.d_model * trained * batch_size,
        "encoder_gradient": (2 * sae.d_model + 1) * max(actives) * batch_size,
        "input_gradient": 2 * size,
        "projection": 4 * size,
    }


def _aux_tokens(training: TrainingConfig) -> int:
    """How many of a batch's tokens AuxK sees."""
    losses = LossSettings(variance=1.0, aux_coefficient=training.aux_coefficient, k_aux=1, aux_share=training.aux_share)
    return losses.aux_tokens(training.batch_size)


def _skip(sae: Autoencoder) -> int:
    """A linear skip's products a token: forward, the gradients of W_skip and of the inputs."""
    return 6 * sae.d_model * sae.d_target if sae.config.skip else 0
