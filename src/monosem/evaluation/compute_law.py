"""What a subject's family of models pays for a loss: L(C) = L∞ + (C / C₁)^−b, with C the FLOPs of training.

By it a loss becomes the compute at which the family reaches that loss (Gao et al. 2024, §4.1): a subject that reads on
from reconstructions is as good as a smaller one, trained with so much less. The law is an input: points of (compute,
loss), or coefficients. Points have to be measured on the same text, with as many tokens of context, as the evaluation.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float64
from torch import Tensor

from monosem.errors import UserError
from monosem.laws.fit import fit_law
from monosem.laws.forms import IRREDUCIBLE
from monosem.subject.builtin import MODEL_DIRECTORY

FEWEST_POINTS = 4
# The builtin subject's laws, by tokens of context; made by scripts/compute_law.py.
BUILTIN_LAWS = MODEL_DIRECTORY / "compute_law.json"


class ComputeLaw(NamedTuple):
    """The coefficients, and what they were fitted on."""

    irreducible: float
    """L∞, nats a token."""
    scale: float
    """C₁, FLOPs: where the loss is one nat above the irreducible."""
    exponent: float
    """b."""
    points: tuple[tuple[float, float], ...] = ()
    """Compute and loss of the models that it was fitted on, by compute."""

    def loss(self, compute: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """L(C)."""
        return self.irreducible + (compute / self.scale) ** -self.exponent

    def compute(self, loss: Float64[Tensor, "..."]) -> Float64[Tensor, "..."]:
        """The C at which the family reaches a loss; NaN at or below the irreducible one."""
        above = (loss - self.irreducible).where(loss > self.irreducible, torch.nan)
        return self.scale * above ** (-1 / self.exponent)


def compute_equivalent(
    law: ComputeLaw, unmodified: Float64[Tensor, "..."], modified: Float64[Tensor, "..."]
) -> Float64[Tensor, "..."]:
    """The share of the subject's compute at which its family has the modified loss.

    The whole is what the law gives for the unmodified loss, not the subject's own compute: so it is 1 where nothing is
    lost, wherever the subject lies beside the law and however hard the evaluated text happens to be.
    """
    return law.compute(modified) / law.compute(unmodified)


def fit_compute_law(points: Sequence[tuple[float, float]]) -> ComputeLaw:
    """Least squares of log L with a robust loss, from many starts.

    Raises:
        UserError: there are too few points, or the loss does not fall with compute.
    """
    if len({compute for compute, _ in points}) < FEWEST_POINTS:
        raise UserError(f"A law of compute needs {FEWEST_POINTS} points of different compute, not {len(points)}.")
    if any(not (0 < value < float("inf")) for point in points for value in point):
        raise UserError("A law of compute needs points of positive compute and loss.")
    points = sorted(points)
    compute, loss = np.array(points).T
    if np.polyfit(np.log(compute), np.log(loss), 1)[0] >= 0:
        raise UserError("The points of a law of compute do not fall: the loss is to decrease with compute.")
    found = fit_law(IRREDUCIBLE, compute, y=loss, samples=0).parameters
    irreducible, scale, exponent = (found[name].value for name in ("irreducible", "scale", "exponent"))
    assert irreducible is not None and scale is not None and exponent is not None
    return ComputeLaw(irreducible, scale, exponent, tuple(points))


def builtin_compute_law(context_length: int) -> ComputeLaw | None:
    """That of the builtin subject and its siblings, if it was measured with so many tokens of context."""
    law = json.loads(BUILTIN_LAWS.read_bytes()).get(str(context_length))
    return None if law is None else law_of(law, str(BUILTIN_LAWS))


def load_compute_law(path: Path) -> ComputeLaw:
    """Read a law from JSON: ``{"points": [[compute, loss], ...]}``, or its coefficients by name.

    Raises:
        UserError: the file is missing, damaged, or holds no law.
    """
    try:
        record = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"compute_law={path} cannot be read: {error.strerror}; name a JSON file.") from error
    except ValueError as error:
        raise UserError(f"compute_law={path} is not JSON ({error}); mend the file.") from error
    return law_of(record, str(path))


def law_of(record: Any, place: str) -> ComputeLaw:
    """A law from what stands in a file at ``place``.

    Raises:
        UserError: it is none.
    """
    coefficients = ("irreducible", "scale", "exponent")
    if isinstance(record, dict) and _are_pairs(record.get("points")):
        return fit_compute_law([(float(compute), float(loss)) for compute, loss in record["points"]])
    if isinstance(record, dict) and all(_is_number(record.get(name)) for name in coefficients):
        irreducible, scale, exponent = (float(record[name]) for name in coefficients)
        if irreducible >= 0 < scale and exponent > 0:
            return ComputeLaw(irreducible, scale, exponent)
    raise UserError(
        f'{place} holds no law of compute; give {{"points": [[compute, loss], ...]}}, or '
        '{"irreducible": …, "scale": …, "exponent": …} (the last two positive).'
    )


def _are_pairs(points: Any) -> bool:
    return isinstance(points, list) and all(
        isinstance(pair, list) and len(pair) == 2 and all(map(_is_number, pair)) for pair in points
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")
