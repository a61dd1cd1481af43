"""The sparsity coefficient λ of architectures with a penalty: constant, or steered towards a wanted L0."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# What log λ follows: the sum over steps of log(L0 / target), and log(L0 / target) itself.
INTEGRAL, PROPORTIONAL = 0.01, 2.0
# A batch's share in the L0 that is steered by.
SHARE = 0.1


@dataclass(frozen=True)
class SparsityControl:
    """λ from step to step.

    Towards a target L0, a proportional-integral controller on logarithms: with the error e = log(L0 / target), kept
    within ±1, L0 being a running mean over about ten batches, each step multiplies λ by exp(0.01 · e + 2 · Δe). L0
    takes some hundred steps to follow λ: a wrong λ grows or shrinks by 1% a step, and is drawn back by up to e² while
    L0 comes near. On the bundled subject (4,096 latents, target 32) λ of every architecture is all but constant after
    200 steps, and L0 within a tenth of the target after 500, without overshooting. (Twice the integral part had
    JumpReLU's L0, whose thresholds move slowly, swing between 25 and 39 for a thousand steps.)
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
        change = error - bounded_log(before / self.target_l0) if before else 0.0
        self.coefficient.mul_(math.exp(INTEGRAL * error + PROPORTIONAL * change))

    def states(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"coefficient": self.coefficient, "l0": self.l0}


def bounded_log(ratio: float) -> float:
    """log(ratio), no further from zero than 1."""
    return math.log(min(math.e, max(1 / math.e, ratio)))


def new_control(coefficient: float | None, target_l0: float | None, first: float) -> SparsityControl:
    """A constant λ, or one that starts at ``first`` and moves towards a target."""
    start = first if coefficient is None else coefficient
    return SparsityControl(target_l0, *(torch.tensor(value, dtype=torch.float64) for value in (start, 0.0)))
