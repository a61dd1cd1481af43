"""A training run's state, and the way it moves: batch in, state changed, report out."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.errors import UserError
from monosem.ops.reference import AdamStep, normalize_rows
from monosem.ops.sparse import fused_kernels
from monosem.sae.autoencoder import Autoencoder
from monosem.training.checkpoint import Checkpoint
from monosem.training.fused_step import fused_step
from monosem.training.losses import EndToEndLoss, LossSettings, default_k_aux, squared_error
from monosem.training.schedules import (
    auto_learning_rate,
    default_dead_tokens,
    default_ema_tokens,
    default_warmup_tokens,
    warmup_factor,
)
from monosem.training.sparsity import new_control
from monosem.training.state import corrected_average, ema_decay, new_state
from monosem.training.step import StepReport, StepSettings, train_step


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """The training recipe. Everything that counts progress counts tokens."""

    tokens: int = 2_000_000
    """How many tokens to train on."""
    batch_size: int = 2048
    """Tokens a step."""
    learning_rate: float | Literal["auto"] = "auto"
    """Adam's learning rate, constant after the warm-up; 'auto' follows the rule fitted for topk, times the
    architecture's multiple."""
    warmup_tokens: int | None = None
    """The rate rises in a straight line over these tokens; by default min(1000 steps, a tenth of the run)."""
    clip_norm: float | None = None
    """Clip the gradient to this global norm."""
    ema_tokens: int | None = None
    """Horizon of the weights' average, 0 for none; by default min(1000 steps, a tenth of the run)."""
    step: Literal["fused", "eager"] = "fused"
    """How a step is computed: by kernels where the device has them, or by plain PyTorch."""
    moments: Literal["float32", "bfloat16"] = "float32"
    """Precision of Adam's moments; bfloat16 is rounded stochastically and halves their memory."""
    end_to_end: Literal["none", "kl", "cross_entropy"] = "none"
    """Train on the subject's own loss with the reconstruction in place, too: its KL divergence from the unmodified
    model, or its cross-entropy of the next token. Plain PyTorch; costs passes through the subject."""
    end_to_end_coefficient: float = 1.0
    """Weight of the end-to-end loss, which is in nats a token."""
    reconstruction_coefficient: float = 1.0
    """Weight of the reconstruction beside the end-to-end loss; 0: the end-to-end loss alone."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK; 0 leaves it out."""
    k_aux: int | None = None
    """Dead latents AuxK keeps; by default the largest power of two up to d_model / 2."""
    aux_share: float = 1.0
    """Share of each batch's tokens that AuxK is computed on."""
    dead_tokens: int | None = None
    """A latent is dead after this many tokens without being active; by default min(10 M, a fiftieth of the run)."""
    sparsity_coefficient: float | None = None
    """λ of the penalty, for architectures that have one (relu, prolu, gated, jumprelu)."""
    target_l0: float | None = None
    """Steer λ so that this many latents a token are active, instead of giving it."""
    shuffle_batches: int = 8
    """Size of the shuffle buffer, in batches (at least 8)."""
    checkpoint_every: int = 1_000_000
    """Tokens between checkpoints."""
    keep_checkpoints: int = 3
    """How many checkpoints to keep."""
    max_bad_batches: int = 5
    """Stop after so many batches in a row with a non-finite input or loss."""
    seed: int = 0
    """The run's one seed."""

    def __post_init__(self) -> None:
        counts = ("tokens", "batch_size", "checkpoint_every", "keep_checkpoints", "max_bad_batches")
        optional = ("k_aux", "dead_tokens")
        for name in counts + tuple(name for name in optional if getattr(self, name) is not None):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} is below 1; give a positive number.")
        if self.tokens < self.batch_size:
            raise UserError(
                f"tokens={self.tokens} is less than one batch (batch_size={self.batch_size}); "
                "raise tokens or lower batch_size."
            )
        if self.shuffle_batches < 8:
            raise UserError(
                f"shuffle_batches={self.shuffle_batches} is below 8, too few to mix documents; give 8 or more."
            )
        if isinstance(self.learning_rate, str):
            if self.learning_rate != "auto":
                raise UserError(f"learning_rate='{self.learning_rate}' is neither 'auto' nor a number.")
        elif not 0 < self.learning_rate < float("inf"):
            raise UserError(f"learning_rate={self.learning_rate} is not positive; give a positive number or 'auto'.")
        if not 0 <= self.aux_coefficient < float("inf"):
            raise UserError(f"aux_coefficient={self.aux_coefficient} is negative; give 0 (off) or a positive number.")
        self._require_end_to_end()
        for name, unset in (("k_aux", None), ("aux_share", 1.0)):
            value = getattr(self, name)
            if self.aux_coefficient == 0 and value != unset:
                raise UserError(f"{name}={value} would not be used, for aux_coefficient is 0; leave one of them out.")
        for name in ("sparsity_coefficient", "target_l0"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name}={value} is not positive; give a positive number.")
        if self.sparsity_coefficient is not None and self.target_l0 is not None:
            raise UserError(
                f"target_l0={self.target_l0} steers the sparsity coefficient, so sparsity_coefficient="
                f"{self.sparsity_coefficient} would not be used; leave one of them out."
            )
        if not 0 < self.aux_share <= 1:
            raise UserError(f"aux_share={self.aux_share} is not a share of tokens; give a number above 0, at most 1.")
        if self.warmup_tokens is not None and not 0 <= self.warmup_tokens <= self.tokens:
            raise UserError(f"warmup_tokens={self.warmup_tokens} is not between 0 (none) and tokens={self.tokens}.")
        if self.clip_norm is not None and not 0 < self.clip_norm < float("inf"):
            raise UserError(f"clip_norm={self.clip_norm} is not positive; give a positive number or leave it out.")
        if self.step not in ("fused", "eager"):
            raise UserError(f"Unknown step '{self.step}'. Known: eager, fused.")
        if self.ema_tokens and self.ema_tokens < self.batch_size:
            raise UserError(
                f"ema_tokens={self.ema_tokens} is less than one batch (batch_size={self.batch_size}); raise it, "
                "or give 0 for no average."
            )

    def _require_end_to_end(self) -> None:
        if self.end_to_end not in ("none", "kl", "cross_entropy"):
            raise UserError(f"Unknown end_to_end '{self.end_to_end}'. Known: cross_entropy, kl, none.")
        coefficients = ("end_to_end_coefficient", "reconstruction_coefficient")
        for name in coefficients:
            value = getattr(self, name)
            if not 0 <= value < float("inf"):
                raise UserError(f"{name}={value} is negative; give 0 (off) or a positive number.")
            if self.end_to_end == "none" and value != 1:
                raise UserError(f"{name}={value} would not be used, for end_to_end is none; leave one of them out.")
        if self.end_to_end_coefficient == 0:
            raise UserError("end_to_end_coefficient=0 leaves out the end-to-end loss; say --end-to-end none instead.")

    @property
    def steps(self) -> int:
        """Whole batches in the run."""
        return self.tokens // self.batch_size

    def resolved_learning_rate(self, n_latents: int, rate_multiple: float) -> float:
        """The number that 'auto' stands for, in an architecture of this ``rate_multiple``."""
        if isinstance(self.learning_rate, str):
            return rate_multiple * auto_learning_rate(n_latents, self.batch_size, self.tokens)
        return self.learning_rate


