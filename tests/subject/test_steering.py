"""Steering a subject: logits against ones computed by hand, positions, nesting, and what is sampled."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.errors import UserError
from monosem.subject.generation import Sampling, continuations, next_token_probabilities
from monosem.subject.model import SubjectModel

HOOKPOINT = "transformer.h.2"


class Steering:
    """Stands for an autoencoder of three latents, whose encoder is a plain product and whose decoder its transpose."""

    def __init__(self, width: int) -> None:
        self.W = torch.linalg.qr(torch.randn(width, 3, generator=torch.Generator().manual_seed(3)))[0].T

    def intervene(
        self, activations: Tensor, latents: dict[int, float], *, keep_error: bool = True, target: Tensor | None = None
    ) -> Tensor:
        base = activations if target is None else target
        moved = sum(strength * self.W[latent] for latent, strength in latents.items())
        return (base if keep_error else activations @ self.W.T @ self.W) + moved


@pytest.fixture
def subject(make_model: Callable[..., Any], make_tokenizer: Callable[..., Any]) -> SubjectModel:
    return SubjectModel(model=make_model(), tokenizer=make_tokenizer(), name="tiny")


@pytest.fixture
def steering(subject: SubjectModel) -> Steering:
    return Steering(subject.d_model)


def test_the_logits_of_a_steered_pass_are_those_computed_by_hand(
    subject: SubjectModel, steering: Steering, tokens: Tensor
) -> None:
    residual = subject.capture(tokens, [HOOKPOINT])[HOOKPOINT] + 2 * steering.W[1] - 3 * steering.W[0]
    model = subject.model
    by_hand = model.lm_head(model.transformer.ln_f(residual))
    with subject.steer(HOOKPOINT, steering, {1: 2.0, 0: -3.0}):
        steered = subject.logits(tokens)
    torch.testing.assert_close(steered, by_hand)
    assert not torch.allclose(steered, subject.logits(tokens))


def test_without_the_error_the_reconstruction_is_steered(
    subject: SubjectModel, steering: Steering, tokens: Tensor
) -> None:
    residual = subject.capture(tokens, [HOOKPOINT])[HOOKPOINT] @ steering.W.T @ steering.W + steering.W[2]
    model = subject.model
    with subject.steer(HOOKPOINT, steering, {2: 1.0}, keep_error=False):
        torch.testing.assert_close(subject.logits(tokens), model.lm_head(model.transformer.ln_f(residual)))


def test_positions_outside_pass_bit_for_bit(subject: SubjectModel, steering: Steering, tokens: Tensor) -> None:
    plain = subject.logits(tokens)
    with subject.steer(HOOKPOINT, steering, {1: 2.0}, positions=slice(3, 5)):
        steered = subject.logits(tokens)
    differs = (steered != plain).any(dim=2)
    assert differs[:, 3:5].all()
    assert not differs[:, :3].any()
    assert not differs[:, 5:].any()  # after the last block nothing looks back


def test_a_transcoder_reads_at_one_place_and_changes_another(
    subject: SubjectModel, steering: Steering, tokens: Tensor
) -> None:
    target = "transformer.h.2.mlp"
    captured = subject.capture(tokens, ["transformer.h.1", target])
    with subject.steer("transformer.h.1", steering, {0: 1.0}, target=target, keep_error=False):
        seen = subject.capture(tokens, ["transformer.h.1", target])
    assert torch.equal(seen["transformer.h.1"], captured["transformer.h.1"])
    expected = captured["transformer.h.1"] @ steering.W.T @ steering.W + steering.W[0]
    torch.testing.assert_close(seen[target], expected)


def test_a_target_before_what_is_read_is_refused_in_every_pass(
    subject: SubjectModel, steering: Steering, tokens: Tensor
) -> None:
    with subject.steer(HOOKPOINT, steering, {0: 1.0}, target="transformer.h.0"):
        for _ in range(2):
            with pytest.raises(UserError, match=f"comes to target=transformer.h.0 before {HOOKPOINT}"):
                subject.logits(tokens)


def test_nested_blocks_add_up_and_leave_nothing_behind(
    subject: SubjectModel, steering: Steering, tokens: Tensor
) -> None:
    plain = subject.logits(tokens)
    with subject.steer(HOOKPOINT, steering, {0: 1.0}), subject.steer(HOOKPOINT, steering, {1: 2.0}):
        nested = subject.logits(tokens)
    with subject.steer(HOOKPOINT, steering, {0: 1.0, 1: 2.0}):
        torch.testing.assert_close(nested, subject.logits(tokens))
    assert torch.equal(subject.logits(tokens), plain)


def test_the_next_tokens_probabilities_are_the_softmax_of_the_last_logits(
    subject: SubjectModel, tokens: Tensor
) -> None:
    expected = subject.logits(tokens[:1])[0, -1].double().exp()
    torch.testing.assert_close(next_token_probabilities(subject, tokens[0]).double(), expected / expected.sum())


def test_greedy_continuations_take_the_likeliest_token_each_time(subject: SubjectModel, tokens: Tensor) -> None:
    text = tokens[0].tolist()
    for _ in range(4):
        text.append(int(subject.logits(torch.tensor([text]))[0, -1].argmax()))
    greedy = continuations(subject, tokens[0], Sampling(length=4, samples=1, temperature=0.0))
    expected = text[len(tokens[0]) :]
    assert greedy == [expected[: expected.index(2)] if 2 in expected else expected]


def test_samples_follow_the_models_probabilities(subject: SubjectModel, tokens: Tensor) -> None:
    """4,000 draws of one token: each count within five standard deviations of its expectation."""
    drawn = continuations(subject, tokens[0], Sampling(length=1, samples=4000, temperature=0.7))
    counts = torch.bincount(torch.tensor([each[0] for each in drawn if each]), minlength=64).double()
    p = (subject.logits(tokens[:1])[0, -1].double() / 0.7).softmax(dim=0)
    p[2] = 0  # end of text, which is cut away
    spread = (4000 * p * (1 - p)).sqrt()
    assert ((counts - 4000 * p).abs() <= 5 * spread + 1).all()
    assert (counts > 0).sum() > 5


def test_the_same_seed_draws_the_same_and_another_another(subject: SubjectModel, tokens: Tensor) -> None:
    one, again = (continuations(subject, tokens[0], Sampling(length=6)) for _ in range(2))
    assert one == again
    assert one != continuations(subject, tokens[0], Sampling(length=6, seed=1))


def test_texts_longer_than_the_model_reads_are_refused(subject: SubjectModel, tokens: Tensor) -> None:
    with pytest.raises(UserError, match="have 67 tokens and tiny reads at most 64"):
        continuations(subject, tokens[0], Sampling(length=60))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": -1}, "length=-1 is below 0"),
        ({"samples": 0}, "samples=0 is below 1"),
        ({"temperature": -0.1}, "temperature=-0.1 is no number from 0 up"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": 0.0}, "samples=3 with temperature=0 would be the same"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Sampling(**settings)
