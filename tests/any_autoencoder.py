"""Initialised autoencoders of every architecture, and of every kind of site, on a tiny subject."""

from typing import Any

import torch
from torch import Tensor

from monosem.sae.architectures import ARCHITECTURES, new_autoencoder
from monosem.sae.autoencoder import Autoencoder
from monosem.sae.config import AutoencoderConfig
from monosem.sae.initialise import InitialiseConfig, initialise
from monosem.sae.site import Site, Widths

KINDS = (*sorted(ARCHITECTURES), "transcoder", "skip", "crosscoder")


def initialised(
    kind: str, site: Site, captured: dict[str, Tensor], generator: torch.Generator, **settings: Any
) -> tuple[Autoencoder, Tensor]:
    """An autoencoder of one of KINDS, initialised on what was captured at its site, and its inputs there."""
    width = {name: each.shape[-1] for name, each in captured.items()}
    architecture = kind if kind in ARCHITECTURES else "topk"
    sparsity = {"k": 4} if "k" in ARCHITECTURES[architecture].settings else {}
    config = AutoencoderConfig(
        architecture=architecture,
        skip=kind == "skip",
        crosscoder=kind == "crosscoder",
        **({"n_latents": 40} | sparsity | settings),
    )
    widths = Widths(tuple(width[name] for name in site.inputs), width[site.target] if site.target else None)
    sae = new_autoencoder(config, widths)
    read, wanted = (each.flatten(0, 1) for each in (site.read(captured), site.wanted(captured)))
    if sae.is_transcoder:
        sae.target_scale.data.fill_(3.0)
    x, y = sae.training_pair(read, wanted)
    initialise(sae, x, InitialiseConfig(), generator, y if sae.is_transcoder else None)
    return sae, x


def scatter(sae: Autoencoder, names: tuple[str, ...], generator: torch.Generator) -> None:
    """Add normal noise of 0.1 to those of the parameters that there are."""
    for name in names:
        if hasattr(sae, name):
            parameter = getattr(sae, name)
            parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
