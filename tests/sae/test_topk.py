"""BatchTopK and Matryoshka: what a batch keeps, what a token alone keeps, what the prefixes reconstruct."""

import pytest
import torch
from torch import Tensor

from monosem.sae.architectures import new_autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.topk import BatchTopKAutoencoder, largest_of_batch, smallest_positive

N_LATENTS, D_MODEL, BATCH, K = 12, 5, 6, 3


def random_autoencoder(architecture: str, **settings: object) -> BatchTopKAutoencoder:
    config = AutoencoderConfig(architecture=architecture, n_latents=N_LATENTS, k=K, preprocess="none", **settings)  # type: ignore[arg-type]
    sae = new_autoencoder(config, D_MODEL).double()
    assert isinstance(sae, BatchTopKAutoencoder)
    generator = torch.Generator().manual_seed(0)
    for parameter in sae.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return sae


def batch() -> Tensor:
    return torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_batch_keeps_its_largest_wherever_they_are() -> None:
    pre = torch.tensor([[9.0, 8.0, 7.0, 1.0], [6.0, 0.5, 0.25, 0.1], [-1.0, -2.0, -3.0, -4.0]])
    assert largest_of_batch(pre, 1).tolist() == [[True, True, True, False], [False] * 4, [False] * 4]
    assert int(largest_of_batch(pre, 4).sum()) == 12
    assert int(largest_of_batch(pre, 2).sum()) == 6


def test_kept_values_below_zero_are_zero_and_the_smallest_positive_is_noted() -> None:
    sae = random_autoencoder("batch_topk")
    sae.b_enc.data.fill_(-3.0)
    passed = sae.training_pass(batch())
    pre = sae.pre_activations(batch())
    top = pre.flatten().topk(BATCH * K).values
    assert int(passed.active.sum()) == int((top > 0).sum()) < BATCH * K
    torch.testing.assert_close(passed.running["threshold"], top[top > 0].min())
    assert smallest_positive(torch.zeros(2, 2)).isinf()


def test_at_inference_a_token_keeps_what_reaches_the_threshold_whatever_its_company() -> None:
    sae = random_autoencoder("batch_topk")
    sae.threshold.data.fill_(0.8)
    pre = torch.tensor([[0.7999, 0.8, 3.0, -1.0]] * 2 + [[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
    pre = torch.nn.functional.pad(pre, (0, N_LATENTS - 4), value=-1.0)
    values, indices, row_offsets = sae.keep(pre)
    assert values.tolist() == [3.0, 0.8, 3.0, 0.8]
    assert indices.tolist() == [2, 1, 2, 1]
    assert row_offsets.tolist() == [0, 2, 4, 4]
    sae.threshold.data.fill_(-5.0)  # never a negative latent
    assert (sae.keep(pre).values > 0).all()


@pytest.mark.parametrize("prefixes", [(0.25, 0.5, 1.0), (1.0,), (1 / 12, 1.0)])
def test_each_prefix_reconstructs_from_what_was_kept_inside_it(prefixes: tuple[float, ...]) -> None:
    sae = random_autoencoder("matryoshka", prefixes=prefixes)
    z = torch.relu(sae.restrict(sae.pre_activations(batch())))
    found = sae.training_pass(batch()).reconstructions
    assert [weight for weight, _ in found] == [1 / len(prefixes)] * len(prefixes)
    for (_, reconstruction), share in zip(found, reversed(prefixes), strict=True):
        end = round(share * N_LATENTS)
        torch.testing.assert_close(reconstruction, z[:, :end] @ sae.W_dec[:end] + sae.b_pre)
