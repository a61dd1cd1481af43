"""What a step moves: parameters with their moments and averages, and the counters of silence."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from monosem.ops.reference import Optimized


@dataclass(frozen=True)
class TrainingState:
    """The tensors that a step changes, in place."""

    parameters: dict[str, Optimized]
    """By name; those that are trained."""
    tokens_since_active: Int[Tensor, " n_latents"]

    def states(self) -> dict[str, dict[str, Tensor]]:
        """Moments, averages and counters by name, for a checkpoint."""
        parameters = self.parameters
        averages = {name: one.average for name, one in parameters.items() if one.average is not None}
        return {
            "first_moment": {name: one.first_moment for name, one in parameters.items()},
            "second_moment": {name: one.second_moment for name, one in parameters.items()},
            "counters": {"tokens_since_active": self.tokens_since_active},
            **({"ema": averages} if averages else {}),
        }

    def restore(self, saved: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Take up what ``states`` gave, and renew the rounded copies of the weights."""
        for state, tensors in self.states().items():
            for name, tensor in tensors.items():
                tensor.copy_(saved[state][name])
        for one in self.parameters.values():
            if one.rounded is not None:
                one.rounded.copy_(one.weight)


def new_state(
    sae: nn.Module,
    n_latents: int,
    *,
    with_average: bool,
    rounded: tuple[str, ...] = (),
    moment_dtype: torch.dtype | None = None,
) -> TrainingState:
    """Moments, averages and counters at zero.

    Args:
        rounded: parameters that need a bfloat16 copy.
        moment_dtype: of Adam's moments; by default the parameters'.
    """
    parameters = {
        name: Optimized(
            weight=parameter.detach(),
            first_moment=torch.zeros_like(parameter, dtype=moment_dtype),
            second_moment=torch.zeros_like(parameter, dtype=moment_dtype),
            average=torch.zeros_like(parameter) if with_average else None,
            rounded=parameter.detach().bfloat16() if name in rounded else None,
        )
        for name, parameter in sae.named_parameters()
        if parameter.requires_grad
    }
    device = next(sae.parameters()).device
    return TrainingState(parameters, torch.zeros(n_latents, dtype=torch.int64, device=device))


def ema_decay(horizon_tokens: int, batch_size: int) -> float:
    """The decay a step that averages over ``horizon_tokens``."""
    return max(0.0, 1 - batch_size / horizon_tokens)


def corrected_average(parameter: Optimized, decay: float, steps: int) -> Tensor:
    """The running average with its start at zero divided out, after ``steps`` ≥ 1 steps; the weight if there is none.

    After t steps the average holds 1 − decayᵗ of the weight it should. Its decoder rows are means of unit vectors, so
    only nearly unit: they stay as they are.
    """
    if parameter.average is None:
        return parameter.weight.clone()
    return parameter.average / (1 - decay**steps)
