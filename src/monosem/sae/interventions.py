"""Interventions: what becomes of a latent's value when a person sets it instead of the encoder."""

import math
from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from monosem.errors import UserError
from monosem.sae.codes import Codes

How = Literal["add", "clamp", "ablate", "scale"]
HOWS: tuple[str, ...] = get_args(How)


class Intervention(NamedTuple):
    """A latent's new value at every token: ``add``: z + s; ``clamp``: s; ``ablate``: 0; ``scale``: s · z."""

    how: How
    strength: float = 0.0
    """s, in the latent's own activation units; of ``scale`` a factor. ``ablate`` takes none."""

    def of(self, z: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
        """The new value, given the encoder's."""
        match self.how:
            case "add":
                return z + self.strength
            case "clamp":
                return torch.full_like(z, self.strength)
            case "ablate":
                return torch.zeros_like(z)
            case "scale":
                return z * self.strength


Interventions = Mapping[int, Intervention | float]
"""By latent; a bare number is added."""


def value_changes(codes: Codes, latents: Interventions) -> Float[Tensor, "tokens latents"]:
    """By how much interventions change each token's latents, in the order they are given in.

    A latent that the encoder does not keep has the value 0; it makes no other latent give way.

    Raises:
        UserError: a latent does not exist, or a strength is no finite number, or stands where none is used.
    """
    values, indices = codes.padded()
    changes = values.new_zeros(len(values), len(latents))
    for column, (latent, wanted) in enumerate(latents.items()):
        intervention = wanted if isinstance(wanted, Intervention) else Intervention("add", wanted)
        _check(latent, intervention, codes.n_latents)
        z = values.where(indices == latent, 0).sum(dim=1)
        changes[:, column] = intervention.of(z) - z
    return changes


def _check(latent: int, intervention: Intervention, n_latents: int) -> None:
    how, strength = intervention
    if not 0 <= latent < n_latents:
        raise UserError(f"latent={latent} is out of range; this autoencoder has latents 0 … {n_latents - 1}.")
    if how not in HOWS:
        raise UserError(f"how={how!r} of latent {latent} is unknown; known: {', '.join(HOWS)}.")
    if not math.isfinite(strength):
        raise UserError(f"strength={strength} of latent {latent} is no finite number; give one.")
    if how == "ablate" and strength != 0:
        raise UserError(f"strength={strength} of latent {latent} is not used by 'ablate'; leave it out, or clamp.")
