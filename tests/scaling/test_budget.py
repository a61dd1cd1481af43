"""The accounts of compute against counters: torch's on dense products, counting numbers in the kernels."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from monosem.errors import UserError
from monosem.ops import cpu, reference
from monosem.ops.reference import AdamStep, Chosen
from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder, Term
from monosem.sae.config import AutoencoderConfig
from monosem.sae.site import Widths
from monosem.sae.topk import TopKAutoencoder
from monosem.scaling.budget import dense_equivalent_flops, executed_flops, training_bytes
from monosem.training.auxiliary import padded
from monosem.training.fused_step import fused_step
from monosem.training.losses import LossSettings
from monosem.training.state import new_state
from monosem.training.step import StepSettings
from monosem.training.trainer import Trainer, TrainingConfig

BATCH, N_LATENTS, D_MODEL, K = 23, 31, 7, 3

VARIANTS: list[dict[str, Any]] = [
    *({"architecture": name} for name in sorted(ARCHITECTURES)),
    {"architecture": "topk", "multi_topk": True},
    {"architecture": "topk", "encoder_bias": False},
    {"architecture": "matryoshka", "prefixes": (0.3, 1.0)},
]


def config_with(**settings: Any) -> AutoencoderConfig:
    own_k = {"k": K} if "k" in ARCHITECTURES[settings["architecture"]].settings else {}
    return AutoencoderConfig(n_latents=N_LATENTS, preprocess="none", **own_k, **settings)


def new_sae(config: AutoencoderConfig, widths: int | Widths, dtype: torch.dtype) -> Autoencoder:
    sae, generator = new_autoencoder(config, widths).to(dtype), torch.Generator().manual_seed(1)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    reference.normalize_rows(sae.W_dec.data)
    return sae


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def by_variant(config: dict[str, Any]) -> str:
    return "-".join(map(str, config.values()))


# The dense-equivalent account.


def dense_reconstructions(sae: Autoencoder, x: Tensor) -> list[Tensor]:
    """Every term's, by products with whole matrices; of Matryoshka with the prefix's."""
    pre_activations, n, config = sae.pre_activations(x), sae.n_latents, sae.config
    if isinstance(sae, TopKAutoencoder):
        widths = (config.k, 4 * config.k) if config.multi_topk else (config.k,)
        masks = [torch.zeros_like(pre_activations, dtype=torch.bool) for _ in widths]
        for mask, width in zip(masks, widths, strict=True):
            mask.scatter_(1, pre_activations.topk(width).indices, True)
        terms: Sequence[Term] = [Term(1.0, pre_activations.relu() * mask) for mask in masks]
    else:
        terms = sae.respond(sae.restrict(pre_activations), torch.arange(n), len(x)).terms
    ends = [n] * len(terms)
    if config.architecture == "matryoshka":
        ends = [round(share * n) for share in reversed(config.prefixes)]
    results: list[Tensor] = []
    whole_offset = sae.offset(x)
    for term, end in zip(terms, ends, strict=True):
        W_dec, offset = sae.W_dec[:end], whole_offset
        if not term.trains_decoder:
            W_dec, offset = W_dec.detach(), offset.detach()
        results.append(term.latents[:, :end] @ W_dec + offset)
    return results


def counted_dense(sae: Autoencoder, trained: Sequence[str] | None = None) -> tuple[int, int]:
    """FLOPs forward and backward of a dense step in which all parameters, or ``trained`` alone, have gradients."""
    for name, parameter in sae.named_parameters():
        parameter.requires_grad_(trained is None or name in trained)
    x, y = random(BATCH, sae.d_model), random(BATCH, sae.d_target)
    with FlopCounterMode(display=False) as forward:
        loss = torch.stack([(y - each).square().sum() for each in dense_reconstructions(sae, x)]).sum()
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_the_dense_step_of_the_counts_is_the_architectures(config: dict[str, Any]) -> None:
    sae, x = new_sae(config_with(**config), D_MODEL, torch.float64), random(BATCH, D_MODEL)
    for found, (_, expected) in zip(dense_reconstructions(sae, x), sae.training_pass(x).reconstructions, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("widths", "settings"),
    [
        (D_MODEL, {}),
        (Widths((3, 5, 2)), {"crosscoder": True}),
        (Widths((D_MODEL,), 11), {}),
        (Widths((D_MODEL,), 11), {"skip": True}),
    ],
    ids=["autoencoder", "crosscoder", "transcoder", "skip"],
)
@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_the_dense_account_is_what_torch_counts(
    config: dict[str, Any], widths: int | Widths, settings: dict[str, Any]
) -> None:
    settings = config_with(**config, **settings)
    account = dense_equivalent_flops(settings, widths, BATCH)
    forward, backward = counted_dense(new_sae(settings, widths, torch.float64))
    parts = account.parts
    assert forward == parts["encoder"] + parts["decoder"] + parts["skip"] / 3
    assert forward + backward == account.total == BATCH * account.per_token


@pytest.mark.parametrize("widths", [D_MODEL, Widths((D_MODEL,), 11)], ids=["autoencoder", "transcoder"])
@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_each_part_of_the_dense_account_is_what_torch_counts_for_it(
    config: dict[str, Any], widths: int | Widths
) -> None:
    settings = config_with(**config)
    parts, sae = dense_equivalent_flops(settings, widths, BATCH).parts, new_sae(settings, widths, torch.float64)
    # Where W_dec alone is trained no gradient reaches the latents; all others' go through them.
    assert counted_dense(sae, ["W_dec"])[1] == parts["decoder_gradient"]
    assert counted_dense(sae, ["W_enc"])[1] == parts["encoder_gradient"] + parts["latent_gradients"]
    assert counted_dense(sae, ["b_pre"])[1] == parts["input_gradient"] + parts["latent_gradients"]
    assert counted_dense(sae, ["W_enc", "b_pre"])[1] == (
        parts["encoder_gradient"] + parts["input_gradient"] + parts["latent_gradients"]
    )


def test_a_plain_autoencoder_costs_six_flops_a_weight_and_token() -> None:
    for architecture in sorted(set(ARCHITECTURES) - {"gated", "matryoshka"}):
        flops = dense_equivalent_flops(AutoencoderConfig(architecture=architecture, n_latents=64), 10)
        assert flops.total == 6 * 2 * 64 * 10


def test_further_reconstructions_cost_by_their_gradients() -> None:
    gated = dense_equivalent_flops(AutoencoderConfig(architecture="gated", n_latents=64), 10)
    assert gated.total == (6 + 2) * 2 * 64 * 10  # a decoder and its latents' gradient: 4 of the 6 that a decoder has
    nested = AutoencoderConfig(architecture="matryoshka", n_latents=64, prefixes=(0.25, 0.5, 1.0))
    assert dense_equivalent_flops(nested, 10).total == 6 * 10 * (64 + 16 + 32 + 64)


def test_the_dense_account_knows_no_k() -> None:
    few, many = (dense_equivalent_flops(AutoencoderConfig(n_latents=64, k=k), 10) for k in (1, 64))
    assert few == many


# The executed account.


class Elementwise(TorchDispatchMode):
    """The shapes of what torch computes with, entry by entry or adding entries up."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags:
            self.shapes |= {tuple(each.shape) for each in (*args, result) if isinstance(each, Tensor)}
        return result


