"""Preprocessing: each kind against its definition, and undone exactly."""

import pytest
import torch

from monosem.sae.preprocess import PREPROCESSES, preprocess, undo_preprocess

RAW = torch.randn(13, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9 + 4


def test_unit_norm_removes_the_tokens_own_mean_and_length() -> None:
    x, mean, norm = preprocess(RAW, "unit_norm")
    for token in range(len(RAW)):
        centered = RAW[token] - RAW[token].sum() / 7
        length = sum(float(value) ** 2 for value in centered) ** 0.5
        torch.testing.assert_close(x[token], centered / length)
        assert float(mean[token]) == pytest.approx(float(RAW[token].sum()) / 7)
        assert float(norm[token]) == pytest.approx(length)


def test_layer_norm_divides_by_the_unbiased_deviation() -> None:
    x, _, _ = preprocess(RAW, "layer_norm")
    torch.testing.assert_close(x, (RAW - RAW.mean(1, keepdim=True)) / (RAW.std(1, keepdim=True, correction=1) + 1e-5))


@pytest.mark.parametrize("kind", PREPROCESSES)
def test_undoing_gives_the_raw_activations_back(kind: str) -> None:
    torch.testing.assert_close(undo_preprocess(*preprocess(RAW, kind)), RAW)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", PREPROCESSES)
def test_a_constant_vector_becomes_finite(kind: str) -> None:
    raw = torch.full((2, 7), 3.0)
    inputs = preprocess(raw, kind)  # type: ignore[arg-type]
    assert inputs.x.isfinite().all()
    torch.testing.assert_close(undo_preprocess(*inputs), raw)


def test_half_precision_activations_are_normalised_in_float32() -> None:
    raw = (RAW * 100).bfloat16()
    assert preprocess(raw, "unit_norm").x.dtype == torch.float32
    torch.testing.assert_close(preprocess(raw, "unit_norm").x.norm(dim=1), torch.ones(13))
