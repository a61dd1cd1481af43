"""Two dictionaries of one space: for each latent the nearest ones of the other, by the cosine of decoder rows."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from monosem.errors import UserError
from monosem.runlog import ProgressLine
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.storage import load_autoencoder
from monosem.viewer.query import LARGEST_NUMBER, require_between
from monosem.viewer.reading import Library
from monosem.viewer.records import Record

if TYPE_CHECKING:
    from rich.console import Console

NEAREST = 3
PAGE_LIMIT = 100
BLOCK = 2048
"""Rows of each dictionary in one product: 16 MB of cosines at a time."""


@dataclass(frozen=True, kw_only=True)
class ComparisonQuery:
    """Which latents of which side are shown."""

    side: Literal["run", "other"] = "run"
    """Whose latents, each with its nearest ones of the other side."""
    order: Literal["similar", "different", "number"] = "similar"
    """Nearest of all first, or last; or by number."""
    offset: int = 0
    """Latents passed over."""
    limit: int = 50
    """Latents in the answer."""

    def __post_init__(self) -> None:
        require_between("offset", self.offset, 0, LARGEST_NUMBER)
        require_between("limit", self.limit, 1, PAGE_LIMIT)


class Nearest(NamedTuple):
    """Of each latent its nearest ones in another dictionary, nearest first."""

    latents: Int[Tensor, "n_latents nearest"]
    """−1 where the other has fewer."""
    cosines: Float[Tensor, "n_latents nearest"]
    """Of decoder rows; 0 with a row of zeros."""


class Side(NamedTuple):
    """One of two dictionaries."""

    library: Library
    nearest: Nearest
    """In the other."""

    @property
    def name(self) -> str:
        """The run's."""
        return self.library.name


@dataclass(frozen=True)
class Comparison:
    """Two dictionaries side by side."""

    run: Side
    other: Side

    def page(self, query: ComparisonQuery) -> Record:
        """Some latents of a side with their nearest ones, and whether there are more."""
        order = self._orders[query.side][query.order]
        chosen = order[query.offset : query.offset + query.limit].tolist()
        return {
            "run": self.run.name,
            "other": self.other.name,
            "of": len(order),
            "latents": self.records(query.side, chosen),
            "more": query.offset + query.limit < len(order),
        }

    def records(self, side: Literal["run", "other"], latents: Sequence[int]) -> list[Record]:
        """These latents of a side, each with its nearest ones."""
        own, other = (self.run, self.other) if side == "run" else (self.other, self.run)
        known = own.library.summaries(latents)
        chosen = torch.tensor(list(latents), dtype=torch.long)
        found, cosines = own.nearest.latents[chosen].tolist(), own.nearest.cosines[chosen].tolist()
        named = other.library.summaries({latent for row in found for latent in row if latent >= 0})
        return [
            {
                "latent": latent,
                "label": known[latent]["label"],
                "density": known[latent]["density"],
                "nearest": [
                    {"latent": near, "similarity": round(cosine, 6), "label": named[near]["label"]}
                    for near, cosine in zip(*row, strict=True)
                    if near >= 0
                ],
            }
            for latent, row in zip(latents, zip(found, cosines, strict=True), strict=True)
        ]

    @functools.cached_property
    def _orders(self) -> dict[str, dict[str, np.ndarray]]:
        orders: dict[str, dict[str, np.ndarray]] = {}
        for name, side in (("run", self.run), ("other", self.other)):
            nearest = side.nearest.cosines[:, 0].numpy()
            similar, different = (np.argsort(sign * nearest, kind="stable") for sign in (-1, 1))
            orders[name] = {"similar": similar, "different": different, "number": np.arange(len(nearest))}
        return orders