class Progress(NamedTuple):
    """Where a run stands. A skipped batch counts as served, not as a step."""

    batches: int = 0
    steps: int = 0
    skipped: int = 0
    bad_in_a_row: int = 0


class Trainer:
    """One autoencoder in training: weights, moments, average, counters."""

    def __init__(self, sae: Autoencoder, config: TrainingConfig, variance: float) -> None:
        """
        Args:
            variance: mean ‖y − ȳ‖² of an initial sample of what is to be reconstructed; the main loss divides by it.

        Raises:
            UserError: settings do not fit the architecture.
        """
        require_fitting(sae.config.architecture, sae.has_penalty, config)
        self.sae = sae
        self.config = config
        self.learning_rate = config.resolved_learning_rate(sae.n_latents, sae.rate_multiple)
        default_warmup = default_warmup_tokens(config.tokens, config.batch_size)
        self.warmup_tokens = default_warmup if config.warmup_tokens is None else config.warmup_tokens
        self.settings = StepSettings(
            losses=LossSettings(
                variance=variance,
                aux_coefficient=0.0 if sae.has_penalty else config.aux_coefficient,
                k_aux=config.k_aux or default_k_aux(sae.d_model),
                aux_share=config.aux_share,
                reconstruction_coefficient=config.reconstruction_coefficient,
                end_to_end_coefficient=config.end_to_end_coefficient,
            ),
            dead_tokens=config.dead_tokens or default_dead_tokens(config.tokens),
            ema_decay=ema_decay(
                config.ema_tokens or default_ema_tokens(config.tokens, config.batch_size), config.batch_size
            ),
            clip_norm=config.clip_norm,
        )
        normalize_rows(sae.W_dec.data)
        # The kernels' rows have one width, and their losses are squared errors.
        can_fuse = sae.W_enc.shape == sae.W_dec.shape and config.end_to_end == "none"
        self.kernels = fused_kernels(sae.W_dec) if config.step == "fused" and can_fuse else None
        rounded = ("W_enc",) if self.kernels is not None and self.kernels.rounds_products() else ()
        self.state = new_state(
            sae,
            sae.n_latents,
            with_average=config.ema_tokens != 0,
            rounded=rounded,
            moment_dtype=torch.bfloat16 if config.moments == "bfloat16" else None,
        )
        self.parameters = {name: parameter.detach() for name, parameter in sae.named_parameters()}
        self.sparsity = None
        if sae.has_penalty:
            self.sparsity = new_control(config.sparsity_coefficient, config.target_l0, sae.first_coefficient)
        self.progress = Progress()

    @property
    def tokens(self) -> int:
        """Tokens served so far, skipped batches included."""
        return self.progress.batches * self.config.batch_size

    def step(
        self,
        activations: Float[Tensor, "batch d_model"],
        target: Float[Tensor, "batch d_target"] | None = None,
        end_to_end: EndToEndLoss | None = None,
    ) -> StepReport | None:
        """Train on one batch of raw activations; None (and a count) if its input or loss is not finite.

        Args:
            target: a transcoder's, raw.
            end_to_end: the subject's loss with a raw reconstruction in place; as the configuration asks.
        """
        assert (end_to_end is not None) == (self.config.end_to_end != "none")
        batches, steps, skipped, bad = self.progress
        report = None
        if _is_finite(activations) and (target is None or _is_finite(target)):
            x, y = self.sae.training_pair(activations, target)
            arguments = (self.sae, self.state, x, self.settings, self._adam_step(), self.sparsity_coefficient, y)
            if self.kernels is not None:
                report = fused_step(self.kernels, *arguments)
            else:
                report = train_step(
                    *arguments, None if end_to_end is None else self._of_preprocessed(end_to_end, activations)
                )
        if report is None or not report.is_finite:
            self.progress = Progress(batches + 1, steps, skipped + 1, bad + 1)
            return None
        if self.sparsity is not None:
            self.sparsity.follow(report.l0)
        self.progress = Progress(batches + 1, steps + 1, skipped, 0)
        return report

    def _of_preprocessed(self, loss: EndToEndLoss, activations: Float[Tensor, "batch d_model"]) -> EndToEndLoss:
        """A loss of raw reconstructions as one of preprocessed ones."""
        _, mean, norm = self.sae.preprocess(activations)
        return lambda reconstruction: loss(self.sae.undo_preprocess(reconstruction, mean, norm))

    @property
    def sparsity_coefficient(self) -> float:
        """The next step's λ: it rises with the learning rate's warm-up; zero where there is no penalty."""
        if self.sparsity is None:
            return 0.0
        step = self.progress.steps + 1
        return float(self.sparsity.coefficient) * warmup_factor(step * self.config.batch_size, self.warmup_tokens)

    def _adam_step(self) -> AdamStep:
        step = self.progress.steps + 1
        warmth = warmup_factor(step * self.config.batch_size, self.warmup_tokens)
        return AdamStep(self.learning_rate * warmth, step, self.settings.ema_decay)

    def averaged_weights(self) -> dict[str, Tensor]:
        """The weights to evaluate and export: the corrected average, or the weights themselves where there is none."""
        weights = {name: parameter.clone() for name, parameter in self.parameters.items()}
        if self.progress.steps:
            for name, parameter in self.state.parameters.items():
                weights[name] = corrected_average(parameter, self.settings.ema_decay, self.progress.steps)
        return weights

    @torch.no_grad()
    def take_averaged_weights(self) -> None:
        """End training: put the averaged weights in the place of the autoencoder's own."""
        for name, value in self.averaged_weights().items():
            self.parameters[name].copy_(value)

    @torch.no_grad()
    def averaged_autoencoder(self) -> Autoencoder:
        """A copy of the autoencoder with the averaged weights, while training goes on."""
        averaged = copy.deepcopy(self.sae)
        weights = self.averaged_weights()
        for name, parameter in averaged.named_parameters():
            parameter.copy_(weights[name])
        return averaged

    def states(self) -> dict[str, Mapping[str, Tensor]]:
        """All tensors of the run, by name, for a checkpoint."""
        sparsity = {} if self.sparsity is None else {"sparsity": self.sparsity.states()}
        return {"weights": self.parameters, **self.state.states(), **sparsity}

    def record(self) -> dict[str, Any]:
        """All numbers of the run, for a checkpoint: the position in the data is ``batches``."""
        return {**self.progress._asdict(), "variance": self.settings.losses.variance}

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up a checkpoint's state."""
        states, record = checkpoint
        for name, parameter in self.parameters.items():
            parameter.copy_(states["weights"][name])
        self.state.restore(states)
        if self.sparsity is not None:
            for name, tensor in self.sparsity.states().items():
                tensor.copy_(states["sparsity"][name])
        self.progress = Progress(*(record[field] for field in Progress._fields))


