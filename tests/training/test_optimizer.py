"""The optimiser's step, the constraint, the average and the counters, each against its definition."""

import pytest
import torch
from torch import Tensor, nn

from monosem.training.dead_latents import count_activity, dead_mask
from monosem.training.ema import corrected_ema, ema_decay, update_ema
from monosem.training.optimizer import BETAS, EPSILON, new_adam, normalize_rows, project_out_parallel_gradient
from monosem.training.schedules import default_dead_tokens, default_ema_tokens


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


def test_adam_is_the_textbooks_with_the_papers_epsilon() -> None:
    parameter = nn.Parameter(torch.randn(5, 3, generator=seeded(), dtype=torch.float64))
    by_hand = parameter.detach().clone()
    optimizer = new_adam({"weight": parameter}, 0.01)
    first, second = torch.zeros_like(by_hand), torch.zeros_like(by_hand)
    for step in range(1, 6):
        gradient = torch.randn(5, 3, generator=seeded(step), dtype=torch.float64) * 1e-6
        parameter.grad = gradient.clone()
        optimizer.step()
        first = BETAS[0] * first + (1 - BETAS[0]) * gradient
        second = BETAS[1] * second + (1 - BETAS[1]) * gradient**2
        corrected = (second / (1 - BETAS[1] ** step)).sqrt() + EPSILON
        by_hand = by_hand - 0.01 * first / (1 - BETAS[0] ** step) / corrected
    torch.testing.assert_close(parameter.detach(), by_hand)
    assert (BETAS, EPSILON) == ((0.9, 0.999), 6.25e-10)


def test_parameters_without_gradient_are_left_alone() -> None:
    frozen = nn.Parameter(torch.ones(2), requires_grad=False)
    optimizer = new_adam({"weight": nn.Parameter(torch.ones(2)), "bias": frozen}, 0.1)
    assert [parameter is frozen for parameter in optimizer.param_groups[0]["params"]] == [False]


def test_the_corrected_average_is_the_weighted_mean_of_all_weights_so_far() -> None:
    history = [torch.randn(3, generator=seeded(step), dtype=torch.float64) for step in range(7)]
    decay, average = 0.8, {"weight": torch.zeros(3, dtype=torch.float64)}
    for steps, weights in enumerate(history, start=1):
        update_ema(average, {"weight": weights}, decay)
        shares = [decay ** (steps - 1 - age) for age in range(steps)]
        expected: Tensor = sum(s * w for s, w in zip(shares, history, strict=False)) / sum(shares)  # type: ignore[assignment]
        torch.testing.assert_close(corrected_ema(average, decay, steps)["weight"], expected)
    # One step in, the average is that step's weights: neither a step late nor pulled to zero.
    first = {"weight": torch.zeros(3, dtype=torch.float64)}
    update_ema(first, {"weight": history[0]}, 0.999)
    torch.testing.assert_close(corrected_ema(first, 0.999, 1)["weight"], history[0])


def test_the_averages_horizon_is_in_tokens() -> None:
    assert ema_decay(1_000_000, 1000) == pytest.approx(0.999)
    assert ema_decay(1000, 1000) == 0
    assert default_ema_tokens(100_000_000, 1000) == 1_000_000
    assert default_ema_tokens(2_000_000, 4096) == 200_000
    assert default_ema_tokens(2000, 1000) == 1000


def test_a_kept_value_that_the_relu_zeroed_does_not_count_as_fired() -> None:
    silent = torch.tensor([5, 5, 5, 5, 5])
    values = torch.tensor([[0.3, 0.0], [0.1, 0.0], [0.2, 0.4]])
    indices = torch.tensor([[0, 1], [0, 2], [0, 3]])
    count_activity(silent, values, indices)
    assert silent.tolist() == [0, 8, 8, 0, 8]


def test_dead_is_counted_in_tokens_and_includes_the_threshold() -> None:
    assert dead_mask(torch.tensor([0, 99, 100, 101]), 100).tolist() == [False, False, True, True]
    assert default_dead_tokens(1_000_000_000) == 10_000_000
    assert default_dead_tokens(2_000_000) == 40_000