class FusedRun(NamedTuple):
    """A fused step as it was counted."""

    sae: Autoencoder
    active: tuple[float, ...]
    """Of each term, latents a token other than zero."""
    chosen: int
    """In the batch."""
    found: int
    """Different ones among these."""
    products: int
    """FLOPs of torch's matrix products."""
    elementwise: set[tuple[int, ...]]
    """Shapes of the rest of what torch computes with."""


def run_fused(
    kernels: Any, config: AutoencoderConfig, training: TrainingConfig, dead: int, widths: int | Widths = D_MODEL
) -> FusedRun:
    """One step, of float32 weights, whose chosen latents are all positive."""
    sae = new_sae(config, widths, torch.float32)
    if config.architecture == "topk":
        sae.b_enc.data += 20
    state = new_state(sae, N_LATENTS, with_average=training.ema_tokens != 0)
    state.tokens_since_active[:dead] = 1
    losses = LossSettings(
        variance=3.7,
        aux_coefficient=0.0 if sae.has_penalty else training.aux_coefficient,
        k_aux=2,
        aux_share=training.aux_share,
    )
    settings = StepSettings(losses=losses, dead_tokens=1, ema_decay=0.9, clip_norm=training.clip_norm)
    of_terms: list[Chosen] = []

    class Recorded:
        def __getattr__(self, name: str) -> Any:
            return getattr(kernels, name)

        def subtract_decoded(self, target: Tensor, latents: Chosen, W_dec: Tensor) -> tuple[Tensor, Tensor]:
            of_terms.append(latents)
            return kernels.subtract_decoded(target, latents, W_dec)

    x = random(BATCH, sae.d_model).float()
    with FlopCounterMode(display=False) as counter, Elementwise() as elementwise:
        report = fused_step(Recorded(), sae, state, x, settings, AdamStep(1e-2, 3, 0.9), 0.01, x.flip(1))  # type: ignore[arg-type]
    assert report.is_finite
    active = tuple(float(latents.values.count_nonzero()) / BATCH for latents in of_terms)
    indices = of_terms[0].indices
    return FusedRun(sae, active, len(indices), len(indices.unique()), counter.get_total_flops(), elementwise.shapes)


