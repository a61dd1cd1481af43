"""The checks of shapes are on in these tests, and where there is no shape nothing is wrapped."""

import jaxtyping
import numpy as np
import pytest
import torch

from monosem.laws.fitting import log_values
from monosem.ops.reference import sparse_decode
from monosem.sae.autoencoder import Autoencoder
from monosem.training.schedules import auto_learning_rate


def test_a_shape_that_is_not_the_signatures_is_told() -> None:
    indices, weight = torch.zeros(2, 3, dtype=torch.int64), torch.randn(5, 4)
    assert sparse_decode(torch.ones(2, 3), indices, weight).shape == (2, 4)
    with pytest.raises(jaxtyping.TypeCheckError, match="latent_indices"):
        sparse_decode(torch.ones(2, 3), indices[:, :2], weight)


def test_shapes_within_an_alias_are_told() -> None:
    with pytest.raises(jaxtyping.TypeCheckError, match="terms"):
        log_values([np.zeros(3)], np.zeros((1, 2)))


def test_methods_are_checked_and_what_has_no_shape_is_not_wrapped() -> None:
    assert hasattr(Autoencoder.encode, "__wrapped__")
    assert not hasattr(auto_learning_rate, "__wrapped__")
