"""The exponential moving average of the weights, with Adam's bias correction; evaluations and exports use it.

The average starts at zero, so after t steps it holds 1 − decayᵗ of the weight it should; dividing by that makes the
first average the first weights. Its decoder rows are means of unit vectors, so only nearly unit: they stay as they are.
"""

from collections.abc import Mapping

import torch
from torch import Tensor


def ema_decay(horizon_tokens: int, batch_size: int) -> float:
    """The decay a step that averages over ``horizon_tokens``."""
    return max(0.0, 1 - batch_size / horizon_tokens)


@torch.no_grad()
def update_ema(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float) -> None:
    """Move the running average one step, in place, after the optimiser's step and the constraint."""
    for name, value in average.items():
        value.lerp_(weights[name], 1 - decay)


def corrected_ema(average: Mapping[str, Tensor], decay: float, steps: int) -> dict[str, Tensor]:
    """The average with its start at zero divided out, after ``steps`` ≥ 1 steps."""
    correction = 1 - decay**steps
    return {name: value / correction for name, value in average.items()}