def training_with(sae: str, **settings: Any) -> TrainingConfig:
    penalty = {"sparsity_coefficient": 0.01} if ARCHITECTURES[sae].has_penalty else {}
    return TrainingConfig(batch_size=BATCH, tokens=BATCH, **penalty, **settings)


# JumpReLU's candidates reach below its thresholds: how many is not in the account.
EXECUTED = [config for config in VARIANTS if config["architecture"] != "jumprelu"]


@pytest.mark.parametrize("clip_norm", [None, 0.05])
@pytest.mark.parametrize("dead", [0, 5])
@pytest.mark.parametrize("config", EXECUTED, ids=by_variant)
def test_the_executed_account_is_what_the_kernels_count(
    tally: Any, config: dict[str, Any], dead: int, clip_norm: float | None
) -> None:
    settings, training = config_with(**config), training_with(config["architecture"], clip_norm=clip_norm)
    run = run_fused(cpu, settings, training, dead)
    parts = executed_flops(settings, D_MODEL, training, active=run.active, dead=dead).parts
    passes = 1 if clip_norm is None else 2
    has_auxk = dead > 0 and not run.sae.has_penalty
    rows_of_auxk = dead * (2 * D_MODEL + 1) if has_auxk else 0
    assert run.chosen == pytest.approx(max(run.active) * BATCH)
    assert run.products == parts["encoder"] + parts["auxk"] - rows_of_auxk

    exact = tally.of("choose") + tally.of("keep_above")
    if config["architecture"] in ("batch_topk", "matryoshka"):
        assert exact > parts["exact_candidates"]
    else:
        assert exact == pytest.approx(parts["exact_candidates"])
    assert 2 * tally.kinds["subtract_rows", "subtract"] == pytest.approx(parts["decoder"])
    assert 2 * tally.kinds["subtract_rows", "add"] == pytest.approx(parts["latent_gradients"])
    assert tally.of("subtract_rows") == pytest.approx(parts["decoder"] + parts["latent_gradients"])

    assert tally.kinds["gradient_of", "subtract"] * 4 == passes * parts["projection"]
    weights = parts["decoder_gradient"] + parts["encoder_gradient"]
    assert tally.of("gradient_of") == pytest.approx(passes * (weights + rows_of_auxk + parts["projection"]))
    assert tally.of("add_row") * N_LATENTS == passes * parts["input_gradient"] * run.found
    again = tally.of("square_sums") + tally.of("gradient_of") / 2 + parts["input_gradient"]
    assert parts["clipping"] == pytest.approx(0 if clip_norm is None else again)


