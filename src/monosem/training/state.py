"""What a step moves: parameters with their moments and averages, and the counters of silence."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor, nn

from monosem.ops.memory import Reused, empty_on_huge_pages
from monosem.ops.reference import Optimized


@dataclass(frozen=True)
class TrainingState:
    """The tensors that a step changes, in place."""

    parameters: dict[str, Optimized]
    """By name; those that are trained."""
    tokens_since_active: Int[Tensor, " n_latents"]
    dead_codes: Reused = field(default_factory=Reused)
    """Where AuxK's codes are written; they are no part of the state."""

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


@torch.no_grad()
def new_state(
    sae: nn.Module,
    n_latents: int,
    *,
    with_average: bool,
    rounded: tuple[str, ...] = (),
    moment_dtype: torch.dtype | None = None,
) -> TrainingState:
    """Moments, averages and counters at zero. The parameters move to where a step reads them fast.

    Args:
        rounded: parameters that need a bfloat16 copy.
        moment_dtype: of Adam's moments; by default the parameters'.
    """
    parameters: dict[str, Optimized] = {}
    for name, parameter in sae.named_parameters():
        parameter.data = _like(parameter).copy_(parameter)
        if parameter.requires_grad:
            parameters[name] = Optimized(
                weight=parameter.detach(),
                first_moment=_like(parameter, moment_dtype).zero_(),
                second_moment=_like(parameter, moment_dtype).zero_(),
                average=_like(parameter).zero_() if with_average else None,
                rounded=_like(parameter, torch.bfloat16).copy_(parameter) if name in rounded else None,
            )
    device = next(sae.parameters()).device
    return TrainingState(parameters, torch.zeros(n_latents, dtype=torch.int64, device=device))


def _like(tensor: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    return empty_on_huge_pages(tensor.shape, dtype or tensor.dtype, tensor.device)


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
