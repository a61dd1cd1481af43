"""The optimiser's step, the constraint, the average and the counters, each against its definition."""

import pytest
import torch
from torch import Tensor, nn

from monosem.ops.reference import (
    BETAS,
    EPSILON,
    AdamStep,
    Optimized,
    adam_step,
    normalize_rows,
    project_out_parallel_gradient,
    update_copies,
)
from monosem.training.dead_latents import count_activity, dead_mask
from monosem.training.schedules import default_dead_tokens, default_ema_tokens
from monosem.training.state import corrected_average, ema_decay, new_state


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_projected_gradient_is_orthogonal_to_its_row_and_else_unchanged() -> None:
    rows = torch.randn(11, 7, generator=seeded(), dtype=torch.float64)
    normalize_rows(rows)
    before = torch.randn(11, 7, generator=seeded(1), dtype=torch.float64)
    gradient = before.clone()
    project_out_parallel_gradient(gradient, rows)
    torch.testing.assert_close((gradient * rows).sum(1), torch.zeros(11, dtype=torch.float64))
    for i in range(11):
        torch.testing.assert_close(gradient[i], before[i] - (before[i] @ rows[i]) * rows[i])


def test_normalized_rows_have_unit_length_and_zero_rows_stay_zero() -> None:
    rows = torch.randn(5, 7, generator=seeded())
    rows[3] = 0
    normalize_rows(rows)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))


def test_adam_is_torchs_with_the_papers_settings() -> None:
    start = torch.randn(5, 3, generator=seeded(), dtype=torch.float64)
    ours = Optimized(start.clone(), torch.zeros_like(start), torch.zeros_like(start))
    theirs = nn.Parameter(start.clone())
    optimizer = torch.optim.Adam([theirs], lr=0.01, betas=(0.9, 0.999), eps=6.25e-10)
    for step in range(1, 6):
        gradient = torch.randn(5, 3, generator=seeded(step), dtype=torch.float64) * 1e-6
        adam_step(ours, gradient, AdamStep(0.01, step, 0.9))
        theirs.grad = gradient
        optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.detach(), rtol=1e-12, atol=0)
    torch.testing.assert_close(ours.second_moment, optimizer.state[theirs]["exp_avg_sq"], rtol=1e-12, atol=0)
    assert (BETAS, EPSILON) == ((0.9, 0.999), 6.25e-10)


def test_clipping_scales_the_gradient_that_adam_sees() -> None:
    gradient = torch.randn(5, generator=seeded(), dtype=torch.float64)
    scaled, by_hand = (Optimized(*torch.zeros(3, 5, dtype=torch.float64)) for _ in range(2))
    adam_step(scaled, gradient, AdamStep(0.1, 1, 0.9, gradient_scale=0.25))
    adam_step(by_hand, gradient * 0.25, AdamStep(0.1, 1, 0.9))
    assert all(torch.equal(a, b) for a, b in zip(scaled[:3], by_hand[:3], strict=True))


def test_only_what_is_trained_has_moments_and_only_what_is_asked_for_is_kept() -> None:
    model = nn.Linear(2, 3)
    model.bias.requires_grad_(False)
    state = new_state(model, 4, with_average=False, rounded=("weight",))
    assert list(state.parameters) == ["weight"]
    assert state.parameters["weight"].average is None
    assert state.states().keys() == {"first_moment", "second_moment", "counters"}
    rounded = state.parameters["weight"].rounded
    assert rounded is not None
    assert torch.equal(rounded, model.weight.bfloat16())


def test_the_corrected_average_is_the_weighted_mean_of_all_weights_so_far() -> None:
    history = [torch.randn(3, generator=seeded(step), dtype=torch.float64) for step in range(7)]
    decay = 0.8
    parameter = Optimized(*torch.zeros(4, 3, dtype=torch.float64))
    for steps, weights in enumerate(history, start=1):
        parameter.weight.copy_(weights)
        update_copies(parameter, decay)
        shares = [decay ** (steps - 1 - age) for age in range(steps)]
        expected: Tensor = sum(s * w for s, w in zip(shares, history, strict=False)) / sum(shares)  # type: ignore[assignment]
        torch.testing.assert_close(corrected_average(parameter, decay, steps), expected)


def test_after_one_step_the_average_is_that_steps_weights() -> None:
    parameter = Optimized(*torch.zeros(4, 3, dtype=torch.float64))
    parameter.weight.copy_(torch.randn(3, generator=seeded()))
    update_copies(parameter, 0.999)
    torch.testing.assert_close(corrected_average(parameter, 0.999, 1), parameter.weight)


def test_the_averages_horizon_is_in_tokens() -> None:
    assert ema_decay(1_000_000, 1000) == pytest.approx(0.999)
    assert ema_decay(1000, 1000) == 0
    assert default_ema_tokens(100_000_000, 1000) == 1_000_000
    assert default_ema_tokens(2_000_000, 4096) == 200_000
    assert default_ema_tokens(2000, 1000) == 1000


def test_silence_grows_by_the_batchs_tokens_and_ends_where_a_token_found_the_latent_active() -> None:
    silent = torch.tensor([5, 5, 0, 7])
    count_activity(silent, 3, torch.tensor([True, False, False, True]))
    assert silent.tolist() == [0, 8, 3, 0]


def test_dead_is_counted_in_tokens_and_includes_the_threshold() -> None:
    assert dead_mask(torch.tensor([0, 99, 100, 101]), 100).tolist() == [False, False, True, True]
    assert default_dead_tokens(1_000_000_000) == 10_000_000
    assert default_dead_tokens(2_000_000) == 40_000