@pytest.mark.parametrize("ema_tokens", [None, 0])
@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_what_a_step_pays_for_every_weight_is_what_the_kernels_count(
    tally: Any, config: dict[str, Any], ema_tokens: int | None
) -> None:
    settings, training = config_with(**config), training_with(config["architecture"], ema_tokens=ema_tokens)
    sae = run_fused(cpu, settings, training, 0).sae
    parts = executed_flops(settings, D_MODEL, training, active=1).parts
    outside = [
        parameter
        for name, parameter in sae.named_parameters()
        if parameter.requires_grad and (name in ("b_pre", *sae.latent_parameters))
    ]
    small = sum(parameter.numel() for parameter in outside)
    assert tally.of("adam_in_float32") == parts["adam"] - 14 * small
    assert tally.of("copy_row") == (0 if ema_tokens == 0 else parts["average"] - 3 * small)
    assert (parts["average"] == 0) == (ema_tokens == 0)
    assert tally.of("move_latents") == parts["unit_rows"]


@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_what_counts_its_operations_moves_the_weights_as_the_reference_does(tally: Any, config: dict[str, Any]) -> None:
    settings, training = config_with(**config), training_with(config["architecture"], clip_norm=0.05)
    found, expected = (run_fused(kernels, settings, training, 5) for kernels in (cpu, reference))
    assert found.active == expected.active
    for parameter, want in zip(found.sae.parameters(), expected.sae.parameters(), strict=True):
        torch.testing.assert_close(parameter, want, rtol=1e-4, atol=1e-4)
    assert tally.of("gradient_of") > 0


def test_a_skips_three_products_are_executed_and_counted() -> None:
    config, training = config_with(architecture="topk", skip=True), training_with("topk")
    widths = Widths((D_MODEL,), D_MODEL)
    run = run_fused(cpu, config, training, 0, widths)
    parts = executed_flops(config, widths, training).parts
    assert run.products == parts["encoder"] + parts["skip"]
    assert parts["skip"] == dense_equivalent_flops(config, widths, BATCH).parts["skip"] == 6 * BATCH * D_MODEL**2


def test_auxk_pays_for_its_share_of_the_tokens() -> None:
    config = config_with(architecture="topk")
    for aux_share in (1.0, 0.3):
        training = training_with("topk", aux_share=aux_share)
        run = run_fused(cpu, config, training, 4)
        parts = executed_flops(config, D_MODEL, training, dead=4).parts
        assert run.products - parts["encoder"] == parts["auxk"] - 4 * (2 * D_MODEL + 1)
        assert run.products - parts["encoder"] == 8 * padded(4) * D_MODEL * round(aux_share * BATCH)
    assert executed_flops(config, D_MODEL, training_with("topk", aux_coefficient=0.0), dead=4).parts["auxk"] == 0


@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_outside_the_kernels_nothing_is_done_entry_by_entry_to_weights_or_all_pre_activations(
    config: dict[str, Any],
) -> None:
    training = training_with(config["architecture"], clip_norm=0.05)
    shapes = run_fused(cpu, config_with(**config), training, 0).elementwise
    assert (BATCH, D_MODEL) in shapes
    assert not shapes & {(N_LATENTS, D_MODEL), (D_MODEL, N_LATENTS), (BATCH, N_LATENTS), (N_LATENTS, BATCH)}