def compare_runs(
    run: Path, other: Path, library: Library, other_library: Library, console: "Console | None" = None
) -> Comparison:
    """The nearest latents of two runs' dictionaries, in both directions.

    Args:
        library: the index of ``run``; it has the labels.
        other_library: that of ``other``.
        console: where progress is shown.

    Raises:
        UserError: an autoencoder is missing or damaged, they do not write to the same space, or an index is not of
            its autoencoder.
    """
    first, second = load_autoencoder(run), load_autoencoder(other)
    _require_same_space(run, first, other, second)
    for directory, sae, index in ((run, first, library), (other, second, other_library)):
        if index.n_latents != sae.n_latents:
            raise UserError(
                f"The index of {directory} has {index.n_latents:,} latents and its autoencoder {sae.n_latents:,}; "
                f"make it again with: monosem view --again {directory}"
            )
    if console is None:
        nearest = nearest_rows(first.W_dec.detach(), second.W_dec.detach())
    else:
        with ProgressLine("Comparing", first.n_latents, console, unit="latents", transient=True) as line:
            nearest = nearest_rows(first.W_dec.detach(), second.W_dec.detach(), report=line.update)
    return Comparison(Side(library, nearest[0]), Side(other_library, nearest[1]))


def _require_same_space(run: Path, first: Autoencoder, other: Path, second: Autoencoder) -> None:
    for directory, sae in ((run, first), (other, second)):
        if sae.provenance is None:
            raise UserError(f"{directory} does not say which activations its autoencoder was trained on.")
    assert first.provenance is not None
    assert second.provenance is not None
    compared = {
        "subject": (first.provenance.model, second.provenance.model),
        "revision of the subject": (first.provenance.revision, second.provenance.revision),
        "hookpoint that it writes to": (
            " + ".join(first.provenance.site.outputs),
            " + ".join(second.provenance.site.outputs),
        ),
        "width": (first.d_target, second.d_target),
    }
    for what, (mine, theirs) in compared.items():
        if mine != theirs:
            raise UserError(
                f"{run} and {other} cannot be compared, for their latents do not write to the same space: the {what} "
                f"is {mine} of one and {theirs} of the other; name runs of one subject and one hookpoint."
            )


def nearest_rows(
    first: Float[Tensor, "n_first d"],
    second: Float[Tensor, "n_second d"],
    count: int = NEAREST,
    *,
    block: int = BLOCK,
    report: Callable[[int], None] | None = None,
) -> tuple[Nearest, Nearest]:
    """Of each row its ``count`` nearest rows of the other matrix, by cosine; of the first matrix, of the second.

    The cosines are made block by block and never kept.
    """
    found = [_nothing_near(len(first), count), _nothing_near(len(second), count)]
    for start in range(0, len(first), block):
        rows = _unit(first[start : start + block])
        for other_start in range(0, len(second), block):
            cosines = rows @ _unit(second[other_start : other_start + block]).T
            _merge(found[0], slice(start, start + block), cosines, other_start)
            _merge(found[1], slice(other_start, other_start + block), cosines.T, start)
        if report is not None:
            report(min(start + block, len(first)))
    return found[0], found[1]


def _nothing_near(n_latents: int, count: int) -> Nearest:
    return Nearest(torch.full((n_latents, count), -1), torch.full((n_latents, count), -torch.inf))


def _unit(rows: Float[Tensor, "some d"]) -> Float[Tensor, "some d"]:
    """Rows of unit length; those of zeros stay."""
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _merge(found: Nearest, rows: slice, cosines: Float[Tensor, "some others"], first_other: int) -> None:
    """Put what is nearer among some others in the place of what was found so far, for some rows."""
    count = found.cosines.shape[1]
    values, others = cosines.topk(min(count, cosines.shape[1]), dim=1)
    values = torch.cat([found.cosines[rows], values.clamp(-1, 1)], dim=1)
    latents = torch.cat([found.latents[rows], others + first_other], dim=1)
    best = values.topk(count, dim=1)
    found.cosines[rows] = best.values
    found.latents[rows] = latents.gather(1, best.indices)