def require_fitting(name: str, has_penalty: bool, config: TrainingConfig) -> None:
    """Refuse settings that the architecture would not use, and a penalty without a coefficient.

    Raises:
        UserError: names the setting.
    """
    if name == "gated" and config.reconstruction_coefficient == 0:
        raise UserError("reconstruction_coefficient=0 leaves the gates of architecture 'gated' without a gradient.")
    of_penalty = {field: getattr(config, field) for field in ("sparsity_coefficient", "target_l0")}
    given = {field: value for field, value in of_penalty.items() if value is not None}
    if has_penalty:
        if not given:
            raise UserError(f"A penalty makes architecture '{name}' sparse; give target_l0 or sparsity_coefficient.")
        auxk = {"k_aux": None, "aux_share": 1.0, "aux_coefficient": 1 / 32}
        given = {field: getattr(config, field) for field, unset in auxk.items() if getattr(config, field) != unset}
    for field, value in given.items():
        reason = "has no AuxK" if has_penalty else "is made sparse by k"
        raise UserError(f"{field}={value} would not be used, for architecture '{name}' {reason}; leave it out.")


def _is_finite(x: Tensor) -> bool:
    """Whether every entry is: NaN and infinity both reach the least or the greatest one."""
    return all(bool(extreme.isfinite()) for extreme in x.aminmax())


def sample_variance(x: Float[Tensor, "tokens d_model"]) -> float:
    """Mean ‖x − x̄‖² of preprocessed activations."""
    x = x.cpu().double()
    return float(squared_error(x - x.mean(dim=0)))