def test_the_number_of_active_latents_has_its_defaults() -> None:
    training = training_with("topk")

    def decoder(config: AutoencoderConfig, training: TrainingConfig = training, **counts: Any) -> float:
        return executed_flops(config, D_MODEL, training, **counts).parts["decoder"] / (2 * D_MODEL * BATCH)

    assert decoder(config_with(architecture="topk")) == K
    assert decoder(config_with(architecture="topk", multi_topk=True)) == 5 * K
    assert decoder(config_with(architecture="topk", multi_topk=True), active=2) == 5 * 2
    assert decoder(config_with(architecture="topk"), active=1.5) == 1.5
    nested = config_with(architecture="matryoshka", prefixes=(0.05, 0.5, 1.0))
    assert decoder(nested) == K + K + 2  # a twentieth of 31 latents are two
    assert decoder(nested, active=(3, 2, 1.5)) == 6.5
    steered = TrainingConfig(batch_size=BATCH, tokens=BATCH, target_l0=2.5)
    assert decoder(config_with(architecture="relu"), steered) == 2.5
    assert decoder(config_with(architecture="gated"), steered) == 5


@pytest.mark.parametrize(
    ("config", "training", "counts", "message"),
    [
        ({"architecture": "relu"}, {}, {}, "active is missing"),
        ({"architecture": "topk"}, {}, {"active": 32}, "active=32"),
        ({"architecture": "topk"}, {}, {"active": -1.0}, "active=-1"),
        ({"architecture": "gated"}, {}, {"active": (1, 2, 3)}, "active="),
        ({"architecture": "topk"}, {}, {"dead": 32}, "dead=32"),
        ({"architecture": "topk"}, {"step": "eager"}, {}, "step='eager'"),
        ({"architecture": "topk"}, {"end_to_end": "kl"}, {}, "end_to_end='kl'"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    config: dict[str, Any], training: dict[str, Any], counts: dict[str, Any], message: str
) -> None:
    settings = training_with(config["architecture"], **training)
    with pytest.raises(UserError, match=message):
        executed_flops(config_with(**config), D_MODEL, settings, **counts)


def test_a_transcoder_of_two_widths_has_no_executed_account() -> None:
    with pytest.raises(UserError, match=r"widths 7 → 11"):
        executed_flops(config_with(architecture="topk"), Widths((D_MODEL,), 11), training_with("topk"))


# Memory.


@pytest.mark.parametrize("settings", [{}, {"ema_tokens": 0}, {"moments": "bfloat16"}], ids=str)
@pytest.mark.parametrize("widths", [D_MODEL, Widths((D_MODEL,), 11)], ids=["autoencoder", "transcoder"])
@pytest.mark.parametrize("config", VARIANTS, ids=by_variant)
def test_the_bytes_are_those_of_what_a_trainer_keeps(
    config: dict[str, Any], widths: int | Widths, settings: dict[str, Any]
) -> None:
    configured = config_with(**config)
    training = training_with(config["architecture"], **settings)
    trainer = Trainer(new_sae(configured, widths, torch.float32), training, variance=1.0)
    rounded = [one.rounded for one in trainer.state.parameters.values() if one.rounded is not None]
    kept = {name: sum(tensor.nbytes for tensor in tensors.values()) for name, tensors in trainer.states().items()}
    assert training_bytes(configured, widths, training, rounds_products=bool(rounded)) == {
        "weights": kept["weights"],
        "moments": kept["first_moment"] + kept["second_moment"],
        "average": kept.get("ema", 0),
        "rounded": sum(tensor.nbytes for tensor in rounded),
        "counters": kept["counters"],
    }


def test_a_rounded_copy_of_the_encoder_takes_two_bytes_a_weight() -> None:
    config, training = config_with(architecture="topk"), training_with("topk")
    with_copy, without = (training_bytes(config, D_MODEL, training, rounds_products=copy) for copy in (True, False))
    assert with_copy["rounded"] - without["rounded"] == 2 * N_LATENTS * D_MODEL
    assert {**with_copy, "rounded": 0} == without
