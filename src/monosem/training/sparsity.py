"""The sparsity coefficient λ of architectures with a penalty: constant, or steered towards a wanted L0."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# Where a steered λ starts; the errors are measured in logarithms, so only its order of magnitude matters.
FIRST_COEFFICIENT = 1e-3
# How much of log(L0 / target) each step adds to log λ, and how much of its change.
INTEGRAL, PROPORTIONAL = 0.02, 0.5
# A batch's share in the L0 that is steered by.
SHARE = 0.1


@dataclass(frozen=True)
class SparsityControl:
    """λ from step to step.

    Towards a target L0, a proportional-integral controller on logarithms: with the error e = log(L0 / target), L0 being
    a running mean over about ten batches, each step multiplies λ by exp(0.02 · e + 0.5 · Δe). A wrong λ thus grows or
    shrinks by a constant factor a step, and an L0 that is already falling holds it back. Errors beyond a factor e count
    as that.
    """

    target_l0: float | None
    coefficient: Tensor
    """λ, of the next step; float64, no dimensions."""
    l0: Tensor
    """The running L0; zero before the first step."""

    def follow(self, l0: float) -> None:
        """Take up a step's L0, and move λ if there is a target."""
        before = float(self.l0)
        now = l0 if before == 0 else before + SHARE * (l0 - before)
        self.l0.fill_(now)
        if self.target_l0 is None:
            return
        error = bounded_log(now / self.target_l0)
        change = bounded_log(now / before) if before else 0.0
        self.coefficient.mul_(math.exp(INTEGRAL * error + PROPORTIONAL * change))

    def states(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"coefficient": self.coefficient, "l0": self.l0}


def bounded_log(ratio: float) -> float:
    """log(ratio), no further from zero than 1."""
    return math.log(min(math.e, max(1 / math.e, ratio)))


def new_control(coefficient: float | None, target_l0: float | None) -> SparsityControl:
    """A constant λ, or one that starts at FIRST_COEFFICIENT and moves towards a target."""
    first = FIRST_COEFFICIENT if coefficient is None else coefficient
    return SparsityControl(target_l0, *(torch.tensor(value, dtype=torch.float64) for value in (first, 0.0)))
